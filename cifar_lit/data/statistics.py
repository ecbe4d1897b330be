"""What is subtracted from pixels, and what they are divided by, before a network sees them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from cifar_lit.console import say
from cifar_lit.data.images import Images
from cifar_lit.errors import UserError
from cifar_lit.identity import same_classes

PIXEL_MAX = 255.0
# That OpenCV is given at once.
MOST_PIXELS = 1 << 30
# On the scale of 0 to 255, in shapes that broadcast over (N, 3, H, W).
Statistics = tuple[Tensor, Tensor]
Normalization = Literal["channel", "pixel_mean", "none"]


def channel_statistics(train: Images) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of each channel over images, in [0, 1]."""
    rows = train.pixels.reshape(-1, train.pixels.shape[2], 3)
    # OpenCV sums whole numbers, exactly, and takes a twentieth of NumPy's time, but counts pixels in 32 bits.
    height = max(MOST_PIXELS // rows.shape[1], 1)
    blocks = [rows[begin : begin + height] for begin in range(0, len(rows), height)]
    means, stds = np.stack([cv2.meanStdDev(block) for block in blocks], axis=1)[..., 0]
    shares = np.array([[len(block) / len(rows)] for block in blocks])
    mean = (shares * means).sum(axis=0)
    std = np.sqrt((shares * (stds**2 + (means - mean) ** 2)).sum(axis=0))
    # No image is flat in a channel that is to be divided by: 1/255 stands in for its deviation.
    return (mean / PIXEL_MAX).tolist(), (np.maximum(std, 1) / PIXEL_MAX).tolist()


def statistics_of(
    train: Images,
    normalize: Normalization,
    of_channels: Callable[[Images], tuple[Sequence[float], Sequence[float]]],
) -> Statistics:
    """What to subtract and to divide by.

    Args:
        train: The training images, with those that are held out: which ones these are changes no pixel.
        normalize: As `ImageDataModule` has it.
        of_channels: Gives mean and deviation of each channel, in [0, 1].
    """
    if normalize == "none":
        return torch.zeros(1, 1, 1), torch.full((1, 1, 1), PIXEL_MAX)
    if normalize == "pixel_mean":
        mean_image = train.pixels.mean(axis=0, dtype=np.float64)
        return torch.from_numpy(mean_image).float().permute(2, 0, 1), torch.full((1, 1, 1), PIXEL_MAX)
    mean, std = (torch.tensor(s, dtype=torch.float32).view(3, 1, 1) for s in of_channels(train))
    return mean * PIXEL_MAX, std * PIXEL_MAX


def learnt_statistics(
    learnt: Mapping[str, Any], own: Statistics, class_names: Sequence[str], image_size: int | tuple[int, int]
) -> Statistics:
    """Those that a network learnt with; the data's own where it was asked for another way to normalise.

    Says so where it learnt from images of another size.

    Args:
        learnt: What a checkpoint keeps of the data.
        own: Of the images at hand.
        class_names: Of these.
        image_size: Of these, in pixels.

    Raises:
        UserError: It learnt other classes.
    """
    same_classes(learnt.get("class_names", class_names), class_names, "The checkpoint")
    if (size := learnt.get("image_size", image_size)) != image_size:
        say(f"The checkpoint says that it learnt from images of {size} pixels a side, and these have {image_size}.")
    mean, std = learnt.get("mean", own[0]), learnt.get("std", own[1])
    # Each way to normalise has a shape of its own.
    return (mean, std) if (mean.shape, std.shape) == (own[0].shape, own[1].shape) else own


def normalised(images: Tensor, statistics: Statistics) -> Tensor:
    """Images without their mean, in units of their deviation.

    Args:
        images: uint8 (N, H, W, 3).
        statistics: What to subtract, and what to divide by.

    Returns:
        float32 (N, 3, H, W), laid out as channels_last.

    Raises:
        UserError: There is a mean for each pixel, of images of another size.
    """
    _, height, width, channels = images.shape
    if (size := tuple(statistics[0].shape[1:])) not in ((1, 1), (height, width)):
        raise UserError(
            f"normalize: pixel_mean has a mean for each pixel of {size[0]}×{size[1]}, and these images have "
            f"{height}×{width}: give --data.normalize=channel, or transforms that keep the size."
        )
    if images.device.type != "cpu":
        mean, std = statistics
        return (images.permute(0, 3, 1, 2) - mean) / std
    # As one row an image, the same to the bit: else a CPU does three numbers at a time, which takes four times as long.
    mean, std = (statistic.expand(channels, height, width).permute(1, 2, 0).flatten() for statistic in statistics)
    return ((images.flatten(1) - mean) / std).view(images.shape).permute(0, 3, 1, 2)
