"""The network of the CIFAR-10 speed records: 94 % after 10 epochs, in 3.3 seconds of one A100."""

import math
from collections.abc import Sequence
from typing import Any

import albumentations as A
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cifar_lit.classifier import Batch, Classifier
from cifar_lit.errors import UserError
from cifar_lit.models.whitening import Whitening, whitening_filters

# Jordan 2024, arXiv:2404.00498, listing 4.
WIDTHS = (64, 256, 256)
BATCHNORM_EPSILON = 1e-12
# In torch's convention, the share of the newest batch; the paper's 0.6 is the share of what was.
BATCHNORM_MOMENTUM = 0.4
LOGIT_SCALE = 1 / 9
# The first layer is fitted to the 5,000 images of 32×32 that the paper takes, or as much of others.
WHITENING_PIXELS = 5_000 * 32 * 32


class ShiftBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose scale stays 1: only its shift is trained.

    Args:
        channels: In and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=BATCHNORM_EPSILON, momentum=BATCHNORM_MOMENTUM)
        self.weight.requires_grad_(False)


class DiracConv(nn.Conv2d):
    """A 3×3 convolution that begins by passing its input on in its first channels; the others begin at random.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)
        nn.init.dirac_(self.weight.data[:in_channels])


class WhitenedConvNet(nn.Module):
    """Whitening, stages of two convolutions with max-pooling between them, global max-pooling, a linear layer.

    Args:
        widths: Channels of each stage.
        num_classes: Number of logits.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, num_classes: int = 10) -> None:
        super().__init__()
        # Behind each layer its output size for 32×32 images of the default widths.
        self.whitening = Whitening()  # 24×31×31
        channels = self.whitening.out_channels
        stages = []
        for width in widths:
            stages.append(_stage(channels, width))  # 64×15×15, 256×7×7, 256×3×3
            channels = width
        self.stages = nn.Sequential(nn.GELU(), *stages)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.head = nn.Linear(channels, num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images (N, 3, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.head(self.pool(self.stages(self.whitening(images))).flatten(1))
        return logits * LOGIT_SCALE


def _stage(in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        DiracConv(in_channels, width),
        nn.MaxPool2d(2),
        ShiftBatchNorm(width),
        nn.GELU(),
        DiracConv(width, width),
        ShiftBatchNorm(width),
        nn.GELU(),
    )


class SpeedNet(Classifier):
    """The network of "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (Jordan 2024, arXiv:2404.00498).

    1,971,352 parameters. The paper computes in float16, BatchNorm apart; here precision is the trainer's.

    Args:
        widths: Channels of each stage; the paper's net for 95 % has 128, 384, 384.
        whitening_bias_epochs: Epochs after which the bias of the first layer stays as it is.
        num_classes: Number of classes; taken from the data on the command line.
        **kwargs: Those of `Classifier`.

    Raises:
        UserError: An argument is out of its range.
    """

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        whitening_bias_epochs: int = 3,
        num_classes: int = 10,
        **kwargs: Any,
    ) -> None:
        if not widths or min(widths) < 1:
            raise UserError(f"widths is {list(widths)}: give the channels of each stage, such as {list(WIDTHS)}.")
        super().__init__(net=WhitenedConvNet(widths, num_classes), num_classes=num_classes, **kwargs)
        self.whitening_bias_epochs = whitening_bias_epochs

    @property
    def cam_layer(self) -> nn.Module:
        """The last feature map before the last two poolings, 7×7 for 32×32 images."""
        layer: nn.Module = self.net.stages[-1][0]
        return layer

    def on_fit_start(self) -> None:
        """Fits the first layer to the training images, unless a checkpoint brought a fitted one.

        Raises:
            UserError: The data module is none of this package's.
        """
        whitening: Whitening = self.net.whitening
        if whitening.fitted:
            return
        data = getattr(self.trainer, "datamodule", None)
        images = getattr(data, "train_images", None)
        if data is None or images is None:
            raise UserError("SpeedNet fits its first layer to train_images: give a data module that has them.")
        # From the whole set, which may be sorted by class.
        count, height, width, _ = images.pixels.shape
        sample = np.linspace(0, count - 1, min(count, math.ceil(WHITENING_PIXELS / (height * width)))).astype(int)
        pixels = images.pixels[sample]
        if scaling := getattr(data, "scaling", []):
            scale = A.Compose(scaling)
            pixels = np.stack([scale(image=image)["image"] for image in pixels])
        normalised, *_ = data.on_after_batch_transfer([torch.from_numpy(pixels).to(self.device)], 0)
        # One rank decides: elsewhere rounding might turn a component round.
        whitening.set_filters(self.trainer.strategy.broadcast(whitening_filters(normalised)))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Spares the backward pass the first layer, once its bias is fixed."""
        super().on_train_batch_start(batch, batch_idx)
        # Distributed training waits for the gradient of every parameter that it began with.
        self.net.whitening.trains_bias = not self._bias_is_fixed or self.trainer.world_size > 1

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keeps the optimizer from the first layer's bias, once that is fixed."""
        if self._bias_is_fixed:
            self.net.whitening.bias.grad = None

    @property
    def _bias_is_fixed(self) -> bool:
        return self.current_epoch >= self.whitening_bias_epochs
