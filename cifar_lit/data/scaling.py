"""Which transforms of a list normalise: evaluation applies these, too, and the rest of the list is augmentation."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import albumentations as A

from cifar_lit.errors import UserError

Transform: TypeAlias = A.BasicTransform | A.BaseCompose

_SCALING = (A.Normalize, A.ToFloat)


def scaling_of(transforms: Sequence[Transform]) -> list[A.BasicTransform]:
    """Those that normalise, of a list for training images; what `FromFloat` takes back again does not count.

    Raises:
        UserError: One is within a composition, where evaluation could not tell it from augmentation.
    """
    for transform in transforms:
        if isinstance(transform, A.BaseCompose) and _normalising([*_within(transform)]):
            raise UserError(
                f"Take Normalize and ToFloat out of {type(transform).__name__}: they stand in the list itself, since "
                "evaluation needs them, too."
            )
    return _normalising(transforms)


def _normalising(transforms: Sequence[Transform]) -> list[A.BasicTransform]:
    back = [i for i, transform in enumerate(transforms) if isinstance(transform, A.FromFloat)]
    return [one for one in transforms[back[-1] if back else 0 :] if isinstance(one, _SCALING)]


def _within(composition: A.BaseCompose) -> Iterable[Transform]:
    for one in composition.transforms:
        yield one
        if isinstance(one, A.BaseCompose):
            yield from _within(one)
