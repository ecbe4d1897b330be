"""Flips, pads and crops: what each draws, and the matrix that is made of it.

All matrices are homogeneous, (n, 3, 3), and lead from a pixel of the result, (x, y, 1) with pixel centres at whole
numbers, back to the place in the source that is seen there. Distributions are those of albumentations 2.0.8.
"""

from abc import abstractmethod

import albumentations as A
import numpy as np
from numpy.typing import NDArray

from cifar_lit.data.alternating_flip import flipped
from cifar_lit.data.device.steps import (
    Border,
    Floats,
    Size,
    Step,
    border_of,
    happens,
    unsupported_option,
    whole_between,
)
from cifar_lit.errors import UserError

Range = tuple[float, float]


class Geometric(Step):
    """A step that moves pixels.

    Attributes:
        size: Of the image it takes.
        out_size: Of the image it gives.
        border: What it sees outside of the image it takes; None if it never looks there.
        straight: It maps pixels onto pixels, and rows onto rows.
        keeps_frame: It maps the frame of the image onto itself.
    """

    size: Size
    out_size: Size
    border: Border | None
    straight = True
    keeps_frame = False

    @abstractmethod
    def matrix(self, params: Floats) -> Floats:
        """From the result's pixels to the source's, (n, 3, 3)."""


def identity(n: int) -> Floats:
    """Matrices that move nothing, (n, 3, 3)."""
    return np.tile(np.eye(3), (n, 1, 1))


class Flip(Geometric):
    """Mirrors an image, left to right (axis 0) or upside down (axis 1)."""

    columns: tuple[str, ...] = ("flipped",)
    uniforms = 1
    keeps_frame = True

    def __init__(self, size: Size, axis: int, p: float) -> None:
        self.size = self.out_size = size
        self.border = None
        self.axis, self.p = axis, p

    def draw(self, u: Floats) -> Floats:
        """Throws a coin for each image."""
        return happens(u, self.p).astype(np.float64)

    def matrix(self, params: Floats) -> Floats:
        """Mirrors around the middle of the image."""
        result = identity(len(params))
        result[:, self.axis, self.axis] = 1 - 2 * params[:, 0]
        result[:, self.axis, 2] = params[:, 0] * (self.size[1 - self.axis] - 1)
        return result


class Alternation(Flip):
    """Mirrors an image in every second epoch: nothing is drawn for a batch, see `AlternatingFlip`."""

    uniforms = 0

    def __init__(self, size: Size) -> None:
        super().__init__(size, axis=0, p=1.0)

    def draw(self, u: Floats) -> Floats:
        """Not used."""
        raise NotImplementedError("An alternating flip follows from the image and the epoch: see `look_up`.")

    def look_up(self, indices: NDArray[np.int64], epoch: int, run_seed: int) -> Floats:
        """The parameters of these images in this epoch, in place of `draw`."""
        return flipped(indices, epoch, run_seed).astype(np.float64)[:, None]


class Offset(Geometric):
    """Pads or crops: moves the frame by a whole number of pixels, and changes its size.

    Args:
        size: Of the image it takes.
        out_size: Of the image it gives.
        low: The smallest x and y, in the source, of the result's first pixel.
        high: The largest; all between are equally likely.
        border: What the padding shows.
    """

    columns = ("left", "top")
    uniforms = 2

    def __init__(self, size: Size, out_size: Size, low: Range, high: Range, border: Border | None = None) -> None:
        self.size, self.out_size, self.border = size, out_size, border
        self.low, self.high = np.array(low, np.float64), np.array(high, np.float64)

    def draw(self, u: Floats) -> Floats:
        """Picks the place of the result's first pixel."""
        return whole_between(u, self.low, self.high)

    def matrix(self, params: Floats) -> Floats:
        """Moves."""
        result = identity(len(params))
        result[:, :2, 2] = params
        return result


def horizontal_flip(transform: A.HorizontalFlip, size: Size, normalised: bool) -> list[Step]:
    """The steps of `A.HorizontalFlip`."""
    return [Flip(size, axis=0, p=transform.p)]


def vertical_flip(transform: A.VerticalFlip, size: Size, normalised: bool) -> list[Step]:
    """The steps of `A.VerticalFlip`."""
    return [Flip(size, axis=1, p=transform.p)]


def alternating_flip(transform: A.HorizontalFlip, size: Size, normalised: bool) -> list[Step]:
    """The steps of `AlternatingFlip`."""
    if transform.p < 1:
        raise unsupported_option(transform, "p", "p=1")
    return [Alternation(size)]


def pad(transform: A.Pad, size: Size, normalised: bool) -> list[Step]:
    """The steps of `A.Pad` and `A.PadIfNeeded`."""
    # Sides do not depend on the image, so albumentations itself can tell them, where it does not draw them.
    sides = transform.get_params_dependent_on_data({"shape": (*size, 3)}, {})
    return _padding(transform, size, sides, getattr(transform, "position", "center") == "random", normalised)


def _padding(
    transform: A.BasicTransform, size: Size, sides: dict[str, int], at_random: bool, normalised: bool
) -> list[Step]:
    width, height = sides["pad_left"] + sides["pad_right"], sides["pad_top"] + sides["pad_bottom"]
    if min(sides.values()) < 0:
        raise UserError(f"{type(transform).__name__} would pad by {min(sides.values())} pixels: give 0 or more.")
    if width == height == 0:
        return []
    if transform.p < 1:
        raise unsupported_option(transform, "p", "p=1, since images of a batch have one size")
    low = (-width, -height) if at_random else (-sides["pad_left"], -sides["pad_top"])
    high = (0, 0) if at_random else low
    out_size = size[0] + height, size[1] + width
    return [Offset(size, out_size, low, high, border_of(transform, normalised))]


def random_crop(transform: A.RandomCrop, size: Size, normalised: bool) -> list[Step]:
    """The steps of `A.RandomCrop`."""
    steps: list[Step] = []
    if transform.pad_if_needed:
        sides = transform.get_params_dependent_on_data({"shape": (*size, 3)}, {})["pad_params"]
        if sides is not None:
            steps = _padding(transform, size, sides, transform.pad_position == "random", normalised)
            size = max(size[0], transform.height), max(size[1], transform.width)
    room = size[0] - transform.height, size[1] - transform.width
    if min(room) < 0:
        raise UserError(
            f"RandomCrop of {transform.height}×{transform.width} pixels does not fit an image of {size[0]}×{size[1]}: "
            "pad before it, or give it pad_if_needed: true."
        )
    if room == (0, 0):
        return steps
    if transform.p < 1:
        raise unsupported_option(transform, "p", "p=1, since images of a batch have one size")
    return [*steps, Offset(size, (transform.height, transform.width), (0, 0), (room[1], room[0]))]
