"""What a resumed run takes from its checkpoint, and what from its settings."""

import warnings
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cifar_lit.schedules import Plateau


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
        steps: That are done.
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
