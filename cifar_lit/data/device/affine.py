"""Affine, ShiftScaleRotate and Rotate: what they draw, and the matrix that is made of it."""

from dataclasses import dataclass
from typing import Any

import albumentations as A
import cv2
import numpy as np

from cifar_lit.data.device.geometry import Geometric, Range, identity
from cifar_lit.data.device.steps import (
    Border,
    Floats,
    Size,
    Step,
    between,
    border_of,
    happens,
    unsupported_option,
    whole_between,
)


@dataclass
class AffineMap(Geometric):
    """Scales, rotates, shears and shifts an image around its centre, in this order.

    Attributes:
        p: Probability that an image is changed.
        angle: Range in degrees, counter-clockwise.
        scale: Ranges for x and y.
        shear: Ranges for x and y in degrees.
        shift: Ranges for x and y in pixels.
        shift_in_pixels: Draw shifts among whole numbers, the upper bound included; otherwise draw them evenly and
            cut their decimals off, as albumentations does: a shift of up to 6.25 % of 32 pixels is -1, 0 or 1.
        keep_ratio: Scale x and y alike.
        balanced_scale: Shrink and enlarge equally often.
    """

    size: Size
    border: Border | None
    p: float
    angle: Range
    scale: tuple[Range, Range] = ((1.0, 1.0), (1.0, 1.0))
    shear: tuple[Range, Range] = ((0.0, 0.0), (0.0, 0.0))
    shift: tuple[Range, Range] = ((0.0, 0.0), (0.0, 0.0))
    shift_in_pixels: bool = False
    keep_ratio: bool = False
    balanced_scale: bool = False

    columns = ("applied", "angle", "scale_x", "scale_y", "shear_x", "shear_y", "shift_x", "shift_y")
    uniforms = 10
    straight = False

    def __post_init__(self) -> None:
        self.out_size = self.size

    def draw(self, u: Floats) -> Floats:
        """Draws what albumentations' `Affine` draws: x and y apart, unless the ratio is kept."""
        scale_x, scale_y = (self._scale(u[:, 2 + axis], u[:, 8 + axis], self.scale[axis]) for axis in (0, 1))
        # albumentations negates shears as it draws them, and the angle as it makes the matrix.
        shears = [-between(u[:, 4 + axis], *self.shear[axis]) for axis in (0, 1)]
        if self.shift_in_pixels:
            shifts = [whole_between(u[:, 6 + axis], *self.shift[axis]) for axis in (0, 1)]
        else:
            shifts = [np.trunc(between(u[:, 6 + axis], *self.shift[axis])) for axis in (0, 1)]
        applied, angle = happens(u[:, 0], self.p), between(u[:, 1], *self.angle)
        return np.stack([applied, angle, scale_x, scale_x if self.keep_ratio else scale_y, *shears, *shifts], axis=1)

    def _scale(self, u: Floats, side: Floats, limits: Range) -> Floats:
        low, high = limits
        if not self.balanced_scale:
            return between(u, low, high)
        shrunk = between(u, min(low, 1.0), 1.0)
        enlarged = between(u, 1.0, max(high, 1.0))
        if low < 1 < high:
            return np.where(side < 0.5, shrunk, enlarged)
        return shrunk if low < 1 else enlarged

    def matrix(self, params: Floats) -> Floats:
        """The inverse of albumentations' matrix."""
        applied, angle, scale_x, scale_y, shear_x, shear_y, shift_x, shift_y = params.T
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        tan_x, tan_y = np.tan(np.deg2rad(shear_x)), np.tan(np.deg2rad(shear_y))
        # From source to result, as albumentations has it: shear @ rotation @ scale.
        a, b = (cos - tan_x * sin) * scale_x, (sin + tan_x * cos) * scale_y
        c, d = (tan_y * cos - sin) * scale_x, (tan_y * sin + cos) * scale_y
        determinant = a * d - b * c
        result = identity(len(params))
        result[:, 0, 0], result[:, 0, 1] = d / determinant, -b / determinant
        result[:, 1, 0], result[:, 1, 1] = -c / determinant, a / determinant
        centre = np.array([(self.size[1] - 1) / 2, (self.size[0] - 1) / 2])
        moved = centre + np.stack([shift_x, shift_y], axis=1)
        result[:, :2, 2] = centre - (result[:, :2, :2] @ moved[:, :, None])[:, :, 0]
        result[applied == 0] = np.eye(3)
        return result


def _bilinear_border(transform: A.BasicTransform, normalised: bool) -> Border:
    if transform.interpolation != cv2.INTER_LINEAR:
        raise unsupported_option(transform, "interpolation", f"cv2.INTER_LINEAR ({cv2.INTER_LINEAR})")
    return border_of(transform, normalised)


def affine(transform: A.Affine, size: Size, normalised: bool) -> list[Step]:
    """The step of `A.Affine` and `A.ShiftScaleRotate`."""
    if transform.fit_output:
        raise unsupported_option(transform, "fit_output", "fit_output=False")
    height, width = size

    def both(ranges: dict[str, Any]) -> tuple[Range, Range]:
        return tuple(ranges["x"]), tuple(ranges["y"])

    shift: tuple[Range, Range] = ((0.0, 0.0), (0.0, 0.0))
    in_pixels = transform.translate_px is not None
    if in_pixels:
        (x_low, x_high), (y_low, y_high) = both(transform.translate_px)
        shift = (int(x_low), int(x_high)), (int(y_low), int(y_high))
    elif transform.translate_percent is not None:
        (x_low, x_high), (y_low, y_high) = both(transform.translate_percent)
        shift = (x_low * width, x_high * width), (y_low * height, y_high * height)
    return [
        AffineMap(
            size,
            _bilinear_border(transform, normalised),
            transform.p,
            angle=tuple(transform.rotate),
            scale=both(transform.scale),
            shear=both(transform.shear),
            shift=shift,
            shift_in_pixels=in_pixels,
            keep_ratio=transform.keep_ratio,
            balanced_scale=transform.balanced_scale,
        )
    ]


def rotate(transform: A.Rotate, size: Size, normalised: bool) -> list[Step]:
    """The step of `A.Rotate`."""
    if transform.crop_border:
        raise unsupported_option(transform, "crop_border", "crop_border=False")
    return [AffineMap(size, _bilinear_border(transform, normalised), transform.p, angle=tuple(transform.limit))]
