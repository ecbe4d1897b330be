"""A horizontal flip that shows every image both ways in any two epochs."""

from typing import Any

import albumentations as A
import numpy as np
from numpy.typing import NDArray

from cifar_lit.data.device.counter_random import seeds_of


def flipped(indices: NDArray[np.int64], epoch: int, run_seed: int) -> NDArray[np.bool_]:
    """Which images are seen mirrored in an epoch.

    Args:
        indices: Of the images in the data set, int64 (n,).
        epoch: Counted from 0.
        run_seed: Decides which half of the images starts mirrored.

    Returns:
        bool (n,).
    """
    # The top bit of a seed of the image's own: it is fixed for the run, and independent of its neighbours'.
    starts_flipped = seeds_of(run_seed, indices) >= 2**63
    return starts_flipped if epoch % 2 == 0 else ~starts_flipped


class AlternatingFlip(A.HorizontalFlip):
    """Flips every image in every second epoch; a coin decides for each image in which one it begins.

    A random flip repeats an image the same way round in half of all pairs of epochs; this one never does, and did
    better wherever flipping helps at all (Jordan 2024, https://arxiv.org/abs/2404.00498).

    It needs to know the image and the epoch. The device executor is told both. albumentations takes them as further
    data beside the image: ``compose(image=image, index=index, epoch=epoch, run_seed=run_seed)``.
    """

    @property
    def targets_as_params(self) -> list[str]:
        """What it needs to be given with the image."""
        return ["index", "epoch", "run_seed"]

    def __init__(self, p: float = 1.0) -> None:
        super().__init__(p=p)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Looks up whether this image is flipped in this epoch."""
        return {"flip": bool(flipped(np.array([data["index"]]), data["epoch"], data["run_seed"])[0])}

    def apply(self, img: NDArray[Any], flip: bool = False, **params: Any) -> NDArray[Any]:
        """Flips the image, or leaves it."""
        result: NDArray[Any] = super().apply(img, **params) if flip else img
        return result
