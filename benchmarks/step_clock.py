"""A callback that times the parts of every training step, by the host's clock: for `benchmarks.step_parts`."""

import math
import time
from collections import defaultdict
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile

from cifar_lit.errors import UserError

# Of an epoch: steps that bring it to speed, and how many at its end a profiler watches, at least.
WARM_UP, PROFILED = 5, 10


class StepClock(Callback):
    """Times the parts of every step, by the host's clock, from one hook of Lightning's to the next.

    Attributes:
        seconds: By part, of every step of the last epoch that counts: ``batch`` (fetched and augmented), ``forward``
            (with loss and scores), ``zero_grad``, ``backward``, ``optimizer`` (with gradient clipping, the schedule and
            what callbacks of the recipe, such as EMA, do behind a step; that of others is of the next one's ``batch``).
        made_together: Steps whose batches are made in one go, at the first of them; 1 on a CPU.
        profiled_steps: How many the profiler watched: a multiple of that.
        profiled: What it saw.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.made_together, self.profiled_steps = 1, PROFILED
        self.profiled: Any = None
        self._last = 0.0

    def _took(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part].append(now - self._last)
        self._last = now

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sees to it that there is something to time.

        Raises:
            UserError: An epoch has too few batches, or a step takes several.
        """
        loader: Any = trainer.train_dataloader
        self.made_together = math.ceil(getattr(loader.executor, "together", 1) / loader.plan.batch_size)
        self.profiled_steps = math.ceil(PROFILED / self.made_together) * self.made_together
        if trainer.num_training_batches < WARM_UP + self.made_together + self.profiled_steps:
            raise UserError(
                f"{WARM_UP} steps warm up, {self.made_together} at least count and {self.profiled_steps} are profiled, "
                f"and an epoch has {trainer.num_training_batches}: give more --steps or --images, or larger batches "
                "where several are made at once."
            )
        if trainer.accumulate_grad_batches > 1:
            raise UserError("A step of several batches is not timed in parts: leave accumulate_grad_batches out.")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the epoch before, in which networks are compiled and memory is allotted."""
        self.seconds.clear()
        self._last = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Behind the batch."""
        first = int(trainer.num_training_batches) - self.profiled_steps
        if trainer.current_epoch == (trainer.max_epochs or 0) - 1 and batch_idx == first:
            gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self.profiled = profile(activities=[ProfilerActivity.CPU, *gpu])
            self.profiled.start()
        self._took("batch")

    def on_before_zero_grad(self, *args: Any) -> None:
        """Behind forward."""
        self._took("forward")

    def on_before_backward(self, *args: Any) -> None:
        """Behind zero_grad."""
        self._took("zero_grad")

    def on_after_backward(self, *args: Any) -> None:
        """Behind backward."""
        self._took("backward")

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Behind the optimizer."""
        self._took("optimizer")
        if trainer.is_last_batch and self.profiled is not None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.profiled.stop()
