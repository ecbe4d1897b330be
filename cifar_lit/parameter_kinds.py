"""Which parameters are filters, which matrices and which biases: optimizers treat them differently.

- Filters: of three dimensions or more, such as a convolution's, the first of which counts them.
- Biases: one number a channel, such as a layer's scales (C, 1, 1), and all of norms.
- Matrices: all others, of linear layers, be it to or from one unit; position embeddings (1, N, D) and a single filter.
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

NORM = "norm"
"""Key of a group of parameters: true where they are a norm's, which no shape tells."""


def is_filters(parameter: Tensor, group: Mapping[str, Any]) -> bool:
    """Whether a parameter of a group is a layer's filters."""
    return _kind(parameter, group) == "filters"


def is_scale(parameter: Tensor) -> bool:
    """Whether a parameter is one number a channel: (C,), (C, 1, 1) or (1, C, 1, 1).

    A depthwise convolution of 1×1 is too, and has the shape of filters: (C, 1, 1, 1).
    """
    if parameter.ndim <= 2:
        return parameter.ndim < 2
    is_of_filters = parameter.ndim > 3 and len(parameter) > 1
    return not is_of_filters and sum(size > 1 for size in parameter.shape) <= 1


def _kind(parameter: Tensor, group: Mapping[str, Any]) -> Literal["biases", "matrices", "filters"]:
    if group.get(NORM) or is_scale(parameter):
        return "biases"
    return "filters" if parameter.ndim > 2 and len(parameter) > 1 else "matrices"


def groups_by_kind(
    group: Mapping[str, Any],
    biases: dict[str, float],
    matrices: dict[str, float],
    filters: dict[str, float],
    unit: float = 1,
) -> list[dict[str, Any]]:
    """Splits a group into its biases, its matrices and its filters, with the settings of each.

    Args:
        group: Its ``params``, with their names or without, and settings of its own, which go before those below.
        biases: Settings with ``lr`` and, not multiplied by it, ``weight_decay``.
        matrices: The same of these.
        filters: The same of these.
        unit: What rate and decay are divided by.
    """
    split: dict[str, list[Tensor]] = {"biases": [], "matrices": [], "filters": []}
    for member in [group["params"]] if isinstance(group["params"], Tensor) else group["params"]:
        # A name is of no use here.
        parameter = member[1] if isinstance(member, tuple) else member
        split[_kind(parameter, group)].append(parameter)
    groups = []
    for settings, members in zip((biases, matrices, filters), split.values(), strict=True):
        merged = {**settings, **group, "params": members}
        # torch multiplies the decay by the rate.
        decay = merged["weight_decay"] / merged["lr"] if merged["lr"] else 0.0
        merged |= {"lr": merged["lr"] / unit, "weight_decay": decay}
        groups += [merged] if members else []
    return groups
