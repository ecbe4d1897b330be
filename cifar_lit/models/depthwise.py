"""Very small nets of depthwise and pointwise convolutions, most of them without padding."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from cifar_lit.classifier import Classifier
from cifar_lit.errors import UserError, check_choice
from cifar_lit.models.dropout import Dropout

# The published net, 34,427 parameters.
WIDTHS = ((32, 64, 128), (32, 64, 128), (32,))
DROPOUT = (0.1, 0.2, 0.25)
BOTTLENECK = 32

# One probability for all blocks of a stage, or one for each of them.
StageDropout = float | Sequence[float]
Head = Literal["pointwise", "separable", "separable_relu"]
LayerDefaults = Literal["torch", "keras"]


def separable(in_channels: int, out_channels: int, padding: int = 0) -> list[nn.Module]:
    """A depthwise 3×3 convolution, then a pointwise one; neither has biases."""
    return [
        nn.Conv2d(in_channels, in_channels, 3, padding=padding, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
    ]


class DepthwiseBlock(nn.Sequential):
    """Depthwise 3×3, pointwise, ReLU, BN, dropout."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float, padding: int = 0) -> None:
        super().__init__(
            *separable(in_channels, out_channels, padding),
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
        widths: Channels of the blocks of each stage; a stage may have none.
        dropout: Probability in [0, 1), a number a stage or, in a list of its own, a number a block.
        padded_blocks: How many blocks of the first stage keep the image's size.
        head: What makes a map of each logit: see `DepthwiseNet`.
        layer_defaults: Whose initial weights and BatchNorm: see `DepthwiseNet`.

    Raises:
        UserError: There is no stage, or not one dropout a stage or, in a list, a block; a number is out of its range;
            there is no such head, or there are no such defaults.
    """

    def __init__(
        self,
        num_classes: int = 10,
        widths: Sequence[Sequence[int]] = WIDTHS,
        dropout: Sequence[StageDropout] = DROPOUT,
        padded_blocks: int = 1,
        head: Head = "pointwise",
        layer_defaults: LayerDefaults = "torch",
    ) -> None:
        super().__init__()
        check_choice("head", head, Head)
        check_choice("layer_defaults", layer_defaults, LayerDefaults)
        if len(widths) != len(dropout):
            raise UserError(f"{len(widths)} stages of widths and {len(dropout)} of dropout: give one dropout a stage.")
        if not widths or any(width < 1 for stage_widths in widths for width in stage_widths):
            raise UserError(f"widths is {widths}: give at least one stage, and widths of at least 1.")
        if not 0 <= padded_blocks <= max(len(widths[0]), 1):
            raise UserError(f"padded_blocks is {padded_blocks}: give a number from 0 to {max(len(widths[0]), 1)}.")
        self.stages = nn.ModuleList()
        self.transitions = nn.ModuleList()
        channels = 3
        for i, (stage_widths, stage_dropout) in enumerate(zip(widths, dropout, strict=True)):
            if i:
                self.transitions.append(nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(channels, BOTTLENECK, 1, bias=False)))
                channels = BOTTLENECK
            stage = nn.Sequential()
            for j, (width, p) in enumerate(zip(stage_widths, _by_block(stage_dropout, stage_widths), strict=True)):
                stage.append(DepthwiseBlock(channels, width, p, padding=int(i == 0 and j < padded_blocks)))
                channels = width
            self.stages.append(stage)
        self.head = _head(head, channels, num_classes)
        self.pool = nn.AdaptiveAvgPool2d(1)
        if layer_defaults == "keras":
            for module in self.modules():
                _as_keras(module)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) to logits (N, num_classes)."""
        x = self.stages[0](images)
        for transition, stage in zip(self.transitions, list(self.stages)[1:], strict=True):
            x = stage(transition(x))
        logits: Tensor = self.pool(self.head(x)).flatten(1)
        return logits


def _as_keras(layer: nn.Module) -> None:
    """Gives a layer the initial weights (Glorot and Bengio 2010) and the BatchNorm that it has in Keras."""
    if isinstance(layer, nn.Conv2d):
        # Of a depthwise kernel Keras takes for fan in what PyTorch takes for fan out; their sum counts.
        nn.init.xavier_uniform_(layer.weight)
    elif isinstance(layer, nn.BatchNorm2d):
        layer.momentum, layer.eps = 1 - 0.99, 1e-3


def _by_block(dropout: StageDropout, widths: Sequence[int]) -> Sequence[float]:
    """A probability for each block of a stage."""
    if not isinstance(dropout, Sequence):
        return [dropout] * len(widths)
    if len(dropout) != len(widths):
        raise UserError(f"A stage has {len(widths)} widths and {len(dropout)} dropouts: give one dropout a block.")
    return dropout


def _head(kind: Head, in_channels: int, num_classes: int) -> nn.Module:
    if kind == "pointwise":
        return nn.Conv2d(in_channels, num_classes, 1, bias=False)
    layers = separable(in_channels, num_classes)
    return nn.Sequential(*layers, nn.ReLU()) if kind == "separable_relu" else nn.Sequential(*layers)


class DepthwiseNet(Classifier):
    """A net of depthwise and pointwise convolutions; as published 34,427 parameters.

    Args:
        widths: Channels of the blocks of each stage; a stage may have none.
        dropout: Probability in [0, 1), a number a stage or, in a list of its own, a number a block.
        padded_blocks: How many blocks of the first stage keep the image's size.
        head: What makes a map of each logit, which is then averaged: a ``pointwise`` convolution; a depthwise 3×3 one
            before it (``separable``); a ReLU behind the two (``separable_relu``).
        layer_defaults: How weights begin, and BatchNorm averages: as ``torch`` has it, or as in ``keras``, uniform in
            ±√(6 / (fan in + fan out)), with 0.99 of the statistics kept at each step, and 1e-3 added to the variance.
        num_classes: Number of classes; taken from the data on the command line.
        **kwargs: Those of `Classifier`.

    Raises:
        UserError: There is no stage, or not one dropout a stage or, in a list, a block; a number is out of its range;
            there is no such head, or there are no such defaults.
    """

    def __init__(
        self,
        widths: Sequence[Sequence[int]] = WIDTHS,
        dropout: Sequence[StageDropout] = DROPOUT,
        padded_blocks: int = 1,
        head: Head = "pointwise",
        layer_defaults: LayerDefaults = "torch",
        num_classes: int = 10,
        **kwargs: Any,
    ) -> None:
        net = Depthwise(num_classes, widths, dropout, padded_blocks, head, layer_defaults)
        super().__init__(net=net, num_classes=num_classes, **kwargs)
        self.layer_defaults = layer_defaults

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses weights that learnt with another BatchNorm, of which they do not tell."""
        super().on_load_checkpoint(checkpoint)
        learnt = checkpoint.get("hyper_parameters")
        if learnt is not None and (kept := learnt.get("layer_defaults", "torch")) != self.layer_defaults:
            raise UserError(
                f"The checkpoint's layers are as in {kept}: leave --config out to take its run's own settings, or give "
                f"--model.layer_defaults={kept}."
            )

    @property
    def cam_layer(self) -> nn.Module:
        """The last stage whose map has some size: of the default three the second, 8×8 (the third is 2×2)."""
        stages = self.net.stages
        layer: nn.Module = stages[max(len(stages) - 2, 0)]
        return layer
