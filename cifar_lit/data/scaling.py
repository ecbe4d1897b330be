"""Which transforms of a list normalise: evaluation applies these, too, and the rest of the list is augmentation."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import albumentations as A
import numpy as np

from cifar_lit.console import say
from cifar_lit.errors import UserError

Transform: TypeAlias = A.BasicTransform | A.BaseCompose

_SCALING = (A.Normalize, A.ToFloat)


def listed(transforms: Any) -> list[Transform]:
    """Transforms as a list; from Python one transform is given as it is, too, or several in albumentations' Compose.

    Raises:
        UserError: One makes tensors.
    """
    if isinstance(transforms, A.Compose) and transforms.p == 1:
        # What is in it can be run by the device executor, and Normalize there is found.
        transforms = transforms.transforms
    given = [transforms] if isinstance(transforms, A.BasicTransform | A.BaseCompose) else list(transforms or ())
    if any(type(one).__name__.startswith("ToTensor") for one in _all_of(given)):
        raise UserError("Leave ToTensorV2 out of transforms: they take and give NumPy images, tensors come after.")
    return given


def scaling_of(transforms: Sequence[Transform]) -> list[A.BasicTransform]:
    """Those that normalise, of a list for training images; what `FromFloat` takes back again does not count.

    Raises:
        UserError: One is within a composition, where evaluation could not tell it from augmentation; it is left to
            chance; or it has means or deviations for another number of channels than there are.
    """
    for transform in transforms:
        for name in ("mean", "std") if isinstance(transform, A.Normalize) else ():
            if np.size(getattr(transform, name)) not in (1, 3):
                raise UserError(f"Normalize has {name} {getattr(transform, name)}: give one number, or one a channel.")
        if isinstance(transform, _SCALING) and transform.p not in (0, 1):
            raise UserError(f"{type(transform).__name__} has p {transform.p}: give p: 1, for images of one scale.")
        if isinstance(transform, A.BaseCompose) and _normalising([*_all_of(transform.transforms)]):
            raise UserError(
                f"Take Normalize and ToFloat out of {type(transform).__name__}: they stand in the list itself, since "
                "evaluation needs them, too."
            )
    return _normalising(transforms)


def check_floats(scaling: Sequence[Transform]) -> None:
    """Sees to it that batches of floats are those of transforms that evaluation applies, too.

    Raises:
        UserError: There are no such transforms.
    """
    if not scaling:
        raise UserError(
            "The transforms make floats, and evaluation would not: leave that to normalize, or use albumentations' "
            "Normalize or ToFloat."
        )


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


def _all_of(transforms: Iterable[Transform]) -> Iterator[Transform]:
    """These, and those within compositions."""
    for one in transforms:
        yield one
        if isinstance(one, A.BaseCompose):
            yield from _all_of(one.transforms)
