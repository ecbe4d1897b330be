"""Whether a network tells the classes apart that there are, and whether these can be told by their names."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cifar_lit.console import say
from cifar_lit.errors import UserError


def check_classes(model: str, num_classes: int, data: Any, stage: str) -> None:
    """Sees whether a network's number of classes is that of the data; more can be trained, and tables want names.

    Args:
        model: The network's name, for the message.
        num_classes: That it tells apart.
        data: A data module; one without ``num_classes``, or none, is let pass.
        stage: Lightning's: ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        UserError: There are fewer, or more than have names, and these are asked for.
    """
    of_data = getattr(data, "num_classes", None)
    if not isinstance(of_data, int) or of_data == num_classes:
        return
    differ = f"{model} has num_classes {num_classes}, and {type(data).__name__} has {of_data}"
    if num_classes < of_data or stage == "predict":
        raise UserError(
            f"{differ}: let its __init__ take num_classes, which the command line tells it, and hand it on."
        )
    if stage == "fit":
        say(f"{differ}: it trains, but `predict` and `explain` have no names for the others.")


def check_names(data: str, class_names: Sequence[Any]) -> None:
    """Sees whether classes can be told by their names.

    Args:
        data: What has them, for the message.
        class_names: In the order of the labels.

    Raises:
        UserError: A name is no text, or there twice.
    """
    odd = next((name for name in class_names if not isinstance(name, str)), None)
    if odd is not None:
        raise UserError(f"{data}.class_names holds {odd!r}, which is no text: give names such as {str(odd)!r}.")
    twice = next((name for name, count in Counter(class_names).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{data}.class_names has {twice!r} twice: give each class a name of its own.")
