"""What a checkpoint keeps of the data that it learnt from: classes and normalisation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cifar_lit.console import printable
from cifar_lit.errors import UserError
from cifar_lit.identity import same_classes
from cifar_lit.runs import data_in, scaling_in


class Normalize(nn.Module):
    """Turns pixels, uint8 (N, H, W, 3), RGB, into what a network gets, float32 (N, 3, H, W).

    Args:
        mean: Subtracted, on the scale of 0 to 255; (3, 1, 1) or (3, H, W).
        std: Divided by; (3, 1, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.contiguous())
        self.register_buffer("std", std)

    def forward(self, pixels: Tensor) -> Tensor:
        """Turns and normalises."""
        return (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std


def preprocessing_in(content: Mapping[str, Any], path: Path) -> tuple[tuple[str, ...], Normalize]:
    """Class names and normalisation as a checkpoint keeps them: the data set itself is not needed.

    Args:
        content: What the checkpoint holds.
        path: The checkpoint, for messages.

    Raises:
        UserError: It does not keep them, or its run normalised in another way.
    """
    learnt = data_in(content)
    if learnt is None:
        raise UserError(f"{path} does not say how its images were normalised: it was trained on data of another kind.")
    if scaling_in(content.get("datamodule_hyper_parameters", {})):
        raise UserError(f"{path} was trained on images that its list of transforms normalised: that is not kept in it.")
    return tuple(map(printable, learnt["class_names"])), Normalize(learnt["mean"], learnt["std"])


def take_learnt(content: Mapping[str, Any], data: Any, path: Path) -> None:
    """Has data normalise as the images were that a network learnt from, whatever other images they have.

    Args:
        content: What the checkpoint holds.
        data: That are to be evaluated: an `ImageDataModule`. Of others only classes are looked at, if they name any.
        path: The checkpoint, for messages.

    Raises:
        UserError: They have other classes.
    """
    learnt, class_names = data_in(content), getattr(data, "class_names", None)
    if learnt is not None and class_names:
        same_classes(learnt["class_names"], class_names, str(path))
        if hasattr(data, "normalise_as"):
            data.normalise_as(learnt)
