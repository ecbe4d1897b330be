"""RandomBrightnessContrast and Normalize: what they draw, and how they change pixels."""

from collections.abc import Sequence

import albumentations as A
import numpy as np
import torch
from torch import Tensor

from cifar_lit.data.device.steps import (
    Floats,
    PixelStep,
    Size,
    Step,
    UnsupportedTransformError,
    between,
    happens,
    unsupported_option,
)

PIXEL_MAX = 255.0


class BrightnessContrast(PixelStep):
    """`A.RandomBrightnessContrast`: contrast * pixel + brightness, decimals cut off, clipped to 0 to 255."""

    columns = ("applied", "contrast", "brightness")
    uniforms = 3

    def __init__(self, transform: A.RandomBrightnessContrast) -> None:
        self.p = float(transform.p)
        self.contrast, self.brightness = transform.contrast_limit, transform.brightness_limit
        self.by_max, self.safe = transform.brightness_by_max, transform.ensure_safe_range

    def draw(self, u: Floats) -> Floats:
        """Draws the factor, and what is added as a share of 255 or of the image's mean."""
        contrast, brightness = 1 + between(u[:, 1], *self.contrast), between(u[:, 2], *self.brightness)
        return np.stack([happens(u[:, 0], self.p), contrast, brightness], axis=1)

    def pack(self, params: Sequence[Floats]) -> list[Floats]:
        """Factors (n,) and shares (n,); 1 and 0 if not applied."""
        applied, contrast, brightness = params[0].T
        return [np.where(applied, contrast, 1.0), brightness * applied]

    def run(self, images: Tensor, *arrays: Tensor) -> Tensor:
        """Multiplies and adds."""
        # Round first: between two steps albumentations has whole numbers, of which this one cuts decimals off.
        images = images.float() if images.dtype == torch.uint8 else images.round()
        alpha, beta = (array.view(-1, 1, 1, 1) for array in arrays)
        beta = beta * (PIXEL_MAX if self.by_max else images.mean(dim=(1, 2, 3), keepdim=True))
        if self.safe:
            beta = torch.where(alpha > 0, beta.clamp(0, PIXEL_MAX), beta.clamp(max=PIXEL_MAX))
            highest, lowest = (PIXEL_MAX - beta) / PIXEL_MAX, -beta / PIXEL_MAX
            alpha = torch.where(alpha > 0, torch.minimum(alpha, highest), torch.maximum(alpha, lowest))
        return (images * alpha + beta).clamp(0, PIXEL_MAX).floor()


class Normalization(PixelStep):
    """`A.Normalize`: (pixel - mean) / std, both on the scale of 0 to 255; the images become float32."""

    columns = ()
    uniforms = 0

    def __init__(self, transform: A.Normalize) -> None:
        self.mean, self.factor = (np.broadcast_to(a, 3) for a in (transform.mean_np, transform.denominator))

    def draw(self, u: Floats) -> Floats:
        """Nothing is random."""
        return u

    def pack(self, params: Sequence[Floats]) -> list[Floats]:
        """Means (3,) and factors (3,)."""
        return [self.mean, self.factor]

    def run(self, images: Tensor, *arrays: Tensor) -> Tensor:
        """Subtracts and multiplies."""
        mean, factor = (array.view(3, 1, 1) for array in arrays)
        return (images - mean).mul_(factor)


def brightness_contrast(transform: A.RandomBrightnessContrast, size: Size, normalised: bool) -> list[Step]:
    """The step of `A.RandomBrightnessContrast`."""
    if normalised:
        raise UnsupportedTransformError("RandomBrightnessContrast after Normalize", "before it")
    return [BrightnessContrast(transform)]


def normalize(transform: A.Normalize, size: Size, normalised: bool) -> list[Step]:
    """The step of `A.Normalize`."""
    if transform.normalization != "standard":
        raise unsupported_option(transform, "normalization", "normalization=standard")
    if transform.p < 1:
        raise unsupported_option(transform, "p", "p=1")
    return [Normalization(transform)]
