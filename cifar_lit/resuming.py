"""What a resumed run takes from its checkpoint, and what from its settings."""

import math
import warnings
from abc import ABC, abstractmethod
from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cifar_lit.ranks import of_all_ranks
from cifar_lit.schedules import Plateau
from cifar_lit.scores import Scores


def take_settings(
    resumed: tuple[Optimizer, Any],
    fresh: tuple[Optimizer, LRScheduler | None],
    schedule_states: list[dict[str, Any]],
    epochs: int,
    steps: int,
) -> None:
    """Puts the settings of this run in the place of those that a checkpoint brought along.

    A checkpoint holds learning rates, weight decay and the length of its run beside what the optimizer has gathered.
    It gives weights, momentum and progress; the settings are the config's and the command line's.

    Args:
        resumed: Optimizer and schedule, with the checkpoint's state; changed in place.
        fresh: Optimizer and schedule as this run's settings make them.
        schedule_states: Of the checkpoint's schedules.
        epochs: That are done.
        steps: That are done, as the schedule counts them.
    """
    optimizer, schedule = resumed
    fresh_optimizer, fresh_schedule = fresh
    if isinstance(schedule, Plateau):
        # Its rate is a result of the run so far, unless another one to begin with is asked for.
        schedule.resume(schedule_states, optimizer, fresh_optimizer)
    elif isinstance(schedule, LRScheduler) and fresh_schedule is not None:
        with warnings.catch_warnings():
            # It is stepped without its optimizer, which the schedule warns of.
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(epochs if getattr(schedule, "interval", "step") == "epoch" else steps):
                fresh_schedule.step()
        schedule.load_state_dict(fresh_schedule.state_dict())
    for group, fresh_group in zip(optimizer.param_groups, fresh_optimizer.param_groups, strict=True):
        group.update({name: value for name, value in fresh_group.items() if name != "params"})


class ResumableModule(LightningModule, ABC):
    """Goes on from a checkpoint as if nothing had been, where its settings are still the same.

    Attributes:
        train_scores: What is counted over an epoch of training.
    """

    train_scores: Scores

    def __init__(self) -> None:
        super().__init__()
        self._schedule_states: list[dict[str, Any]] = []
        self._scores_before: dict[str, dict[str, Tensor]] = {}
        self._monitored_before: dict[str, Tensor] = {}
        self._came_from: dict[str, int] = {}
        # Whether there was a validation in this epoch.
        self._validated = False

    @abstractmethod
    def new_optimizer_and_schedule(self) -> tuple[Optimizer, LRScheduler | None]:
        """As this run's settings make them."""

    @property
    def steps_of_schedule(self) -> int:
        """Optimizer steps that a run of these settings takes to where this one stands.

        Those that were taken are others where the run was begun with other batches.
        """
        trainer, before, per_epoch = self.trainer, self._came_from, self._steps_per_epoch()
        # Where the run's length is a number of steps, those that were taken are what counts.
        if not before or not per_epoch or trainer.estimated_stepping_batches == trainer.max_steps:
            return trainer.global_step
        return before["steps"] * per_epoch // before["per_epoch"] + trainer.global_step - before["taken"]

    def _steps_per_epoch(self) -> int:
        batches = self.trainer.num_training_batches
        return math.ceil(batches / self.trainer.accumulate_grad_batches) if batches < math.inf else 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what a running epoch has counted so far, on every rank, and what `Plateau` monitors."""
        checkpoint["train_scores"] = of_all_ranks(self.train_scores.so_far())
        checkpoint["validated"] = self._validated
        if self._steps_per_epoch():
            checkpoint["progress"] = {
                "steps": self.steps_of_schedule,
                "per_epoch": self._steps_per_epoch(),
                "batches": int(self.trainer.num_training_batches),
                "taken": self.trainer.global_step,
            }
        metrics = self.trainer.callback_metrics
        for schedule in self.trainer.lr_scheduler_configs:
            if isinstance(schedule.scheduler, Plateau) and schedule.scheduler.monitor in metrics:
                monitor = schedule.scheduler.monitor
                checkpoint["monitored"] = {monitor: metrics[monitor].detach().cpu()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the checkpoint's schedule out of this run's, which may be another: see `on_train_start`."""
        if self._trainer is not None:
            # Where a run's length is a number of steps, Lightning takes an epoch that was over for one that was not,
            # and leaves out the images of the next one.
            self.trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
        self._schedule_states, checkpoint["lr_schedulers"] = checkpoint.get("lr_schedulers", []), []
        scores = checkpoint.get("train_scores", {})
        # Older checkpoints hold those of the first rank alone.
        of_ranks = scores if isinstance(scores, list) else [scores]
        rank = self.trainer.global_rank if self._trainer is not None else 0
        self._scores_before = of_ranks[rank] if rank < len(of_ranks) else {}
        self._monitored_before = checkpoint.get("monitored", {})
        self._came_from = checkpoint.get("progress", {})
        # Of older checkpoints all epochs had one.
        self._validated = checkpoint.get("validated", True)

    def on_train_start(self) -> None:
        """Puts the settings of this run in the place of those that a resumed checkpoint brought along."""
        # Not before: Lightning resets all metrics when a run begins.
        self.train_scores.go_on_from(self._scores_before)
        for name, value in self._monitored_before.items():
            self.trainer.callback_metrics.setdefault(name, value)
        optimizer, schedule = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        if self.trainer.global_step and isinstance(optimizer, Optimizer):
            take_settings(
                (optimizer, schedule),
                self.new_optimizer_and_schedule(),
                self._schedule_states,
                self.trainer.current_epoch,
                self.steps_of_schedule,
            )
        now = self.trainer.num_training_batches
        if self._came_from.get("batches", now) != now < math.inf:
            # The same share of the epoch, as `BatchLoader` goes on, too.
            done = self.trainer.fit_loop.epoch_loop.batch_progress.current
            for count in ("ready", "started", "processed", "completed"):
                setattr(done, count, getattr(done, count) * int(now) // self._came_from["batches"])
