"""A data set in memory, and how it is split."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cifar_lit.errors import UserError


@dataclass(frozen=True)
class Images:
    """Images and their labels.

    Attributes:
        pixels: uint8 (N, H, W, 3), RGB.
        labels: int64 (N,), from 0.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int | tuple[int, int]:
        """Side in pixels, or height and width of images that are not square."""
        _, height, width, _ = self.pixels.shape
        return height if height == width else (height, width)

    def checked(self, source: str, num_classes: int) -> "Images":
        """These, seen to be what they are to be, and in one piece of memory each, as torch wants it.

        Turning BGR to RGB by a slice, say, leaves pixels in none.

        Args:
            source: Where they are from, for messages.
            num_classes: How many classes there are.

        Raises:
            UserError: They are something else.
        """
        pixels, labels = np.asarray(self.pixels), np.asarray(self.labels)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise UserError(f"{source} gives pixels {pixels.dtype} {pixels.shape}: give uint8 (N, H, W, 3).")
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != pixels.shape[:1]:
            raise UserError(
                f"{source} gives labels {labels.dtype} {labels.shape} for {len(pixels)} images: give int64 (N,)."
            )
        if not len(labels):
            raise UserError(f"{source} gives no images: give at least one.")
        if not 0 <= labels.min() <= labels.max() < num_classes:
            raise UserError(
                f"{source} gives labels from {labels.min()} to {labels.max()}: of {num_classes} class names they are "
                f"0 to {num_classes - 1}."
            )
        # Writable, too, or torch warns.
        return Images(np.require(pixels, None, ["C", "W"]), np.require(labels, np.int64, ["C", "W"]))

    def take(self, indices: NDArray[np.int64]) -> "Images":
        """Those at the indices, int64 (n,)."""
        return Images(self.pixels[indices], self.labels[indices])


def stratified_split(
    labels: NDArray[np.int64], held_out: int | float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits so that every class is held out in proportion.

    Args:
        labels: int64 (N,).
        held_out: How many images to hold out, or, below 1, which share of them.
        seed: Decides which.

    Returns:
        Indices of those that stay and of those held out, each in rising order.

    Raises:
        UserError: None would be held out, fewer would stay than there are classes, or ``held_out`` is negative.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    count = 0
    if 0 < held_out <= len(labels) and (held_out < 1 or held_out == int(held_out)):
        count = round(held_out * len(labels)) if held_out < 1 else int(held_out)
    if not 1 <= count <= len(labels) - len(classes):
        raise UserError(
            f"val_size {held_out} does not fit {len(labels)} training images of {len(classes)} classes: "
            "give a share between 0 and 1, or a number, that holds out at least one and leaves one of each class."
        )
    # Largest remainders: the shares of the classes are rounded so that they add up to the count. No class is held out
    # whole, however small.
    exact = sizes * count / len(labels)
    quotas = np.floor(exact).astype(int)
    # Where some classes get none, chance says which: not always the last ones.
    by_chance = np.random.default_rng([seed, len(labels), len(classes)]).permutation(len(classes))
    order = by_chance if quotas.min() == 0 else np.arange(len(classes))
    while quotas.sum() < count:
        quotas[order[np.argmin(np.where(quotas < sizes - 1, quotas - exact, np.inf)[order])]] += 1
    rng = np.random.default_rng([seed, len(labels)])
    held = [
        rng.permutation(np.flatnonzero(labels == label))[:quota] for label, quota in zip(classes, quotas, strict=True)
    ]
    mask = np.zeros(len(labels), dtype=bool)
    mask[np.concatenate(held)] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)
