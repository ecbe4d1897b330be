"""The one exception whose message is meant for the person at the keyboard, a check that raises it, and the way out."""

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
