"""Settings that a checkpoint can hold as data: an object would make a pickle of it, which nobody loads unseen."""

from collections.abc import MutableMapping
from typing import Any

import numpy as np


def keep_plain(settings: MutableMapping[str, Any]) -> None:
    """Leaves out of settings what is not plain, and makes Python's numbers of NumPy's, such as those of a sweep."""
    for name, value in [*settings.items()]:
        value = value.item() if isinstance(value, np.generic) else value
        if _is_plain(value):
            settings[name] = value
        else:
            del settings[name]


def _is_plain(value: Any) -> bool:
    """Whether a value is made of numbers, text, lists and dictionaries only, and not of kinds of their own."""
    if isinstance(value, dict):
        return all(_is_plain(part) for item in value.items() for part in item)
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
