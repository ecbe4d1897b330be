"""The one exception whose message is meant for the person at the keyboard, checks that raise it, and the way out."""

from numbers import Integral
from typing import Any, get_args

# An environment variable; with it set an error is shown with all that Python knows of it.
TRACEBACK_VARIABLE = "CIFAR_LIT_TRACEBACK"


class UserError(Exception):
    """Something the user can put right. Its message is one line: what is wrong, and what to do about it."""


def check_choice(name: str, value: str, literal: Any) -> None:
    """Holds an argument against the `Literal` that it is declared as, which Python itself does not.

    Raises:
        UserError: It is none of these.
    """
    if value not in get_args(literal):
        raise UserError(f"{name} is {value!r}: give one of {', '.join(get_args(literal))}.")


def check_whole(minimum: int, **settings: int | None) -> None:
    """Sees whether numbers, where they are given, are whole and at least so large.

    Raises:
        UserError: One is not.
    """
    for name, value in settings.items():
        if value is not None and not (isinstance(value, Integral) and value >= minimum):
            raise UserError(f"{name} is {value}: give a whole number of at least {minimum}.")


def check_not_negative(**settings: float) -> None:
    """Sees whether numbers are at least 0; NaN is not.

    Raises:
        UserError: One is not.
    """
    for name, value in settings.items():
        if not value >= 0:
            raise UserError(f"{name} is {value}: give a number of at least 0.")
