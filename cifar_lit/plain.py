"""Settings that a checkpoint can hold as data: an object would make a pickle of it, which nobody loads unseen."""

from collections.abc import MutableMapping
from pathlib import PurePath
from typing import Any

import numpy as np


def class_path_of(thing: object) -> str:
    """The import path of an object's class."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def with_plain_values(value: Any) -> Any:
    """A setting, with Python's numbers in the place of NumPy's, such as those of a sweep, and the text of a path."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PurePath):
        return str(value)
    if type(value) in (list, tuple):
        return type(value)(map(with_plain_values, value))
    if type(value) is dict:
        return {key: with_plain_values(part) for key, part in value.items()}
    return value


def keep_plain(settings: MutableMapping[str, Any]) -> None:
    """Leaves out of settings what is not plain."""
    for name, value in [*settings.items()]:
        settings[name] = with_plain_values(value)
        if not _is_plain(settings[name]):
            del settings[name]


def _is_plain(value: Any) -> bool:
    """Whether a setting is made of numbers, text, lists and dictionaries only, and not of kinds of their own."""
    if isinstance(value, dict):
        return all(_is_plain(part) for item in value.items() for part in item)
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
