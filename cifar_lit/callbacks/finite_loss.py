"""Ends a run whose loss is no number any more."""

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cifar_lit.errors import UserError

# Losses of a GPU on their way to the host, at most: it is seldom more than a few steps behind.
PENDING = 64


@dataclass(frozen=True)
class Pending:
    """A loss, float () in the host's memory, that is there once the event has happened."""

    loss: Tensor
    arrived: Any
    step: int
    learning_rate: float


class FiniteLoss(Callback):
    """Stops a run when its loss is NaN or infinite, and lets no checkpoint be saved after that.

    On a CPU it stops before the loss changes the weights. On a GPU, training never waits for it: the loss is looked at
    when it has arrived, a few steps later.

    Args:
        stop: Stop the run. Otherwise it goes on, whatever comes of it.
    """

    def __init__(self, stop: bool = True) -> None:
        self.stop = stop
        self._pending: deque[Pending] = deque()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Looks at the loss, float ()."""
        if not self.stop:
            return
        step, rate = trainer.global_step + 1, trainer.optimizers[0].param_groups[0]["lr"]
        if not loss.is_cuda:
            _check(loss.detach(), step, rate)
            return
        on_host = torch.empty((), dtype=loss.dtype, pin_memory=True).copy_(loss.detach(), non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._pending.append(Pending(on_host, arrived, step, rate))
        while self._pending and (len(self._pending) > PENDING or self._pending[0].arrived.query()):
            self._check_oldest()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Waits for all losses so far: a checkpoint holds no weights that one of them has spoilt."""
        while self._pending:
            self._check_oldest()

    def _check_oldest(self) -> None:
        oldest = self._pending.popleft()
        oldest.arrived.synchronize()
        _check(oldest.loss, oldest.step, oldest.learning_rate)


def _check(loss: Tensor, step: int, learning_rate: float) -> None:
    if not torch.isfinite(loss):
        raise UserError(
            f"The loss is {loss.item()} in step {step:,}, at a learning rate of {learning_rate:.3g}: lower "
            "--model.optimizer.lr or begin with a longer warm-up; --finite_loss.stop=false trains on regardless."
        )
