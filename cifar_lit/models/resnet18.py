"""ResNet-18 with the stem that small images want."""

from typing import Any, Literal

from torch import Tensor, nn

from cifar_lit.classifier import Classifier
from cifar_lit.errors import check_choice
from cifar_lit.models.cifar_resnet import BasicBlock

# He et al. 2015, table 1: four stages of two blocks.
STAGE_WIDTHS = (64, 128, 256, 512)
STAGE_STRIDES = (1, 2, 2, 2)
BLOCKS = 2

Initialization = Literal["he", "torch"]


class NormedShortcutBlock(BasicBlock):
    """A basic block with a BatchNorm behind its projection, as ResNets for large images have it."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, width, stride, bias=False)
        if isinstance(self.shortcut, nn.Conv2d):
            self.shortcut = nn.Sequential(self.shortcut, nn.BatchNorm2d(width))


class SmallImageResNet18(nn.Module):
    """ResNet-18 (He et al. 2015, arXiv:1512.03385) whose stem is a 3×3 convolution of stride 1 without max-pooling.

    Args:
        num_classes: Number of logits.
        initialization: How the convolutions' weights begin, see `ResNet18`.

    Raises:
        UserError: There is no such initialization.
    """

    def __init__(self, num_classes: int = 10, initialization: Initialization = "he") -> None:
        super().__init__()
        check_choice("initialization", initialization, Initialization)
        channels = STAGE_WIDTHS[0]
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        stages = []
        for width, stride in zip(STAGE_WIDTHS, STAGE_STRIDES, strict=True):
            blocks = [NormedShortcutBlock(channels, width, stride)]
            blocks += [NormedShortcutBlock(width, width, 1) for _ in range(BLOCKS - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if initialization == "he" and isinstance(module, nn.Conv2d):
                # By what goes out, as torchvision has it: it keeps the size of gradients.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.fc(self.pool(self.stages(self.stem(images))).flatten(1))
        return logits


class ResNet18(Classifier):
    """ResNet-18 for small images: 11,173,962 parameters (He et al. 2015, arXiv:1512.03385).

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        initialization: How the convolutions' weights begin: ``he``, normal with a variance of 2 / (9 · channels out)
            for a 3×3 kernel (arXiv:1502.01852); ``torch``, as PyTorch makes them, evenly between ±1/√(9 · channels in),
            a variance six times smaller where as many channels go out as come in.
        **kwargs: Those of `Classifier`.

    Raises:
        UserError: There is no such initialization.
    """

    def __init__(self, num_classes: int = 10, initialization: Initialization = "he", **kwargs: Any) -> None:
        super().__init__(net=SmallImageResNet18(num_classes, initialization), num_classes=num_classes, **kwargs)

    @property
    def cam_layer(self) -> nn.Module:
        """The last feature map before pooling, 4×4 for 32×32 images."""
        layer: nn.Module = self.net.stages
        return layer
