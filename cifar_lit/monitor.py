"""Whether a metric improves by falling or by rising."""

from typing import Literal

from cifar_lit.errors import UserError

Mode = Literal["min", "max"]
_FALLS, _RISES = ("loss", "error"), ("accuracy", "recall", "precision", "f1")


def mode_of(monitor: str, given: Mode | None, option: str) -> Mode:
    """Which of a metric's values is the best.

    Args:
        monitor: Its name, such as ``val/loss``.
        given: What was asked for, if anything: where the name does not tell, and nothing is given, it is the largest.
        option: What asked for it, for the message.

    Raises:
        UserError: The name tells otherwise: the worst would be taken for the best.
    """
    falls, rises = (any(word in monitor.lower() for word in words) for words in (_FALLS, _RISES))
    if (given == "max" and falls and not rises) or (given == "min" and rises and not falls):
        right = "min" if falls else "max"
        raise UserError(f"{option}.mode is {given}, and {monitor} is best at its {right}: give {right}, or no mode.")
    return given or ("min" if falls and not rises else "max")
