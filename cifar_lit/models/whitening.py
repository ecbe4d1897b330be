"""A first layer that decorrelates neighbouring pixels and colours, fitted to images instead of trained."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Added to each variance, so that a direction in which images hardly vary is not blown up. Jordan 2024, listing 4.
EPSILON = 5e-4


class Whitening(nn.Conv2d):
    """Projects patches onto their principal components, each scaled to variance 1, and onto the negatives of these.

    With the negatives a non-linearity behind it loses nothing. The weight is fitted and fixed; the bias is trained
    (Page 2018, https://myrtle.ai/learn/how-to-train-your-resnet-8-bag-of-tricks/; Jordan 2024, arXiv:2404.00498).

    Args:
        channels: Of the images.
        kernel_size: Side of a patch in pixels; 2·channels·kernel_size² channels come out.

    Attributes:
        fitted: 1 once there is a fitted weight, before 0; int64 (), saved with the weights.
        trains_bias: Whether the bias gets a gradient.
    """

    fitted: Tensor

    def __init__(self, channels: int = 3, kernel_size: int = 2) -> None:
        super().__init__(channels, 2 * channels * kernel_size**2, kernel_size)
        self.weight.requires_grad_(False)
        assert self.bias is not None
        nn.init.zeros_(self.bias)
        # A number and not a bool, of which torch's averages of weights cannot take differences.
        self.register_buffer("fitted", torch.tensor(0))
        self.trains_bias = True

    def set_filters(self, filters: Tensor) -> None:
        """Takes what `whitening_filters` gave as the weight."""
        self.weight.data.copy_(filters)
        self.fitted.fill_(1)

    def forward(self, input: Tensor) -> Tensor:
        """Maps images (N, channels, H, W) to (N, out_channels, H - kernel_size + 1, W - kernel_size + 1)."""
        assert self.bias is not None
        # Images are float32 also where the trainer's precision makes the weights something else.
        return F.conv2d(input.to(self.weight.dtype), self.weight, self.bias if self.trains_bias else self.bias.detach())


@torch.no_grad()
def whitening_filters(images: Tensor, kernel_size: int = 2) -> Tensor:
    """The scaled principal components of the patches of images, then their negatives.

    Args:
        images: Normalised, so that their mean is near 0: float (N, C, H, W).
        kernel_size: Side of a patch in pixels.

    Returns:
        float64 (2·D, C, kernel_size, kernel_size) with D = C·kernel_size², on the CPU.
    """
    patches = F.unfold(images.float(), kernel_size)
    covariance = torch.einsum("nil,njl->ij", patches, patches) / (patches.shape[0] * patches.shape[2])
    # On the CPU, because some accelerators have no float64.
    variances, components = torch.linalg.eigh(covariance.cpu().double())
    filters = (components / (variances + EPSILON).sqrt()).T.reshape(-1, images.shape[1], kernel_size, kernel_size)
    return torch.cat([filters, -filters])
