"""Augments image by image with albumentations itself: the reference for what a recipe's list means."""

import random
import warnings
from collections.abc import Sequence

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cifar_lit.data.batches import BatchKey
from cifar_lit.errors import UserError

# A misspelt argument only makes albumentations warn and go on with its default: a wrong experiment that looks right.
warnings.filterwarnings("error", message=r"Argument\(s\) .* (are|is) not valid for transform")


class WorkerExecutor(Dataset[tuple[Tensor, Tensor]]):
    """Makes batches in the process that asks for them.

    Args:
        images: uint8 (N, H, W, 3).
        labels: int64 (N,).
        transforms: albumentations transforms, applied to each image in this order. They take and give uint8 or float
            images of one size.
        run_seed: Decides in which epochs `AlternatingFlip` flips an image.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        transforms: Sequence[A.BasicTransform] = (),
        run_seed: int = 0,
    ) -> None:
        # A worker that is forked while one of OpenCV's threads holds a lock finds it locked for ever. Images are too
        # small for threads of its own anyhow.
        cv2.setNumThreads(0)
        self.images = images
        self.labels = labels
        self.run_seed = run_seed
        self.augment = A.Compose(list(transforms)) if transforms else None

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the images in a batch, as the first image comes out."""
        image = self.images[0] if self.augment is None else self._augmented(self.images[0], np.uint64(0), 0, 0)
        return image.shape[0], image.shape[1]

    def __getitem__(self, key: BatchKey) -> tuple[Tensor, Tensor]:
        """A batch: images (n, H, W, 3), uint8 unless a transform makes floats of them, and labels int64 (n,)."""
        images = self.images[key.indices]
        # A rank may have no share of a batch.
        if self.augment is not None and len(images):
            augmented = [
                self._augmented(image, seed, int(index), key.epoch)
                for image, seed, index in zip(images, key.seeds, key.indices, strict=True)
            ]
            if len({image.shape for image in augmented}) > 1:
                raise UserError(
                    "The transforms make images of different sizes, which fit in no batch: give those that change the "
                    "size p: 1."
                )
            images = np.stack(augmented)
            if images.dtype.kind == "f":
                # Some of albumentations' ways to normalise make float64, which no layer takes.
                images = images.astype(np.float32, copy=False)
        return torch.from_numpy(images), torch.from_numpy(self.labels[key.indices])

    def _augmented(self, image: NDArray[np.uint8], seed: np.uint64, index: int, epoch: int) -> NDArray:
        # albumentations' own seeding repeats itself in every worker and epoch. A generator an image costs 11 µs, and
        # makes its augmentation the same in whatever process and on whatever rank it is drawn.
        assert self.augment is not None
        self.augment.set_random_state(np.random.default_rng(seed), random.Random(int(seed)))
        # The alternating flip asks for what comes beside the image; other transforms let it pass.
        augmented: NDArray = self.augment(image=image, index=index, epoch=epoch, run_seed=self.run_seed)["image"]
        if augmented.ndim != 3 or augmented.shape[2] != 3:
            raise UserError(
                f"The transforms make {tuple(augmented.shape)} of an image {image.shape}: leave out what changes the "
                "number of channels."
            )
        return augmented
