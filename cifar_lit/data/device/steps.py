"""What the parts of the device executor share: a step's interface, borders, and how they refuse what they cannot do."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cifar_lit.errors import UserError

Floats = NDArray[np.float64]
# Height and width in pixels, as arrays have them.
Size = tuple[int, int]


class UnsupportedTransformError(UserError):
    """Something that only albumentations itself can run."""

    def __init__(self, what: str, supported: str) -> None:
        super().__init__(f"The device executor cannot run {what}, only {supported}: `executor: workers` runs it.")


def unsupported_option(transform: A.BasicTransform, option: str, supported: str) -> UnsupportedTransformError:
    """An error that names the option of a transform, its value, and what would be supported."""
    given = f"{type(transform).__name__}({option}={getattr(transform, option)!r})"
    return UnsupportedTransformError(given, supported)


class Step(ABC):
    """One transform: draws what it needs for each image of a batch.

    Attributes:
        columns: What is drawn for an image, by name.
        uniforms: Of how many random numbers it is made.
    """

    columns: tuple[str, ...]
    uniforms: int

    @abstractmethod
    def draw(self, u: Floats) -> Floats:
        """Makes parameters of random numbers.

        Args:
            u: Uniform in [0, 1), (n, uniforms).

        Returns:
            (n, len(columns)).
        """


class Stage(ABC):
    """What the device does in one go: a pixel operation, or all geometric ones that follow one another."""

    @abstractmethod
    def pack(self, params: Sequence[Floats]) -> list[Floats]:
        """What the device needs, of the parameters that its steps drew for n images."""

    @abstractmethod
    def run(self, images: Tensor, *arrays: Tensor) -> Tensor:
        """Makes new images of a batch.

        Args:
            images: uint8, or float32 on the same scale of 0 to 255 or normalised, (n, 3, H, W), contiguous.
            arrays: What `pack` made, float32, on the images' device.
        """


class PixelStep(Step, Stage):
    """A step that changes pixels where they are. It is a stage of its own."""


@dataclass(frozen=True)
class Border:
    """What lies outside of an image.

    Attributes:
        mode: A colour, the pixel at the edge, or the mirror image with or without the edge doubled.
        fill: The colour, one value a channel.
    """

    mode: Literal["constant", "replicate", "reflect", "reflect_101"]
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)


_BORDER_MODES: dict[int, Literal["constant", "replicate", "reflect", "reflect_101"]] = {
    cv2.BORDER_CONSTANT: "constant",
    cv2.BORDER_REPLICATE: "replicate",
    cv2.BORDER_REFLECT: "reflect",
    cv2.BORDER_REFLECT_101: "reflect_101",
}


def border_of(transform: A.BasicTransform, normalised: bool) -> Border:
    """The border that a transform asks for."""
    if transform.border_mode not in _BORDER_MODES:
        raise unsupported_option(transform, "border_mode", "constant, replicate, reflect and reflect_101 borders")
    red, green, blue = colour_of(transform)
    if not normalised:
        # OpenCV rounds a border's colour to the type of the image, and to what that can hold.
        red, green, blue = (float(min(max(round(value), 0), 255)) for value in (red, green, blue))
    return Border(_BORDER_MODES[transform.border_mode], (red, green, blue))


def colour_of(transform: A.BasicTransform) -> tuple[float, float, float]:
    """The fill of a transform, a value a channel."""
    fill: Any = transform.fill
    if isinstance(fill, (int, float)):
        return (float(fill),) * 3
    if isinstance(fill, (tuple, list)) and len(fill) == 3:
        return float(fill[0]), float(fill[1]), float(fill[2])
    raise unsupported_option(transform, "fill", "one number or three")


def happens(u: Floats, p: float) -> NDArray[np.bool_]:
    """Throws the coin that decides for each image whether a transform is applied."""
    return u < p


def between(u: Floats, low: float | Floats, high: float | Floats) -> Floats:
    """Uniform in [low, high), as Python's and NumPy's ``uniform``."""
    return low + (high - low) * u


def whole_between(u: Floats, low: float | Floats, high: float | Floats) -> Floats:
    """Uniform among the whole numbers from low to high, both included, as Python's ``randint``."""
    return low + np.floor(u * (high - low + 1))
