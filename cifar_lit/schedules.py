"""Learning-rate schedules that are told the length of the run, so that no recipe repeats it.

A schedule is called as ``schedule(optimizer, total_steps)``. Its peak is the optimizer's own learning rate: a recipe
states that once. Those of torch whose second argument is a number of steps fit as they are (``CosineAnnealingLR``,
``PolynomialLR``); the rest of what recipes need is here. A schedule moves every step unless its class says
``interval = "epoch"``.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, OneCycleLR, ReduceLROnPlateau

from cifar_lit.errors import UserError, check_not_negative
from cifar_lit.monitor import mode_of


class OneCycle(OneCycleLR):
    """torch's one-cycle policy (Smith and Topin 2017, arXiv:1708.07120) at the optimizer's learning rate.

    Args:
        optimizer: Its learning rate is the peak.
        total_steps: Steps in the run; filled in by the trainer.
        warmup: Fraction of the run in which the rate rises, in (0, 1).
        start_factor: First rate as a fraction of the peak, above 0.
        final_factor: Last rate as a fraction of the peak, at least 0.
        anneal: Shape of rise and fall, ``cos`` or ``linear``.

    Raises:
        UserError: A number is out of its range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup: float = 0.3,
        start_factor: float = 0.04,
        final_factor: float = 4e-6,
        anneal: Literal["cos", "linear"] = "cos",
    ) -> None:
        if not 0 < warmup < 1 or start_factor <= 0 or final_factor < 0:
            raise UserError(
                f"OneCycle has warmup {warmup}, start_factor {start_factor} and final_factor {final_factor}: give "
                "numbers between 0 and 1, above 0, and from 0."
            )
        if warmup * total_steps == 1:
            # torch then divides by the length of the rise, which is none.
            warmup += 0.5 / total_steps
        super().__init__(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=total_steps,
            pct_start=warmup,
            anneal_strategy=anneal,
            # A recipe's momentum stays what it says.
            cycle_momentum=False,
            div_factor=1 / start_factor,
            final_div_factor=start_factor / final_factor if final_factor else math.inf,
        )


class Triangular(LambdaLR):
    """Rises linearly to the optimizer's learning rate, then falls linearly to zero.

    Args:
        optimizer: Its learning rate is the peak.
        total_steps: Steps in the run; filled in by the trainer.
        warmup: Fraction of the run in which the rate rises, in [0, 1).

    Raises:
        UserError: So it is not.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float = 0.2) -> None:
        if not 0 <= warmup < 1:
            raise UserError(f"Triangular has warmup {warmup}: give a number from 0 up to, but not, 1.")
        peak = warmup * total_steps

        def factor(step: int) -> float:
            # Step 0 already moves, and the last step is the last above zero.
            return min((step + 1) / (peak + 1), max(total_steps - step, 0) / (total_steps - peak), 1.0)

        super().__init__(optimizer, factor)


class _ByEpoch(LambdaLR):
    """A rate an epoch, counted from 1, as published tables count."""

    interval = "epoch"

    def __init__(self, optimizer: Optimizer, rate: Callable[[int], float]) -> None:
        super().__init__(optimizer, lambda epoch_from_0: rate(epoch_from_0 + 1))


class InverseTime(_ByEpoch):
    """The optimizer's rate divided by ``1 + decay·epoch`` (epoch from 0), with drops.

    Args:
        optimizer: Its learning rate is that of the first epoch.
        total_steps: Steps in the run; not needed.
        decay: How fast the rate falls, at least 0.
        drops: From which epoch (counted from 1) the rate is multiplied by which factor; a later one replaces an
            earlier one. At least 0.

    Raises:
        UserError: A number is out of its range.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, decay: float, drops: dict[int, float] | None = None
    ) -> None:
        factors = {1: 1.0, **(drops or {})}
        _check_epochs("InverseTime's drops", factors)
        check_not_negative(decay=decay, **_named("drops", factors))
        super().__init__(optimizer, lambda epoch: _in_force(factors, epoch) / (1 + decay * (epoch - 1)))


class StepTable(_ByEpoch):
    """The rates of a table, whatever the optimizer's own.

    Args:
        optimizer: Its learning rate, one for all parameters, is replaced.
        total_steps: Steps in the run; not needed.
        rates: From which epoch (counted from 1) which learning rate holds, at least 0; must name epoch 1, by more than
            0.

    Raises:
        UserError: The table does not say what the first epoch's rate is, a rate is out of its range, or the optimizer
            has several.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, rates: dict[int, float]) -> None:
        if 1 not in rates:
            raise UserError("StepTable's rates do not name epoch 1: give the rate to begin with.")
        if not rates[1] > 0:
            raise UserError(f"StepTable's rate of epoch 1 is {rates[1]}: give a number above 0.")
        _check_epochs("StepTable's rates", rates)
        check_not_negative(**_named("rates", rates))
        if len({group["lr"] for group in optimizer.param_groups}) > 1:
            raise UserError(
                f"StepTable has one rate for all parameters, and {type(optimizer).__name__} has several: give "
                "InverseTime with decay: 0 and drops, which multiplies each."
            )
        for group in optimizer.param_groups:
            group["lr"] = rates[1]
        super().__init__(optimizer, lambda epoch: _in_force(rates, epoch) / rates[1])


class Exponential(ExponentialLR):
    """torch's ExponentialLR, a factor an epoch.

    Args:
        optimizer: Its learning rate is that of the first epoch.
        total_steps: Steps in the run; not needed.
        gamma: Factor from one epoch to the next, at least 0.

    Raises:
        UserError: So it is not.
    """

    interval = "epoch"

    def __init__(self, optimizer: Optimizer, total_steps: int, gamma: float) -> None:
        check_not_negative(gamma=gamma)
        super().__init__(optimizer, gamma)


class Plateau(ReduceLROnPlateau):
    """torch's ReduceLROnPlateau, which lowers the rate when a metric stops improving.

    Args:
        optimizer: Its learning rate is the first.
        total_steps: Steps in the run; not needed.
        monitor: Name of the metric, logged once an epoch.
        mode: Whether it improves by falling (``min``) or by rising (``max``); by default as its name says.
        factor: What the rate is multiplied by, in (0, 1).
        patience: Epochs without improvement that are let pass.
        min_lr: The rate falls no lower.

    Raises:
        UserError: The factor is out of its range.
    """

    interval = "epoch"

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] | None = None,
        factor: float = 0.1,
        patience: int = 10,
        min_lr: float = 0.0,
    ) -> None:
        if not 0 < factor < 1:
            raise UserError(f"Plateau has factor {factor}: give a number between 0 and 1.")
        mode = mode_of(monitor, mode, "Plateau", otherwise="min")
        super().__init__(optimizer, mode=mode, factor=factor, patience=patience, min_lr=min_lr)
        self.monitor = monitor
        self.first_rates = [group["lr"] for group in optimizer.param_groups]

    def resume(self, states: list[dict[str, Any]], resumed: Optimizer, fresh: Optimizer) -> None:
        """Goes on from a checkpoint, but with the settings of this run.

        Args:
            states: Of the checkpoint's schedules.
            resumed: The checkpoint's optimizer, at the rate that its schedule had come to.
            fresh: An optimizer as configured; it gets that rate, if the run is still to begin with the same.
        """
        state = states[0] if states else {}
        if state.get("first_rates") == self.first_rates:
            # The best of another metric, or its worst, is none.
            same = (state["monitor"], state["mode"]) == (self.monitor, self.mode)
            judged = ("best", "num_bad_epochs", "cooldown_counter") if same else ()
            for name in (*judged, "last_epoch", "_last_lr"):
                setattr(self, name, state[name])
            for group, resumed_group in zip(fresh.param_groups, resumed.param_groups, strict=True):
                group["lr"] = resumed_group["lr"]


def _named(name: str, table: dict[int, float]) -> dict[str, float]:
    """The entries of a table, each by the name that it has in a message."""
    return {f"{name}[{epoch}]": value for epoch, value in table.items()}


def _check_epochs(name: str, table: dict[int, float]) -> None:
    """Refuses an epoch that there is not: what is said of it would never hold."""
    if min(table) < 1:
        raise UserError(f"{name} name epoch {min(table)}: the first epoch is 1.")


def _in_force(table: dict[int, float], epoch: int) -> float:
    """The entry with the largest epoch that is not past this one."""
    return table[max(start for start in table if start <= epoch)]
