"""Averages of the weights over training steps: an exponential moving average, and Lookahead.

What is validated, checkpointed and left behind at the end is the average; training goes on from the live weights.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cifar_lit.console import say
from cifar_lit.errors import UserError
from cifar_lit.stepping import check_due, check_length


class _WeightAverage(Callback, ABC):
    """Keeps an average of all floating-point weights: parameters, and buffers such as BatchNorm's statistics.

    Integer buffers are those of the live weights. A checkpoint's ``state_dict`` is the average, so that whoever loads
    it gets that; the live weights are in the callback's own part, from which a resumed run goes on to the bit, also one
    without an average. Before averaging begins, checkpoint and validation have the live weights. Commands that only
    evaluate are left alone.

    On several devices each computes the same average of the parameters; buffers are, as ever, each device's own.

    Args:
        start: Share of the run after which averaging begins, in [0, 1).
        every_n_steps: Optimizer steps from one update to the next, at least 1.

    Raises:
        UserError: An argument is out of its range; at the start of a fit, something that excludes averaging.
    """

    def __init__(self, start: float, every_n_steps: int) -> None:
        if not 0 <= start < 1:
            raise UserError(f"start is {start}: give the share of the run to wait, from 0 up to, but not, 1.")
        if every_n_steps < 1:
            raise UserError(f"every_n_steps is {every_n_steps}: give 1 or more.")
        self.start = start
        self.every_n_steps = every_n_steps
        self._reset()

    def _reset(self) -> None:
        self._weights: dict[str, Tensor] = {}  # The module's own tensors.
        self._average: dict[str, Tensor] = {}  # Empty until averaging begins.
        self._live: dict[str, Tensor] = {}  # The live weights, while the module holds the average.
        self._updates = 0
        self._step = 0
        # By how much the schedule's count of steps is ahead: see `ResumableModule`.
        self._ahead = 0

    @abstractmethod
    def _update(self, step: int) -> None:
        """Takes the live weights in, after an optimizer step counted from 1 as the schedule counts."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets an earlier run, and refuses what would save or average something else than is meant."""
        self._reset()
        if stage != "fit":
            return
        check_length(trainer)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(callback, _WeightAverage) for callback in callbacks) > 1:
            raise UserError("EMA and Lookahead both put an average in the place of the weights: give one, and once.")
        if any(getattr(callback, "save_weights_only", False) for callback in trainer.checkpoint_callbacks):
            # Lightning then asks no callback, and the file would hold the live weights.
            raise UserError(
                f"A checkpoint of weights only would lack {type(self).__name__}: leave save_weights_only out."
            )

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes over average and live weights, for `on_train_start`; the module has the average by now."""
        own = checkpoint["callbacks"].get(self.state_key)
        if own is not None:
            self._updates, self._live = own["updates"], own["live"]
            self._average = {name: checkpoint["state_dict"][name] for name in self._live}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the weights, which are on their device only now, and learns the length of the run."""
        total = trainer.estimated_stepping_batches
        if math.inf in (total, trainer.num_training_batches):
            raise UserError(
                f"{type(self).__name__} needs the length of the run and of an epoch: give --trainer.max_epochs or "
                "--trainer.max_steps, and data that have a length."
            )
        self._total_steps, self._first_step = int(total), math.ceil(self.start * total)
        self._step = trainer.global_step
        self._ahead = getattr(pl_module, "steps_ahead", 0)
        self._first_step -= self._ahead
        name = type(self).__name__
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            check_due(name, self.every_n_steps, self._first_step, self._total_steps - self._ahead)
        self._weights = {
            name: weight
            for name, weight in pl_module.state_dict(keep_vars=True).items()
            if isinstance(weight, Tensor) and weight.is_floating_point()
        }
        if self._average:
            # In the layout of the weights: another one may round differently.
            restored, self._average = self._average, self._copies()
            _copy(restored, self._average)
            self._show_live()
        if self._average and self._step < self._first_step:
            self._average, self._updates = {}, 0
            say(f"{name}: this run averages from step {self._first_step} on; the checkpoint's average is dropped.")
        elif not self._average and self._step > self._first_step:
            say(f"{name}: the checkpoint has no average of this kind: it begins with the checkpoint's weights.")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Updates the average, where the optimizer has taken a step: a batch may only add to the gradients."""
        step = trainer.global_step
        if step > self._step and step >= self._first_step and step % self.every_n_steps == 0:
            self._update(step + self._ahead)
        self._step = step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the average into the module."""
        self._show_average()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the live weights back."""
        self._show_live()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Puts the live weights back, should validation have ended this way."""
        self._show_live()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the average in the module."""
        self._show_average()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets go of everything: from now on the module's weights are what they are."""
        self._reset()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Makes the average the checkpoint's weights, and keeps the live ones beside them."""
        if self._average:
            weights = checkpoint["state_dict"]
            live = self._live or {name: weights[name] for name in self._average}
            checkpoint["callbacks"][self.state_key] = {"updates": self._updates, "live": live}
            weights.update(self._average)

    @torch.no_grad()
    def _copies(self) -> dict[str, Tensor]:
        """The weights as they are now, in at least 32 bits: in 16, small shares of a difference are lost."""
        return {
            name: weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)
            for name, weight in self._weights.items()
        }

    @torch.no_grad()
    def _pull(self, share: float) -> None:
        """Moves the average by a share of the way to the weights, without waiting for the device."""
        average = list(self._average.values())
        weights = [weight.to(mean.dtype) for weight, mean in zip(self._weights.values(), average, strict=True)]
        torch._foreach_lerp_(average, weights, share)

    def _show_average(self) -> None:
        if self._average and not self._live:
            self._live = {name: weight.detach().clone() for name, weight in self._weights.items()}
            _copy(self._average, self._weights)

    def _show_live(self) -> None:
        # Before a resumed run begins, also in its sanity check, the module has the average, as it was loaded.
        if self._live and self._weights:
            _copy(self._live, self._weights)
            self._live = {}


class EMA(_WeightAverage):
    """Trains as ever, and keeps an exponential moving average of the weights, which often generalises better.

    The half-life is in epochs, so that it means the same whatever the batch size (Busbridge et al. 2023,
    arXiv:2307.13813) and ``every_n_steps``. Where the learning rate falls to zero, the last steps are close together
    and a short half-life is right: a long one holds on to weights from when the rate was high. Until the average has
    lasted as long as it looks back, it is the plain mean of all weights so far, not mainly the first ones.

    Args:
        half_life: Epochs after which a step's weights count half, above 0. ``.inf`` counts all steps alike, for a rate
            that stays high (Izmailov et al. 2018, arXiv:1803.05407).
        start: Share of the run after which averaging begins, in [0, 1).
        every_n_steps: Optimizer steps from one update to the next, at least 1.

    Raises:
        UserError: An argument is out of its range.
    """

    def __init__(self, half_life: float = 1.0, start: float = 0.67, every_n_steps: int = 1) -> None:
        if not half_life > 0:
            raise UserError(f"half_life is {half_life}: give a number of epochs above 0.")
        super().__init__(start, every_n_steps)
        self.half_life = half_life

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Turns epochs into steps."""
        super().on_train_start(trainer, pl_module)
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        self._share = 1 - 0.5 ** (self.every_n_steps / (self.half_life * steps_per_epoch))

    def _update(self, step: int) -> None:
        self._updates += 1
        if self._average:
            self._pull(max(self._share, 1 / self._updates))
        else:
            self._average = self._copies()


class Lookahead(_WeightAverage):
    """Pulls the weights back now and then: "k steps forward, 1 step back" (Zhang et al. 2019, arXiv:1907.08610).

    Every few steps slow weights move towards the live ones, and the live ones go on from there. As in the fastest
    scripts for CIFAR-10 (Jordan 2024, arXiv:2404.00498) the slow weights keep a share that grows over the run,
    ``decay**every_n_steps · (step / steps)³``: nothing at first, most of themselves at the end.

    Args:
        decay: Share that the slow weights keep of themselves at the end of the run, a step, in [0, 1).
        every_n_steps: Optimizer steps from one pull to the next, at least 1.

    Raises:
        UserError: An argument is out of its range.
    """

    def __init__(self, decay: float = 0.95, every_n_steps: int = 5) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"decay is {decay}: give a number from 0 up to, but not, 1.")
        super().__init__(start=0.0, every_n_steps=every_n_steps)
        self.decay = decay

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins with the slow weights where the live ones are."""
        super().on_train_start(trainer, pl_module)
        self._average = self._average or self._copies()

    def _update(self, step: int) -> None:
        kept = self.decay**self.every_n_steps * (step / self._total_steps) ** 3
        self._pull(1 - kept)
        _copy(self._average, self._weights)


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Copies values in place: optimizer, compiled code and CUDA graphs hold on to the tensors themselves."""
    torch._foreach_copy_(list(target.values()), [source[name] for name in target])
