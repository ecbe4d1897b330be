"""Which transforms of a list normalise: evaluation applies these, too, and the rest of the list is augmentation."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import albumentations as A
import numpy as np

from cifar_lit.console import say
from cifar_lit.errors import UserError

Transform: TypeAlias = A.BasicTransform | A.BaseCompose

_SCALING = (A.Normalize, A.ToFloat)


def scaling_of(transforms: Sequence[Transform]) -> list[A.BasicTransform]:
    """Those that normalise, of a list for training images; what `FromFloat` takes back again does not count.

    Raises:
        UserError: One is within a composition, where evaluation could not tell it from augmentation; or it has means or
            deviations for another number of channels than there are.
    """
    for transform in transforms:
        for name in ("mean", "std") if isinstance(transform, A.Normalize) else ():
            if np.size(getattr(transform, name)) not in (1, 3):
                raise UserError(f"Normalize has {name} {getattr(transform, name)}: give one number, or one a channel.")
        if isinstance(transform, A.BaseCompose) and _normalising([*_within(transform)]):
            raise UserError(
                f"Take Normalize and ToFloat out of {type(transform).__name__}: they stand in the list itself, since "
                "evaluation needs them, too."
            )
    return _normalising(transforms)


def tell_of_another_scaling(learnt: bool | None, given: bool) -> None:
    """Says so where images are normalised by transforms, and a checkpoint's were not; or the other way round.

    Args:
        learnt: Whether the checkpoint's were; None where it does not say.
        given: Whether those of now are.
    """
    if learnt and not given:
        say("The checkpoint's images were normalised by its own transforms, which are not in it: give those, too.")
    elif given and learnt is False:
        say("The transforms normalise, and the checkpoint's did not: leave Normalize and ToFloat out of them.")


def _normalising(transforms: Sequence[Transform]) -> list[A.BasicTransform]:
    back = [i for i, transform in enumerate(transforms) if isinstance(transform, A.FromFloat)]
    return [one for one in transforms[back[-1] if back else 0 :] if isinstance(one, _SCALING)]


def _within(composition: A.BaseCompose) -> Iterable[Transform]:
    for one in composition.transforms:
        yield one
        if isinstance(one, A.BaseCompose):
            yield from _within(one)
