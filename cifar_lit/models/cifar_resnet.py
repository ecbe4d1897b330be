"""The residual networks that were designed for CIFAR: v1 with 6n+2 layers and v2 with 9n+2."""

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from cifar_lit.classifier import Classifier
from cifar_lit.errors import UserError

# Both papers: three stages, the feature map halved and the width doubled from one to the next.
STAGE_WIDTHS = (16, 32, 64)


def blocks_per_stage(depth: int, layers_per_unit: int) -> int:
    """The n of a depth of ``layers_per_unit``·n + 2.

    Raises:
        UserError: No whole n ≥ 1 gives this depth.
    """
    n, rest = divmod(depth - 2, layers_per_unit)
    if rest or n < 1:
        below = max(n, 1) * layers_per_unit + 2
        raise UserError(
            f"No such ResNet: depth {depth} is not {layers_per_unit}n+2. "
            f"The nearest depths are {below} and {below + layers_per_unit}."
        )
    return n


def init_he_normal(net: nn.Module) -> None:
    """He-normal weights and zero biases for every convolution and linear layer (arXiv:1502.01852)."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class BasicBlock(nn.Module):
    """conv3×3-BN-ReLU-conv3×3-BN, added to the shortcut, then ReLU."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(width)
        # A projection without BatchNorm, and only where the shape changes.
        self.shortcut: nn.Module = (
            nn.Identity()
            if stride == 1 and in_channels == width
            else nn.Conv2d(in_channels, width, 1, stride, bias=bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in_channels, H, W) to (N, width, H/stride, W/stride)."""
        # In place what no backward pass reads again: each is a pass less over memory.
        residual = F.relu_(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu_(residual.add_(self.shortcut(x)))


class PreActivationBottleneck(nn.Module):
    """BN-ReLU-conv1×1, BN-ReLU-conv3×3, BN-ReLU-conv1×1, added to the shortcut."""

    # He et al. 2016: a block puts out four times the width that it computes in.
    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, stride: int, bias: bool) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=bias)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=bias)
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, stride, bias=bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in_channels, H, W) to (N, 4·width, H/stride, W/stride)."""
        residual = self.conv1(F.relu(self.bn1(x)))
        residual = self.conv2(F.relu(self.bn2(residual)))
        residual = self.conv3(F.relu(self.bn3(residual)))
        output: Tensor = residual + self.shortcut(x)
        return output


class CifarResNet(nn.Module):
    """Stem, three stages of n blocks, average pooling and a linear layer: what both versions share."""

    def __init__(
        self, block: type[BasicBlock | PreActivationBottleneck], n: int, num_classes: int, conv_bias: bool, norm: bool
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, STAGE_WIDTHS[0], 3, padding=1, bias=conv_bias), nn.BatchNorm2d(STAGE_WIDTHS[0]), nn.ReLU()
        )
        channels = STAGE_WIDTHS[0]
        stages = []
        for width in STAGE_WIDTHS:
            # Every stage but the first halves the feature map in its first block.
            strides = [1 if width == STAGE_WIDTHS[0] else 2] + [1] * (n - 1)
            blocks = []
            for stride in strides:
                blocks.append(block(channels, width, stride, conv_bias))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        # Blocks of v2 end without an activation, so their last sum still wants one.
        self.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()) if norm else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        init_he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) to logits (N, num_classes)."""
        x = self.norm(self.stages(self.stem(images)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


class CifarResNetV1(CifarResNet):
    """ResNet v1 for small images (He et al. 2015, arXiv:1512.03385, section 4.2), with projections as shortcuts.

    These are Keras' example's, a 1×1 convolution where the shape changes; the paper's pad with zeros, which is 2,560
    parameters less.

    Args:
        depth: Number of layers, 6n+2: 20, 32, 44, 56, 110, 164, …
        num_classes: Number of logits.
        conv_bias: A bias in every convolution, as Keras' example has it.

    Raises:
        UserError: The depth is not 6n+2.
    """

    def __init__(self, depth: int = 20, num_classes: int = 10, conv_bias: bool = False) -> None:
        super().__init__(BasicBlock, blocks_per_stage(depth, 6), num_classes, conv_bias, norm=False)


class CifarResNetV2(CifarResNet):
    """ResNet v2 with pre-activation bottlenecks (He et al. 2016, arXiv:1603.05027).

    Projections see a block's input before its BatchNorm and ReLU, and the first block has these behind the stem's own.

    Args:
        depth: Number of layers, 9n+2: 56, 110, 164, 1001, …
        num_classes: Number of logits.
        conv_bias: A bias in every convolution.

    Raises:
        UserError: The depth is not 9n+2.
    """

    def __init__(self, depth: int = 56, num_classes: int = 10, conv_bias: bool = False) -> None:
        super().__init__(PreActivationBottleneck, blocks_per_stage(depth, 9), num_classes, conv_bias, norm=True)


class ResNetV1(Classifier):
    """ResNet v1 for small images, of 6n+2 layers (He et al. 2015, arXiv:1512.03385).

    Args:
        depth: Number of layers, 6n+2: 20, 32, 44, 56, 110, 164, …
        conv_bias: A bias in every convolution: 273,066 parameters at depth 20 instead of 272,282.
        num_classes: Number of classes; taken from the data on the command line.
        **kwargs: Those of `Classifier`.

    Raises:
        UserError: The depth is not 6n+2.
    """

    def __init__(self, depth: int = 20, conv_bias: bool = False, num_classes: int = 10, **kwargs: Any) -> None:
        super().__init__(net=CifarResNetV1(depth, num_classes, conv_bias), num_classes=num_classes, **kwargs)

    @property
    def cam_layer(self) -> nn.Module:
        """The last feature map before pooling, 8×8 for 32×32 images."""
        layer: nn.Module = self.net.stages
        return layer


class ResNetV2(Classifier):
    """ResNet v2 with pre-activation bottlenecks, of 9n+2 layers (He et al. 2016, arXiv:1603.05027).

    Args:
        depth: Number of layers, 9n+2: 56, 110, 164, 1001, …
        conv_bias: A bias in every convolution.
        num_classes: Number of classes; taken from the data on the command line.
        **kwargs: Those of `Classifier`.

    Raises:
        UserError: The depth is not 9n+2.
    """

    def __init__(self, depth: int = 56, conv_bias: bool = False, num_classes: int = 10, **kwargs: Any) -> None:
        super().__init__(net=CifarResNetV2(depth, num_classes, conv_bias), num_classes=num_classes, **kwargs)

    @property
    def cam_layer(self) -> nn.Module:
        """The last feature map before pooling, after its ReLU; 8×8 for 32×32 images."""
        layer: nn.Module = self.net.norm
        return layer
