"""Runs a list of albumentations transforms on whole batches, on the device where the images live.

It is the fast one of two executors: albumentations itself, image by image, says what a list means, and this one draws
from the same distributions and moves the same pixels, in a few tensor operations for a batch.

What is random is drawn on the CPU, a few numbers an image, and travels in one asynchronous copy: the same numbers on
every kind of device, and no waiting for the device within a batch.
"""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import cast

import albumentations as A
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar_lit.data.alternating_flip import AlternatingFlip
from cifar_lit.data.device import affine, dropout, geometry, pixels
from cifar_lit.data.device.counter_random import uniforms
from cifar_lit.data.device.geometry import Alternation, Geometric
from cifar_lit.data.device.sampling import Sampling
from cifar_lit.data.device.steps import Floats, PixelStep, Size, Stage, Step, UnsupportedTransformError

# What was drawn for a batch: an array (n, columns) for each step, float64.
Params = list[Floats]

_BUILDERS: dict[type, Callable[..., list[Step]]] = {
    A.HorizontalFlip: geometry.horizontal_flip,
    A.VerticalFlip: geometry.vertical_flip,
    AlternatingFlip: geometry.alternating_flip,
    A.Pad: geometry.pad,
    A.PadIfNeeded: geometry.pad,
    A.RandomCrop: geometry.random_crop,
    A.Affine: affine.affine,
    A.ShiftScaleRotate: affine.affine,
    A.Rotate: affine.rotate,
    A.CoarseDropout: dropout.coarse_dropout,
    A.Erasing: dropout.erasing,
    A.RandomBrightnessContrast: pixels.brightness_contrast,
    A.Normalize: pixels.normalize,
}
_SUPPORTED = ", ".join(kind.__name__ for kind in _BUILDERS)

# Pixel values that a CPU works on at a time, 1.5 MB of them as float32. They stay in its cache, and their memory is
# used again instead of fetched from the system: 512 images of 32×32 took 3.7 ms, and 6 to 9 ms in one piece.
_CPU_CHUNK = 2**17 * 3


def unsupported(transforms: Sequence[A.BasicTransform], image_size: Size) -> str | None:
    """Why the device executor cannot run a list, in one line; None if it can.

    Raises:
        UserError: No executor can run the list on images of this size.
    """
    try:
        DeviceExecutor(transforms, image_size)
    except UnsupportedTransformError as error:
        return str(error)
    return None


class DeviceExecutor:
    """A list of albumentations transforms, as a function of a batch and of its images' seeds.

    Args:
        transforms: Applied in this order. Geometric ones that follow one another become one sampling of the image.
        image_size: Height and width of the images it will be given, in pixels.
        run_seed: Decides in which epochs `AlternatingFlip` flips an image. Everything else comes from the seeds of
            the images.

    Attributes:
        output_size: Height and width of the images it gives.
        steps: What it draws parameters for; a transform that has nothing to do has none, RandomCrop that pads has two.

    Raises:
        UnsupportedTransformError: A transform or an option is beyond it. Albumentations can run it.
        UserError: A transform does not fit images of this size.
    """

    def __init__(self, transforms: Sequence[A.BasicTransform], image_size: Size, run_seed: int = 0) -> None:
        self.image_size = self.output_size = image_size
        self.run_seed = run_seed
        self.steps: list[Step] = []
        normalised = False
        for transform in transforms:
            build = _BUILDERS.get(type(transform))
            if build is None:
                raise UnsupportedTransformError(type(transform).__name__, _SUPPORTED)
            if transform.p == 0:
                continue
            self.steps += build(transform, self.output_size, normalised)
            normalised = normalised or isinstance(transform, A.Normalize)
            if self.steps and isinstance(last := self.steps[-1], Geometric):
                self.output_size = last.out_size
        self.output_dtype = torch.float32 if normalised else torch.uint8
        self._stages = _fuse(self.steps)

    def __call__(
        self,
        images: Tensor,
        seeds: NDArray[np.uint64],
        *,
        epoch: int = 0,
        indices: NDArray[np.int64] | None = None,
    ) -> Tensor:
        """Draws parameters and applies them; see `draw` and `apply`."""
        return self.apply(images, self.draw(seeds, epoch=epoch, indices=indices))

    def draw(self, seeds: NDArray[np.uint64], *, epoch: int = 0, indices: NDArray[np.int64] | None = None) -> Params:
        """Draws what is random about a batch.

        Args:
            seeds: Of each image, uint64 (n,), such as `BatchKey.seeds`. An image's draws are its own, in whatever
                batch and on whatever rank.
            epoch: Counted from 0; only `AlternatingFlip` asks.
            indices: Which images of the data set they are, int64 (n,), on the CPU; only `AlternatingFlip` asks.

        Returns:
            For each step an array (n, columns).

        Raises:
            ValueError: `AlternatingFlip` is in the list, and there are no indices.
        """
        drawn = uniforms(seeds, sum(step.uniforms for step in self.steps))
        params, used = [], 0
        for step in self.steps:
            if isinstance(step, Alternation):
                if indices is None:
                    raise ValueError("AlternatingFlip goes by the image: give the executor indices and epoch.")
                params.append(step.look_up(indices, epoch, self.run_seed))
            else:
                params.append(step.draw(drawn[:, used : used + step.uniforms]))
                used += step.uniforms
        return params

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Applies what was drawn.

        Args:
            images: uint8 (n, H, W, 3), of the size that was announced. Left as they are.
            params: What `draw` returned.

        Returns:
            (n, H', W', 3) on the same device, uint8, or float32 if Normalize is among the transforms.
        """
        if images.dtype != torch.uint8 or images.shape[1:] != (*self.image_size, 3):
            height, width = self.image_size
            raise ValueError(f"Expected uint8 (n, {height}, {width}, 3), got {images.dtype} {tuple(images.shape)}.")
        n, chunk = len(images), max(1, len(images))
        if images.device.type == "cpu":
            chunk = max(16, _CPU_CHUNK // (3 * max(math.prod(self.image_size), math.prod(self.output_size))))
        result = torch.empty((n, *self.output_size, 3), dtype=self.output_dtype, device=images.device)
        for begin in range(0, n, chunk):
            part = slice(begin, begin + chunk)
            changed = self._run(images[part], [drawn[part] for drawn in params])
            if images.device.type == "cpu":
                # Pixel by pixel it would copy three numbers at a time, which takes twice as long.
                for channel in range(3):
                    result[part, :, :, channel] = changed[:, channel]
            else:
                result[part] = changed.permute(0, 2, 3, 1)
        return result

    def _run(self, images: Tensor, params: Params) -> Tensor:
        """Runs the stages on images (n, H, W, 3); gives (n, 3, H', W')."""
        packed = [stage.pack(params[steps]) for stage, steps in self._stages]
        arrays = iter(_upload([array for arrays in packed for array in arrays], images.device))
        # Planes of one channel each are what all operations are fastest on.
        images = images.permute(0, 3, 1, 2).contiguous()
        for (stage, _), stage_arrays in zip(self._stages, packed, strict=True):
            images = stage.run(images, *(next(arrays) for _ in stage_arrays))
        # Floats are a stage's own, and may be rounded in place.
        return images if images.dtype == self.output_dtype else images.round_()


def _fuse(steps: Sequence[Step]) -> list[tuple[Stage, slice]]:
    """Stages, each with those of the steps whose parameters it takes."""
    stages: list[tuple[Stage, slice]] = []
    begin = 0
    for kind, group in groupby(steps, key=lambda step: isinstance(step, Geometric)):
        members = list(group)
        if kind:
            stages.append((Sampling(cast("list[Geometric]", members)), slice(begin, begin + len(members))))
        else:
            stages += [(cast("PixelStep", step), slice(i, i + 1)) for i, step in enumerate(members, begin)]
        begin += len(members)
    return stages


def _upload(arrays: Sequence[Floats], device: torch.device) -> list[Tensor]:
    """Copies small arrays to a device as float32, all in one go and without waiting for a GPU of CUDA."""
    if not arrays:
        return []
    buffer = torch.from_numpy(np.concatenate([array.ravel() for array in arrays], dtype=np.float32))
    asynchronous = device.type == "cuda"
    if asynchronous:
        buffer = buffer.pin_memory()
    # An Apple GPU would read memory that is given back by then (pytorch issue 139550).
    on_device = buffer.to(device, non_blocking=asynchronous)
    pieces = on_device.split_with_sizes([array.size for array in arrays])
    return [piece.view(array.shape) for piece, array in zip(pieces, arrays, strict=True)]
