"""Test-time augmentation: a prediction from several views of an image."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Net = Callable[[Tensor], Tensor]


def flip(net: Net, images: Tensor) -> Tensor:
    """Mean logits (N, num_classes) of the images, (N, 3, H, W), and of their mirror images."""
    return (net(images) + net(images.flip(3))) / 2


def multi_view(net: Net, images: Tensor) -> Tensor:
    """Mean logits of six views: as they are and moved a pixel both ways along the diagonal, each also mirrored.

    The unmoved pair counts as much as the two moved ones together (Jordan 2024, arXiv:2404.00498, section 3.5).

    Args:
        net: Maps images to logits.
        images: (N, 3, H, W).

    Returns:
        (N, num_classes).
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    up_left = flip(net, padded[:, :, :height, :width])
    down_right = flip(net, padded[:, :, 2:, 2:])
    return flip(net, images) / 2 + (up_left + down_right) / 4


VIEWS = {"flip": flip, "multi_view": multi_view}
