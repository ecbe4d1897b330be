"""Curves beside the metrics: learning rate, images a second, and the run's settings with its final figures."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from cifar_lit.callbacks.on_host import OnHost
from cifar_lit.logger import CurvesLogger, tensorboard_of
from cifar_lit.stepping import loss_of_batch, main_group


class _Moment:
    """When a device has done what it was given so far: a GPU is many steps behind the host.

    Args:
        device: A CPU by default.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._time = time.perf_counter()
        self._event: torch.cuda.Event | None = None
        if device is not None and device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._event.record()

    def since(self, before: "_Moment") -> float:
        """Seconds between two moments. On a GPU it waits until the second one has come."""
        if self._event is None or before._event is None:
            return self._time - before._time
        self._event.synchronize()
        return float(before._event.elapsed_time(self._event)) / 1000


class Curves(Callback):
    """Logs ``run/learning_rate`` of steps, ``run/images_per_second`` once an epoch, and settings with final metrics.

    Within an epoch it never waits for a GPU. Steps are counted from 0, as Lightning counts those of its metrics.

    Args:
        step_loss: Also log the loss of single batches, every ``trainer.log_every_n_steps``, as ``train/step_loss``.
    """

    def __init__(self, step_loss: bool = False) -> None:
        self.step_loss = step_loss
        # The loss that was last asked for, until it is logged, and its step.
        self._loss: tuple[OnHost, int] | None = None
        # A step to log and its rate: the schedule has moved on when the step is over.
        self._step: tuple[int, float] | None = None
        self._images = 0
        self._started = _Moment()
        self._ended: _Moment | None = None
        # When validation began, until the next batch, and each time that it took within the epoch.
        self._paused: _Moment | None = None
        self._pauses: list[tuple[_Moment, _Moment]] = []
        self._epoch_ends = False
        #: Of the last finished training epoch, over all devices; None before.
        self.images_per_second: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock, also of a run that goes on in the middle of an epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._images, self._started, self._ended = 0, _Moment(pl_module.device), None
        self._paused, self._pauses = None, []
        self._epoch_ends = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes how long validation within an epoch took, with all that was drawn of it."""
        if self._paused is not None:
            self._pauses.append((self._paused, _Moment(pl_module.device)))
            self._paused = None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Notes the learning rate now and then, before the schedule moves on."""
        step, every = trainer.global_step + 1, trainer.log_every_n_steps  # type: ignore[attr-defined]
        # 0 is never, as for Lightning.
        if every and step % every == 0 and (group := main_group(trainer.optimizers[0])):
            self._step = step, group["lr"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts images, logs now and then, and stops the clock behind the epoch's last batch."""
        self._images += _count(batch)
        # Here and not at the epoch's end: validation runs in between.
        self._ended = _Moment(pl_module.device) if trainer.is_last_batch else None
        if self._step is not None:
            step, rate = self._step
            self._step = None
            self._log(trainer, {"run/learning_rate": rate}, step)
            if self.step_loss and (loss := loss_of_batch(trainer, outputs)) is not None:
                self._loss = OnHost(loss), step
        if self._loss is not None and (self._loss[0].arrived or trainer.is_last_batch):
            number, of_step = self._loss
            self._log(trainer, {"train/step_loss": number.value}, of_step)
            self._loss = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock of an epoch that ends before its last batch; if it does not, the next batch takes it back."""
        self._paused = self._paused or _Moment(pl_module.device)
        self._ended = self._ended or self._paused

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the throughput."""
        self._epoch_ends = True
        if self._images:
            # Stopped without a validation, it has come straight from the last batch.
            ended = self._ended or _Moment(pl_module.device)
            seconds = ended.since(self._started) - sum(after.since(before) for before, after in self._pauses)
            self.images_per_second = self._images * trainer.world_size / seconds
            self._log(trainer, {"run/images_per_second": self.images_per_second}, trainer.global_step)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Has everything on disk that a run which goes on from this checkpoint will not log again.

        Lightning logs an epoch's figures behind the checkpoint of its end: a run that dies in between would lack them.
        """
        for logger in trainer.loggers:
            if isinstance(logger, CurvesLogger):
                if self._epoch_ends:
                    figures = trainer._logger_connector.metrics["log"]
                    step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
                    logger.log_metrics({name: float(value) for name, value in figures.items()}, step)
                logger.save()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the settings with what they led to, for TensorBoard's HPARAMS page."""
        logger = tensorboard_of(trainer)
        if logger is not None and not trainer.interrupted:
            data = getattr(trainer, "datamodule", None)
            settings = {"model": _shown(pl_module.hparams), "data": _shown(data.hparams) if data is not None else {}}
            results = {f"results/{name}": float(v) for name, v in trainer.callback_metrics.items() if "/" in name}
            logger.log_hyperparams(settings, results)

    @staticmethod
    def _log(trainer: Trainer, metrics: dict[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step - 1)


def _count(batch: Any) -> int:
    """Images in a batch, if it is one of ours: a tensor of images and others beside it."""
    first = batch[0] if isinstance(batch, (list, tuple)) and batch else None
    return len(first) if isinstance(first, torch.Tensor) and first.ndim else 0


def _shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as people know them: the class that was named, and not how Lightning makes it again."""
    return {name.removeprefix("_"): value for name, value in settings.items() if name != "_instantiator"}
