"""A very small net of depthwise and pointwise convolutions, most of them without padding."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cifar_lit.classifier import Classifier
from cifar_lit.errors import UserError
from cifar_lit.models.dropout import Dropout

# The published net, 34,427 parameters.
WIDTHS = ((32, 64, 128), (32, 64, 128), (32,))
DROPOUT = (0.1, 0.2, 0.25)
BOTTLENECK = 32


class DepthwiseBlock(nn.Sequential):
    """Depthwise 3×3, pointwise, ReLU, BN, dropout."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float, padding: int = 0) -> None:
        super().__init__(
            nn.Conv2d(in_channels, in_channels, 3, padding=padding, groups=in_channels, bias=False),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.ReLU(),
            nn.BatchNorm2d(out_channels),
            Dropout(dropout),
        )


class Depthwise(nn.Module):
    """Stages of depthwise blocks; between two stages a max-pool and a pointwise bottleneck.

    With the default widths and 32×32 images, output size and receptive field of each layer:

        stage 1    32, 30, 28    3, 5, 7
        pool       14            8
        stage 2    12, 10, 8     12, 16, 20
        pool       4             22
        stage 3    2             30

    A layer adds (kernel − 1) times the jump *before* its own stride, which the author's column (24, 26, 34, 42 for the
    last layers) does not keep to; no gradient reaches that far. The figures here are what gradients measure.

    Args:
        num_classes: Number of logits.
        widths: Channels of the blocks of each stage.
        dropout: Probability in [0, 1), a number a stage.

    Raises:
        UserError: There is not one dropout a stage.
    """

    def __init__(
        self,
        num_classes: int = 10,
        widths: Sequence[Sequence[int]] = WIDTHS,
        dropout: Sequence[float] = DROPOUT,
    ) -> None:
        super().__init__()
        if len(widths) != len(dropout):
            raise UserError(f"{len(widths)} stages of widths and {len(dropout)} of dropout: give one dropout a stage.")
        self.stages = nn.ModuleList()
        self.transitions = nn.ModuleList()
        channels = 3
        for i, (stage_widths, p) in enumerate(zip(widths, dropout, strict=True)):
            if i:
                self.transitions.append(nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(channels, BOTTLENECK, 1, bias=False)))
                channels = BOTTLENECK
            blocks = []
            for j, width in enumerate(stage_widths):
                # Only the very first block keeps the image's size.
                blocks.append(DepthwiseBlock(channels, width, p, padding=int(i == j == 0)))
                channels = width
            self.stages.append(nn.Sequential(*blocks))
        self.head = nn.Conv2d(channels, num_classes, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) to logits (N, num_classes)."""
        x = self.stages[0](images)
        for transition, stage in zip(self.transitions, list(self.stages)[1:], strict=True):
            x = stage(transition(x))
        logits: Tensor = self.pool(self.head(x)).flatten(1)
        return logits


class DepthwiseNet(Classifier):
    """A net of depthwise and pointwise convolutions; as published 34,427 parameters.

    Args:
        widths: Channels of the blocks of each stage.
        dropout: Probability in [0, 1), a number a stage.
        num_classes: Number of classes; taken from the data on the command line.
        **kwargs: Those of `Classifier`.

    Raises:
        UserError: There is not one dropout a stage.
    """

    def __init__(
        self,
        widths: Sequence[Sequence[int]] = WIDTHS,
        dropout: Sequence[float] = DROPOUT,
        num_classes: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(net=Depthwise(num_classes, widths, dropout), num_classes=num_classes, **kwargs)

    @property
    def cam_layer(self) -> nn.Module:
        """The last stage whose map has some size: of the default three the second, 8×8 (the third is 2×2)."""
        stages = self.net.stages
        layer: nn.Module = stages[max(len(stages) - 2, 0)]
        return layer
