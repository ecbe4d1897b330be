"""Batches made where the data set lives: gathered and augmented on the device, without waiting for it."""

import math
from collections.abc import Iterable, Iterator, Sequence

import albumentations as A
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from cifar_lit.data.batches import Batch, BatchKey
from cifar_lit.data.device_executor import DeviceExecutor
from cifar_lit.errors import UserError

# Pixel values that a GPU makes at a time, those of 8,192 images of 32×32. To draw for a batch and to launch its
# operations takes the host about as long whatever its size, and a GPU waits meanwhile.
_GPU_CHUNK = 2**23 * 3


class DeviceBatches(Dataset[Batch]):
    """Keeps a data set on a device and makes its batches there.

    Args:
        images: uint8 (N, H, W, 3).
        labels: int64 (N,).
        transforms: albumentations transforms that the device executor can run.
        run_seed: Decides in which epochs `AlternatingFlip` flips an image.
        device: Where the data set is to live.

    Raises:
        UserError: It does not fit there, or a transform cannot be run.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        transforms: Sequence[A.BasicTransform],
        run_seed: int,
        device: torch.device,
    ) -> None:
        _, height, width, _ = images.shape
        self.augment = DeviceExecutor(transforms, (height, width), run_seed) if transforms else None
        try:
            self.images = torch.from_numpy(images).to(device)
            self.labels = torch.from_numpy(labels).to(device)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{len(images):,} images of {height}×{width} ({images.nbytes / 1e9:.1f} GB) do not fit on "
                f"{device}: take --data.executor=workers."
            ) from error

        # Images that are made at a time, if batches are smaller.
        self.together = max(_GPU_CHUNK // (3 * math.prod(self.output_size)), 1) if self.images.is_cuda else 1

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the images in a batch."""
        return self.augment.output_size if self.augment is not None else (self.images.shape[1], self.images.shape[2])

    def walk(self, keys: Iterable[BatchKey]) -> Iterator[Batch]:
        """The batches of some keys of an epoch, in their order: several are made in one go, the same to the bit."""
        gathered, images = list[BatchKey](), 0
        for key in keys:
            gathered.append(key)
            images += len(key.indices)
            if images >= self.together:
                yield from self._make(gathered)
                gathered, images = [], 0
        if gathered:
            yield from self._make(gathered)

    def _make(self, keys: Sequence[BatchKey]) -> Iterator[Batch]:
        seeds, indices = (np.concatenate([getattr(key, name) for key in keys]) for name in ("seeds", "indices"))
        images, labels = self[BatchKey(keys[0].epoch, keys[0].step, seeds, indices)]
        counts = [len(key.indices) for key in keys]
        return zip(images.split_with_sizes(counts), labels.split_with_sizes(counts), strict=True)

    def __getitem__(self, key: BatchKey) -> Batch:
        """A batch: images (n, H, W, 3), uint8 unless a transform makes floats of them, and labels int64 (n,)."""
        indices = torch.from_numpy(key.indices)
        if self.images.is_cuda:
            # Only from page-locked memory is a copy asynchronous.
            indices = indices.pin_memory()
        indices = indices.to(self.images.device, non_blocking=self.images.is_cuda)
        images = self.images.index_select(0, indices)
        if self.augment is not None:
            images = self.augment(images, key.seeds, epoch=key.epoch, indices=key.indices)
        return images, self.labels.index_select(0, indices)
