"""Handwritten digits that come inside scikit-learn: real images for a first run without a network."""

from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.images import Images, stratified_split

# The scans have 17 grey levels.
SCAN_MAX = 16
IMAGE_SIZE = 32
TEST_SHARE = 0.2


class DigitsDataModule(ImageDataModule):
    """1,797 scans of handwritten digits (Alpaydin and Kaynak 1998), 8×8 and enlarged to 32×32 RGB; 359 are for testing.

    Args:
        val_size: Training images held out for validation, stratified: a number, or below 1 a share; 0 validates on
            the test split.
        **kwargs: Those of `ImageDataModule`.
    """

    def __init__(self, val_size: int | float = 0.2, **kwargs: Any) -> None:
        super().__init__(val_size=val_size, **kwargs)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The ten digits."""
        return tuple("0123456789")

    def load(self, split: Literal["train", "test"]) -> Images:
        """The same four fifths for training and one fifth for testing every time."""
        pixels, labels = _enlarged()
        train, test = stratified_split(labels, TEST_SHARE, seed=0)
        indices = train if split == "train" else test
        return Images(pixels[indices], labels[indices])


@cache
def _enlarged() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All scans, uint8 (1797, 32, 32, 3), and their labels."""
    # Here, because it takes a tenth of a second that other data sets can do without.
    from sklearn.datasets import load_digits

    digits = load_digits()
    scans = np.rint(digits.images * (255 / SCAN_MAX)).astype(np.uint8)
    images = [Image.fromarray(scan).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC) for scan in scans]
    return np.stack([np.asarray(image.convert("RGB")) for image in images]), digits.target.astype(np.int64)
