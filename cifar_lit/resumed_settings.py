"""Which settings of optimizer and schedule a resumed run has: its own, and not its checkpoint's."""

import inspect
import warnings
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from cifar_lit.plain import keep_plain
from cifar_lit.schedules import Plateau


def take_settings(
    resumed: tuple[Optimizer, Any],
    fresh: tuple[Optimizer, LRScheduler | None],
    schedule_states: list[dict[str, Any]],
    unnamed_before: list[dict[str, Any]],
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
        unnamed_before: `unnamed_settings` of the checkpoint's run at its beginning; of older checkpoints none.
        epochs: For which a schedule was stepped.
        steps: That are done, as the schedule counts them.
    """
    optimizer, schedule = resumed
    fresh_optimizer, fresh_schedule = fresh
    if isinstance(schedule, Plateau):
        # Its rate is a result of the run so far, unless another one to begin with is asked for.
        schedule.resume(schedule_states, optimizer, fresh_optimizer)
    elif isinstance(schedule, ReduceLROnPlateau):
        if schedule_states:
            schedule.load_state_dict(schedule_states[0])
        for group, fresh_group in zip(optimizer.param_groups, fresh_optimizer.param_groups, strict=True):
            fresh_group["lr"] = group["lr"]
    elif isinstance(schedule, LRScheduler) and fresh_schedule is not None:
        with warnings.catch_warnings():
            # It is stepped without its optimizer, which the schedule warns of.
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(epochs if getattr(schedule, "interval", "step") == "epoch" else steps):
                fresh_schedule.step()
        schedule.load_state_dict(fresh_schedule.state_dict())
    unnamed = _unnamed(fresh_optimizer)
    for i, (group, fresh_group) in enumerate(zip(optimizer.param_groups, fresh_optimizer.param_groups, strict=True)):
        before = unnamed_before[i] if i < len(unnamed_before) else {}
        # What has changed since is no setting, but what the optimizer has found out.
        found_out = {name for name in unnamed & group.keys() if name not in before or before[name] != group[name]}
        group.update({name: value for name, value in fresh_group.items() if name not in found_out | {"params"}})


def unnamed_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """By group, what an optimizer keeps there that no argument of its class names, where a checkpoint can hold it.

    It may be a setting, as of one that passes its arguments on to another, or its own progress, as Prodigy's estimate
    of the rate.
    """
    names = _unnamed(optimizer)
    found = [{name: group[name] for name in names if name in group} for group in optimizer.param_groups]
    for settings in found:
        keep_plain(settings)
    return found if names else []


def _unnamed(optimizer: Optimizer) -> set[str]:
    kinds = type(optimizer).__mro__
    arguments = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}  # type: ignore[misc]
    # A schedule says what the rate is, whatever the optimizer calls it.
    return optimizer.defaults.keys() - arguments - {"lr"}
