"""CoarseDropout and Erasing: where they put rectangles, and what they paint there.

Distributions are those of albumentations 2.0.8, quirks included.
"""

from abc import abstractmethod
from collections.abc import Sequence

import albumentations as A
import numpy as np
import torch
from torch import Tensor

from cifar_lit.data.device.sampling import blend
from cifar_lit.data.device.steps import (
    Floats,
    PixelStep,
    Size,
    Step,
    between,
    colour_of,
    happens,
    unsupported_option,
    whole_between,
)
from cifar_lit.errors import UserError

# Keys of noise travel as float32, which tells whole numbers apart up to here.
_KEYS = 2**24


class Dropout(PixelStep):
    """Paints over rectangles.

    Args:
        transform: Says how likely it is, and what to paint.
        size: Of the images.
        holes: Most rectangles in one image.
        box_uniforms: How many random numbers decide the rectangles of an image.
        normalised: Whether the images are.
    """

    def __init__(
        self, transform: A.BasicTransform, size: Size, holes: int, box_uniforms: int, normalised: bool
    ) -> None:
        self.p, self.size, self.holes, self.box_uniforms = float(transform.p), size, holes, box_uniforms
        self.fill = transform.fill if isinstance(transform.fill, str) else "constant"
        if self.fill not in ("constant", "random_uniform", "random") or (normalised and self.fill != "constant"):
            supported = "one number or three" + ("" if normalised else ", random_uniform and random")
            raise unsupported_option(transform, "fill", supported)
        # albumentations casts the colour to the type of the image, which cuts decimals off.
        colour = np.array(colour_of(transform) if self.fill == "constant" else (0.0, 0.0, 0.0))
        if not normalised and (colour.min() < 0 or colour.max() > 255):
            raise UserError(f"{type(transform).__name__} has fill {transform.fill}: give numbers from 0 to 255.")
        self.colour = colour if normalised else np.trunc(colour)
        sides = ("x_min", "y_min", "x_max", "y_max")
        extra = {"constant": (), "random_uniform": ("red", "green", "blue"), "random": ()}[self.fill]
        self.columns = tuple(f"{name}_{hole}" for name in sides + extra for hole in range(holes))
        if self.fill == "random":
            self.columns += ("key",)
        self.uniforms = 1 + box_uniforms + len(self.columns) - 4 * holes

    @abstractmethod
    def boxes(self, u: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Draws the sides of the rectangles: left, top, right and bottom, each (n, holes), empty where there is none.

        Args:
            u: Uniform in [0, 1), (n, box_uniforms).
        """

    def draw(self, u: Floats) -> Floats:
        """Draws rectangles, and colours or keys of noise."""
        applied = happens(u[:, :1], self.p)
        sides = [side * applied for side in self.boxes(u[:, 1 : 1 + self.box_uniforms])]
        values = np.floor(u[:, 1 + self.box_uniforms :] * (_KEYS if self.fill == "random" else 256))
        return np.concatenate([*sides, values], axis=1)

    def pack(self, params: Sequence[Floats]) -> list[Floats]:
        """The sides of the rectangles (n, 4, holes); their colours or the image's key (n, …); the fixed colour (3,)."""
        sides, values = np.split(params[0], [4 * self.holes], axis=1)
        return [sides.reshape(-1, 4, self.holes), values, self.colour]

    def run(self, images: Tensor, *arrays: Tensor) -> Tensor:
        """Paints rectangle by rectangle, so that a later one lies on top."""
        boxes, values, colour = arrays
        if self.fill == "random_uniform":
            colours = values.view(-1, 3, self.holes, 1, 1)
            for hole in range(self.holes):
                images = blend(images, ~self._inside(boxes, hole), colours[:, :, hole], filled=True)
            return images
        inside = self._inside(boxes, 0)
        for hole in range(1, self.holes):
            inside = inside | self._inside(boxes, hole)
        if self.fill == "random":
            return blend(images, ~inside, _noise(images, values[:, 0].long()), filled=True)
        return blend(images, ~inside, colour.view(3, 1, 1), filled=bool(self.colour.any()))

    def _inside(self, boxes: Tensor, hole: int) -> Tensor:
        left, top, right, bottom = boxes[:, :, hole].view(-1, 4, 1, 1).unbind(1)
        xs = torch.arange(self.size[1], device=boxes.device)
        ys = torch.arange(self.size[0], device=boxes.device).view(-1, 1)
        return (((xs >= left) & (xs < right)) & ((ys >= top) & (ys < bottom))).unsqueeze(1)


def _noise(images: Tensor, keys: Tensor) -> Tensor:
    """A hash of an image's key and a pixel's place, uniform among 0 to 255: the same on every kind of device.

    In 64 bits, of which the lower 32 are kept, because not every device multiplies unsigned numbers: no product here
    reaches 2**63. The mixing is Thomas Mueller's, https://stackoverflow.com/a/12996028.
    """
    n, *shape = images.shape
    counter = torch.arange(shape[0] * shape[1] * shape[2], device=images.device)
    x = (keys[:, None] * 0x9E3779B1 + counter * 0x85EBCA77) & 0xFFFFFFFF
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return ((x ^ (x >> 16)) & 255).view(n, *shape)


class CoarseBoxes(Dropout):
    """`A.CoarseDropout`: a number of rectangles that lie wholly inside of the image.

    Sizes are whole numbers of pixels if the upper limit of the height is 1 or more, otherwise fractions of the image
    with the decimals of their pixels cut off.
    """

    def __init__(self, transform: A.CoarseDropout, size: Size, normalised: bool) -> None:
        self.low, self.high = transform.num_holes_range
        super().__init__(transform, size, self.high, 1 + 4 * self.high, normalised)
        ranges = transform.hole_height_range, transform.hole_width_range
        self.in_pixels = ranges[0][1] >= 1
        limits = [(low, min(high, extent)) for (low, high), extent in zip(ranges, size, strict=True)]
        if self.in_pixels:
            limits = [(int(low), int(high)) for low, high in limits]
        mixed = ranges[1][1] < 1 if self.in_pixels else ranges[1][1] > 1
        if mixed or any(low > high for low, high in limits):
            raise UserError(
                f"CoarseDropout(hole_height_range={ranges[0]}, hole_width_range={ranges[1]}) does not fit an image of "
                f"{size[0]}×{size[1]} pixels: give both in pixels up to its size, or both as fractions below 1."
            )
        self.heights, self.widths = limits

    def boxes(self, u: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Draws how many, how large and where."""
        count = whole_between(u[:, :1], self.low, self.high)
        used = np.arange(self.holes) < count
        u_height, u_width, u_top, u_left = np.split(u[:, 1:], 4, axis=1)
        if self.in_pixels:
            heights, widths = whole_between(u_height, *self.heights), whole_between(u_width, *self.widths)
        else:
            heights = np.trunc(self.size[0] * between(u_height, *self.heights))
            widths = np.trunc(self.size[1] * between(u_width, *self.widths))
        top, left = (
            whole_between(u_side, 0.0, extent - extents)
            for u_side, extent, extents in ((u_top, self.size[0], heights), (u_left, self.size[1], widths))
        )
        return left * used, top * used, (left + widths) * used, (top + heights) * used


class ErasingBox(Dropout):
    """`A.Erasing`: one rectangle of an area and an aspect ratio.

    Its area is at most what fits the image at every aspect ratio: for square images and the default ratio
    (0.3, 3.3) that is 30 % of the image, though the default scale says 33 %.
    """

    def __init__(self, transform: A.Erasing, size: Size, normalised: bool) -> None:
        super().__init__(transform, size, 1, 4, normalised)
        height, width = size
        self.ratio = transform.ratio
        # With r = width / height, h = sqrt(area / r) and w = sqrt(area * r) have to fit.
        fits = min(self.ratio[0] * height**2, width**2 / self.ratio[1])
        self.area = transform.scale[0] * height * width, min(transform.scale[1] * height * width, fits)
        if self.area[0] > self.area[1]:
            raise UserError(
                f"Erasing(scale={transform.scale}, ratio={transform.ratio}) never fits an image of {height}×{width} "
                "pixels: give a smaller scale or a ratio closer to 1."
            )

    def boxes(self, u: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Draws area, aspect ratio and place."""
        area, ratio = between(u[:, :1], *self.area), between(u[:, 1:2], *self.ratio)
        height, width = np.rint(np.sqrt(area / ratio)), np.rint(np.sqrt(area * ratio))
        top = whole_between(u[:, 2:3], 0.0, self.size[0] - height)
        left = whole_between(u[:, 3:], 0.0, self.size[1] - width)
        return left, top, left + width, top + height


def coarse_dropout(transform: A.CoarseDropout, size: Size, normalised: bool) -> list[Step]:
    """The step of `A.CoarseDropout`."""
    return [CoarseBoxes(transform, size, normalised)]


def erasing(transform: A.Erasing, size: Size, normalised: bool) -> list[Step]:
    """The step of `A.Erasing`."""
    return [ErasingBox(transform, size, normalised)]
