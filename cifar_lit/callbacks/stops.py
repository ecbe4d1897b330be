"""Ends a run in good order when it is told to stop."""

import math
import signal
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer

from cifar_lit.console import say

# Pauses from one question to the other ranks to the next, for whose answer each waits for its GPU.
PAUSES_A_QUESTION = 10


def may_pause(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a run can be saved behind this batch, and go on from there as if nothing had been.

    Not where a step is still gathering gradients, which no checkpoint holds; nor where validation or the epoch's
    figures follow, which the run that goes on would leave out.
    """
    if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
        return False
    across_epochs = trainer.check_val_every_n_epoch is None
    done = (trainer.fit_loop.total_batch_idx if across_epochs else batch_idx) + 1
    # The last question takes the longest.
    is_time = done % (trainer.val_check_batch or math.inf) == 0
    return not (is_time and trainer.fit_loop.epoch_loop._should_check_val_epoch())


def is_time_to_ask(trainer: Trainer, pauses: int) -> bool:
    """Whether it is time to decide something that ranks decide together; one alone always may.

    Args:
        trainer: Knows how many they are.
        pauses: That the run has come to, see `may_pause`: alike on all ranks.
    """
    return trainer.world_size == 1 or pauses % PAUSES_A_QUESTION == 0


def ends_here(trainer: Trainer) -> bool:
    """Whether a run takes no further step: it has taken as many as it may, or its time is over."""
    loop = trainer.fit_loop
    all_taken = loop.max_steps != -1 and trainer.global_step >= loop.max_steps
    return all_taken or (trainer.should_stop and loop._can_stop_early)


class Stopped(SystemExit):
    """Ends the process with the exit code that shells expect: 128 and the signal's number.

    Args:
        kind: The signal.
        where: Of the run, in words.
        between_epochs: Behind all that belongs to an epoch, checkpoints too.
    """

    def __init__(self, kind: signal.Signals, where: str, between_epochs: bool = False) -> None:
        super().__init__(128 + kind)
        self.between_epochs = between_epochs
        self.reason = f"Stopped by {kind.name} {where}."


class Stops(Callback):
    """On SIGTERM or Ctrl-C, finishes the step and ends the run in a way that lets a checkpoint be saved.

    Lightning ends at once on Ctrl-C, maybe between the halves of a step, and with exit code 0 on SIGTERM. A second
    signal of the same kind ends at once.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        #: Whether this run has made a step, behind which there is a checkpoint of an epoch's end.
        self.stepped = False
        self._pauses = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes who listens."""
        self._signal, self.stepped = None, False
        # Lightning would ask before every batch whether rank zero got a SIGTERM, and wait for the device to hear it.
        # This callback gets it instead, and asks seldom.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        if threading.current_thread() is threading.main_thread():
            self._before = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens from now on, in the place of Lightning, which began to only after `on_fit_start`."""
        for kind in self._before:
            signal.signal(kind, self._note)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens, where there was no check before training; says so where epochs end before the steps asked for."""
        if trainer.max_steps > 0 and 0 <= (steps := trainer.estimated_stepping_batches) < trainer.max_steps:
            say(
                f"The run ends behind epoch {trainer.max_epochs}, which is step {steps:,.0f}, and not behind step "
                f"{trainer.max_steps:,}: --trainer.max_epochs=-1 leaves the end to max_steps."
            )
        self.on_sanity_check_start(trainer, pl_module)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)
        # The second one is meant.
        signal.signal(number, self._before[self._signal] or signal.SIG_DFL)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops here, or behind the next batch that allows it. After an epoch's last one validation comes first."""
        self.stepped = True
        # Of several ranks another may have heard the signal.
        if (self._signal is None and trainer.world_size == 1) or not may_pause(trainer, batch_idx):
            return
        self._pauses += 1
        if not is_time_to_ask(trainer, self._pauses):
            return
        if (kind := self._noted(trainer, pl_module)) is not None:
            raise Stopped(kind, f"in epoch {trainer.current_epoch + 1}, after step {trainer.global_step:,}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops between two epochs, where the signal came with the last step or behind it."""
        if self.stepped and (kind := self._noted(trainer, pl_module)) is not None:
            where = f"behind epoch {trainer.current_epoch}, after step {trainer.global_step:,}"
            raise Stopped(kind, where, between_epochs=True)

    def _noted(self, trainer: Trainer, pl_module: LightningModule) -> signal.Signals | None:
        """What was noted here or on another rank."""
        if trainer.world_size > 1:
            self._signal = _first_of_all_ranks(self._signal, pl_module.device)
        return self._signal

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
