"""The schedule of a run: made for its length, and told what it monitors."""

import inspect
import math
import traceback
from collections import Counter
from collections.abc import Callable, Mapping

from pytorch_lightning import Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from cifar_lit.errors import UserError
from cifar_lit.monitor import is_of_validation
from cifar_lit.stepping import NO_LENGTH, check_length

OTHERS = (
    "give OneCycle, Triangular, InverseTime, StepTable, Exponential, Plateau, CosineAnnealingLR, PolynomialLR or one "
    "of your own"
)
ScheduleCallable = Callable[[Optimizer, int], LRScheduler]


def new_schedule(make: ScheduleCallable, optimizer: Optimizer, trainer: Trainer) -> LRScheduler:
    """The schedule of a run.

    Args:
        make: Makes it, given optimizer and number of steps.
        optimizer: Whose rate it is to move.
        trainer: Knows the run's length.

    Raises:
        UserError: The run's length is not known and is needed, or the schedule is none that is called so.
    """
    # A run of no steps is one, too, and asks no schedule for a rate.
    steps = trainer.estimated_stepping_batches if trainer.limit_train_batches else 0
    # -1 for epochs of data without a length.
    known = 0 <= steps < math.inf
    steps = max(int(steps), 1) if known else 1
    try:
        schedule = make(optimizer, steps)
    except (TypeError, ValueError) as error:
        of_torch = inspect.getfile(LRScheduler)
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        # MultiStepLR counts. Other schedules are their authors' to mend.
        if of_torch not in files or files[-1] not in (of_torch, inspect.getfile(Counter)):
            raise
        raise UserError(
            f"With the run's number of steps, torch's schedule cannot be made ({error}): {OTHERS}."
        ) from error
    is_plateau = isinstance(schedule, ReduceLROnPlateau)
    by_steps = not is_plateau and getattr(schedule, "interval", "step") == "step"
    if by_steps:
        check_length(trainer)
    if not known and by_steps:
        raise UserError(f"A schedule {NO_LENGTH}")
    if is_plateau and not hasattr(schedule, "monitor"):
        raise UserError(f"{type(schedule).__name__} has no `monitor`, the name of a metric: give Plateau.")
    if known and not _takes_the_number_of_steps(schedule, steps):
        raise UserError(f"{type(schedule).__name__} does not take the run's number of steps: {OTHERS}.")
    return schedule


def _takes_the_number_of_steps(schedule: LRScheduler, total_steps: int) -> bool:
    """Whether a schedule, called as ``class(optimizer, total_steps)``, did not take the number for something else."""
    if not type(schedule).__module__.startswith("torch."):
        return True  # whoever writes one knows how it is called
    second = list(inspect.signature(type(schedule)).parameters)[1:2]
    if not second or second[0] in ("total_steps", "total_iters", "T_max"):
        return True
    # A rate is kept elsewhere.
    rates = {group.get(second[0]) for group in schedule.optimizer.param_groups}
    rates |= {*schedule.base_lrs} if second[0] == "base_lr" else set()
    return total_steps not in (getattr(schedule, second[0], None), *rates)


def tell(schedule: ReduceLROnPlateau, metrics: Mapping[str, Tensor], validation_is_due: bool) -> None:
    """Steps a schedule on what an epoch logged.

    Args:
        schedule: `Plateau`, or another one with the attribute ``monitor``.
        metrics: All that is logged, by name.
        validation_is_due: There was no validation in this epoch, but there will be in a later one: ``val/…`` is that of
            an earlier epoch, or is not there yet.

    Raises:
        UserError: Nothing logs the metric.
    """
    monitor = schedule.monitor  # type: ignore[attr-defined]
    if validation_is_due and (is_of_validation(monitor) or monitor not in metrics):
        return
    if monitor not in metrics:
        raise UserError(
            f"{type(schedule).__name__} monitors {monitor!r}, which nothing logs: give one of {sorted(metrics)} with "
            "--model.schedule.init_args.monitor."
        )
    schedule.step(metrics[monitor].item())


def validates_later(trainer: Trainer) -> bool:
    """Whether a run validates, if not in every epoch."""
    every, epochs = trainer.check_val_every_n_epoch or 1, trainer.max_epochs
    # Before the first time nobody has asked for the images.
    has_images = trainer.enable_validation and (not trainer.num_val_batches or sum(trainer.num_val_batches) > 0)
    return has_images and (epochs is None or epochs == -1 or every <= epochs)
