"""A plain convolutional net with dense layers, what very small nets are measured against."""

from typing import Any

from torch import Tensor, nn

from cifar_lit.classifier import Classifier
from cifar_lit.errors import UserError
from cifar_lit.models.dropout import Dropout

# The published net, 1,172,410 parameters. No number of them is free: the first dense layer is as wide as the map.
IMAGE_SIZE = 32
STAGE_WIDTHS = (48, 96, 192)
STAGE_DROPOUT = 0.25
MAP_SIZE = 2
DENSE_WIDTHS = (512, 256)
DENSE_DROPOUT = 0.5


class PlainStage(nn.Module):
    """A 3×3 convolution with padding and one without, a ReLU behind each, max-pool, dropout."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = Dropout(STAGE_DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, width, ⌊H/2⌋ − 1, ⌊W/2⌋ − 1)."""
        out: Tensor = self.dropout(self.pool(self.convolutions(x)))
        return out


class PlainConvNet(nn.Module):
    """Three stages of plain convolutions, then two dense layers.

    Output size and receptive field of each layer of a stage, convolution, convolution, pool:

        stage 1    32, 30, 15    3, 5, 6
        stage 2    15, 13, 6     10, 14, 16
        stage 3    6, 4, 2       24, 32, 36

    Args:
        num_classes: Number of logits.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stages = nn.Sequential()
        channels = 3
        for width in STAGE_WIDTHS:
            self.stages.append(PlainStage(channels, width))
            channels = width
        self.dense = nn.Sequential(nn.Flatten())
        features = channels * MAP_SIZE**2
        for width in DENSE_WIDTHS:
            self.dense.extend([nn.Linear(features, width), nn.ReLU(), Dropout(DENSE_DROPOUT)])
            features = width
        self.head = nn.Linear(features, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                # Glorot and Bengio 2010, as published.
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, 3, 32, 32) to logits (N, num_classes).

        Raises:
            UserError: The images are of another size, which the dense layers have no weights for.
        """
        height, width = images.shape[2:]
        if (height, width) != (IMAGE_SIZE, IMAGE_SIZE):
            raise UserError(f"PlainCNN takes images of {IMAGE_SIZE}×{IMAGE_SIZE} pixels, not {height}×{width}.")
        logits: Tensor = self.head(self.dense(self.stages(images)))
        return logits


class PlainCNN(Classifier):
    """A plain convolutional net for images of 32×32 pixels, 1,172,410 parameters.

    Args:
        num_classes: Number of classes; taken from the data on the command line.
        **kwargs: Those of `Classifier`.
    """

    def __init__(self, num_classes: int = 10, **kwargs: Any) -> None:
        super().__init__(net=PlainConvNet(num_classes), num_classes=num_classes, **kwargs)

    @property
    def cam_layer(self) -> nn.Module:
        """The last feature map before pooling, 4×4."""
        layer: nn.Module = self.net.stages[-1].convolutions
        return layer
