"""Batches made where the data set lives: gathered and augmented on the device, without waiting for it."""

from collections.abc import Sequence

import albumentations as A
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cifar_lit.data.batches import BatchKey
from cifar_lit.data.device_executor import DeviceExecutor
from cifar_lit.errors import UserError


class DeviceBatches(Dataset[tuple[Tensor, Tensor]]):
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

    def __getitem__(self, key: BatchKey) -> tuple[Tensor, Tensor]:
        """A batch: images (n, H, W, 3), uint8 unless a transform makes floats of them, and labels int64 (n,)."""
        indices = torch.from_numpy(key.indices)
        if self.images.is_cuda:
            # Only from page-locked memory is a copy asynchronous.
            indices = indices.pin_memory().to(self.images.device, non_blocking=True)
        images = self.images.index_select(0, indices)
        if self.augment is not None:
            images = self.augment(images, key.seeds, epoch=key.epoch, indices=key.indices)
        return images, self.labels.index_select(0, indices)
