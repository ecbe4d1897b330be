"""A bar for the running epoch and a line for every finished one."""

import sys
import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from cifar_lit.callbacks.curves import Curves
from cifar_lit.callbacks.on_host import OnHost
from cifar_lit.callbacks.resizing import ProgressiveResizing
from cifar_lit.stepping import loss_of_batch

# Seconds between two looks at the loss.
LOSS_INTERVAL = 0.5
# Metrics that a line has in a form of its own.
SHOWN = {f"{split}/{metric}" for split in ("train", "val") for metric in ("loss", "accuracy")}


def duration(seconds: float) -> str:
    """Seconds in the two largest units that tell: ``42 s``, ``3 min 20 s``, ``1 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {s:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


class EpochProgress(ProgressBar):
    """Shows loss, validation accuracy and the time that the whole run has left.

    Where output is no terminal (a file, a batch system) there is no bar, only the line an epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm[Any] | None = None
        self._loss: OnHost | None = None
        self._loss_read = 0.0
        self._accuracy: float | None = None
        # Whether there was a validation since the last line.
        self._validated = False
        self._started = 0.0
        self._steps_before = 0
        self._unreported: str | None = None

    def enable(self) -> None:
        """Shows from now on."""
        self._enabled = True

    def disable(self) -> None:
        """Shows nothing from now on."""
        self._enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints without breaking the bar."""
        if self._enabled:
            tqdm.write(" ".join(map(str, args)), file=sys.stdout)
            sys.stdout.flush()

    def _open(self, description: str, total: float, done: int = 0) -> None:
        self._close()
        # disable=None: tqdm shows itself on a terminal only.
        self._bar = tqdm(
            desc=description,
            initial=done,
            total=int(total) if total != float("inf") else None,
            unit=" batches",
            leave=False,
            dynamic_ncols=True,
            disable=None if self._enabled else True,
            bar_format="{desc} {percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt}{postfix}",
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _advance(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of the run."""
        self._started, self._steps_before = time.perf_counter(), trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves a line about the epoch before, and opens the bar of this one."""
        self._report(trainer)
        self._unreported = self._epoch_name(trainer)
        self._open(self._unreported, self.total_train_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar; twice a second it also shows a loss, without waiting for the device."""
        if self._bar is None:
            # The run goes on within an epoch, or validation has closed the bar.
            self._unreported = self._unreported or self._epoch_name(trainer)
            self._open(self._unreported, self.total_train_batches, batch_idx)
        self._advance()
        now = time.perf_counter()
        if self._bar is None or self._bar.disable or now - self._loss_read < LOSS_INTERVAL:
            return
        if self._loss is None and (loss := loss_of_batch(trainer, outputs)) is not None:
            self._loss = OnHost(loss)
        if self._loss is not None and not self._loss.arrived:
            return
        self._loss_read = now
        shown = [f"loss {self._loss.value:.3f}"] if self._loss is not None else []
        self._loss = None
        shown += [f"val accuracy {self._accuracy:.2%}"] if self._accuracy is not None else []
        left = self._seconds_left(trainer)
        shown += [f"{duration(left)} left"] if left is not None else []
        self._bar.set_postfix_str(", ".join(shown), refresh=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the last epoch's line."""
        self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        """A line about the finished epoch, once. Its metrics are complete only after every on_train_epoch_end."""
        self._close()
        name, self._unreported = self._unreported, None
        if name is None:
            return
        metrics = trainer.callback_metrics
        parts = []
        # Metrics of an earlier validation are still there.
        for split in ("train", "val") if self._validated else ("train",):
            loss, accuracy = metrics.get(f"{split}/loss"), metrics.get(f"{split}/accuracy")
            parts += [f"{split} loss {loss:.3f}"] if loss is not None else []
            parts += [f"accuracy {accuracy:6.2%}"] if accuracy is not None else []
        # What else a module has asked to be shown; names tell what is of validation.
        for metric, value in sorted(trainer.progress_bar_metrics.items()):
            of_before = metric.startswith("val") and not self._validated
            if metric not in SHOWN and not metric.endswith("_step") and not of_before:
                parts.append(f"{metric.removesuffix('_epoch')} {value:.4g}")
        self._validated = False
        curves = next((c for c in trainer.callbacks if isinstance(c, Curves)), None)  # type: ignore[attr-defined]
        if curves is not None and curves.images_per_second:
            parts.append(f"{curves.images_per_second:,.0f} images/s")
        left = self._seconds_left(trainer)
        parts += [f"{duration(left)} left"] if left else []
        self.print(f"{name}: {', '.join(parts)}")

    def _epoch_name(self, trainer: Trainer) -> str:
        last = trainer.max_epochs
        number = trainer.current_epoch + 1
        return f"Epoch {number:>{len(str(last))}}/{last}" if last and last > 0 else f"Epoch {number}"

    def _seconds_left(self, trainer: Trainer) -> float | None:
        total = trainer.estimated_stepping_batches
        # -1 for epochs of data without a length.
        if not 0 <= total < float("inf") or trainer.global_step <= self._steps_before:
            return None
        # Of a run that goes on with other batches, as many as it had taken with these.
        ahead = getattr(trainer.lightning_module, "steps_ahead", 0)
        # Small images cost less than the whole ones behind them.
        cost = next((c.cost for c in trainer.callbacks if isinstance(c, ProgressiveResizing)), float)  # type: ignore[attr-defined]
        begun, now, end = (cost(step) for step in (self._steps_before + ahead, trainer.global_step + ahead, total))
        return (time.perf_counter() - self._started) / (now - begun) * max(end - now, 0.0)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Opens a bar with the first batch."""
        if self.has_dataloader_changed(dataloader_idx):
            self._open("Validating", self.total_val_batches_current_dataloader)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Moves the bar."""
        self._advance()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the bar."""
        self._close()
        self.reset_dataloader_idx_tracker()
        self._validated = not trainer.sanity_checking
        accuracy = trainer.callback_metrics.get("val/accuracy")
        # Read once: formatting a figure that is on a GPU waits for all that the GPU has to do.
        self._accuracy = None if accuracy is None else float(accuracy)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Opens a bar with the first batch."""
        if self.has_dataloader_changed(dataloader_idx):
            self._open("Testing", self.total_test_batches_current_dataloader)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Moves the bar."""
        self._advance()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the bar."""
        self._close()
        self.reset_dataloader_idx_tracker()

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Opens a bar with the first batch."""
        if self.has_dataloader_changed(dataloader_idx):
            self._open("Predicting", self.total_predict_batches_current_dataloader)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Moves the bar."""
        self._advance()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the bar."""
        self._close()
        self.reset_dataloader_idx_tracker()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the bar, so that the error stands on a line of its own."""
        self._close()
