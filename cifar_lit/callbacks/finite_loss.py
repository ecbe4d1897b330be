"""Ends a run whose loss is no number any more."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cifar_lit.callbacks.on_host import OnHost
from cifar_lit.errors import UserError
from cifar_lit.stepping import main_group

# Losses of a GPU on their way to the host, at most: it is seldom more than a few steps behind.
PENDING = 64


@dataclass(frozen=True)
class Pending:
    """A loss on its way to the host, and where the run stood."""

    loss: OnHost
    step: int
    learning_rate: float


class FiniteLoss(Callback):
    """Stops a run when its loss is NaN or infinite, and lets no checkpoint be saved after that.

    On a CPU it stops before the loss changes the weights. Training on an NVIDIA GPU never waits for it: the loss is
    looked at when it has arrived, a few steps later. On others each step waits for it.

    Args:
        stop: Stop the run. Otherwise it goes on, whatever comes of it.
    """

    def __init__(self, stop: bool = True) -> None:
        self.stop = stop
        self._pending: deque[Pending] = deque()
        self._group: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the optimizer of a fit before, and losses that were on their way when it ended."""
        self._group = None
        self._pending.clear()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Looks at the loss, float ()."""
        if not self.stop:
            return
        if self._group is None:
            self._group = main_group(trainer.optimizers[0])
        self._pending.append(Pending(OnHost(loss), trainer.global_step + 1, self._group.get("lr", math.nan)))
        while self._pending and (len(self._pending) > PENDING or self._pending[0].loss.arrived):
            self._check_oldest()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits for the last losses."""
        self._check_all()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Waits for all losses so far, and looks at the weights: none that are no numbers are saved."""
        self._check_all()
        # A step may spoil them behind a loss that was still a number.
        weights = [weight.detach() for weight in pl_module.parameters()]
        if self.stop and weights and not torch.stack([weight.isfinite().all() for weight in weights]).all():
            raise UserError(
                f"Weights are no numbers any more behind step {trainer.global_step:,}, and are not saved: lower "
                f"--model.optimizer.lr; --finite_loss.stop=false trains on regardless."
            )

    def _check_all(self) -> None:
        while self._pending:
            self._check_oldest()

    def _check_oldest(self) -> None:
        oldest = self._pending.popleft()
        loss = oldest.loss.value
        if not math.isfinite(loss):
            raise UserError(
                f"The loss is {loss} in step {oldest.step:,}, at a learning rate of {oldest.learning_rate:.3g}: lower "
                "--model.optimizer.lr or begin with a longer warm-up; --finite_loss.stop=false trains on regardless."
            )
