"""What the name of a metric tells: whether it improves by falling or by rising, and of which images it is."""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from pytorch_lightning.callbacks import Callback, EarlyStopping
from torch import Tensor

from cifar_lit.errors import UserError

Mode = Literal["min", "max"]
# Not value_loss.
_OF_VALIDATION = re.compile("val(id(ation)?)?(?![a-z])")
_FALLS, _RISES = ("loss", "error"), ("accuracy", "recall", "precision", "f1")


def mode_of(monitor: str, given: Mode | None, option: str, otherwise: Mode) -> Mode:
    """Which of a metric's values is the best.

    Args:
        monitor: Its name, such as ``val/loss``.
        given: What was asked for, if anything.
        option: What asked for it, for the message.
        otherwise: What it is where nothing was asked for, and the name does not tell.

    Raises:
        UserError: The name tells otherwise: the worst would be taken for the best.
    """
    falls, rises = (any(word in monitor.lower() for word in words) for words in (_FALLS, _RISES))
    right: Mode = "min" if falls else "max" if rises else given or otherwise
    if given not in (None, right):
        raise UserError(f"{option}.mode is {given}, and {monitor} is best at its {right}: give {right}, or no mode.")
    return right


def is_of_validation(metric: str) -> bool:
    """Whether it is, by its name, also in a module of one's own: val/accuracy, val_loss, valid/f1."""
    return _OF_VALIDATION.match(metric) is not None


def check_early_stopping(callbacks: Iterable[Callback]) -> None:
    """Sees whether runs are ended early by what gets worse: of Lightning's own ``mode`` the default is ``min``.

    Raises:
        UserError: They are ended by what gets better.
    """
    for callback in callbacks:
        if isinstance(callback, EarlyStopping):
            given: Mode = "max" if callback.mode == "max" else "min"
            right = mode_of(callback.monitor, None, "EarlyStopping", otherwise=given)
            if right != given:
                raise UserError(
                    f"EarlyStopping would end a run whose {callback.monitor} improves: give "
                    f"--trainer.callbacks.mode={right}."
                )


def holding(metrics: Mapping[str, Tensor], validates: bool) -> dict[str, Tensor]:
    """What was logged before and holds as a run goes on: if it validates no more, ``val/…`` is of other weights."""
    return {name: value for name, value in metrics.items() if validates or not is_of_validation(name)}
