"""Ends a run in good order when it is told to stop."""

import signal
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer

# Steps between two questions to the other ranks whether one of them was told to stop.
STEPS_BETWEEN_QUESTIONS = 10


class Stopped(SystemExit):
    """Ends the process with the exit code that shells expect: 128 and the signal's number.

    Args:
        kind: The signal.
        where: Of the run, in words.
    """

    def __init__(self, kind: signal.Signals, where: str) -> None:
        super().__init__(128 + kind)
        self.reason = f"Stopped by {kind.name} {where}."


class Stops(Callback):
    """On SIGTERM or Ctrl-C, finishes the step and ends the run in a way that lets a checkpoint be saved.

    Lightning ends at once on Ctrl-C, maybe between the halves of a step, and with exit code 0 on SIGTERM. A second
    signal of the same kind ends at once.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens from now on."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._signal = None
        for kind in (signal.SIGTERM, signal.SIGINT):
            self._before[kind] = signal.signal(kind, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)
        # The second one is meant.
        signal.signal(number, self._before[self._signal] or signal.SIG_DFL)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops here, where a step is whole. After an epoch's last one, validation and the next step come first."""
        if trainer.is_last_batch:
            return
        if trainer.world_size > 1:
            if batch_idx % STEPS_BETWEEN_QUESTIONS:
                return
            self._signal = _first_of_all_ranks(self._signal, pl_module.device)
        if self._signal is not None:
            raise Stopped(self._signal, f"in epoch {trainer.current_epoch + 1}, after step {trainer.global_step:,}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back."""
        for kind, handler in self._before.items():
            signal.signal(kind, handler or signal.SIG_DFL)
        self._before = {}


def _first_of_all_ranks(noted: signal.Signals | None, device: torch.device) -> signal.Signals | None:
    """All ranks must stop behind the same step, whichever of them heard the signal."""
    highest = torch.tensor(int(noted or 0), device=device)
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    number = int(highest)
    return signal.Signals(number) if number else None
