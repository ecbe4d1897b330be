"""Test-time augmentation: a prediction from several views of an image, and the plain one, which is among them."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Net = Callable[[Tensor], Tensor]


def flip(net: Net, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean logits (N, num_classes) of the images, (N, 3, H, W), and of their mirror images; and the images' own."""
    plain = net(images)
    return (_wide(plain) + _wide(net(images.flip(3)))) / 2, plain


def multi_view(net: Net, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean logits of six views: as they are and moved a pixel both ways along the diagonal, each also mirrored.

    The unmoved pair counts as much as the two moved ones together (Jordan 2024, arXiv:2404.00498, section 3.5).

    Args:
        net: Maps images to logits.
        images: (N, 3, H, W).

    Returns:
        (N, num_classes) each: the mean, and the logits of the images as they are.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    unmoved, plain = flip(net, images)
    up_left, _ = flip(net, padded[:, :, :height, :width])
    down_right, _ = flip(net, padded[:, :, 2:, 2:])
    return unmoved / 2 + (up_left + down_right) / 4, plain


def _wide(logits: Tensor) -> Tensor:
    """In float32 at least: a mean that is rounded to 16 bits makes ties of what was none."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


VIEWS = {"flip": flip, "multi_view": multi_view}
Augmentation = Literal["none", "flip", "multi_view"]
