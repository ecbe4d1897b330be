"""What a checkpoint keeps of the data that it learnt from: classes, normalisation, the size of images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule
from torch import Tensor, nn

from cifar_lit.checkpoint_content import data_in, scaling_in
from cifar_lit.console import printable
from cifar_lit.errors import UserError
from cifar_lit.identity import same_classes


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
    if learnt.get("scaled") or scaling_in(content.get("datamodule_hyper_parameters", {})):
        raise UserError(f"{path} was trained on images that its list of transforms normalised: that is not kept in it.")
    return tuple(map(printable, learnt["class_names"])), Normalize(learnt["mean"], learnt["std"])


def size_of_images(data: Any, content: Mapping[str, Any]) -> Any:
    """Side in pixels of the images that a network is for, or height and width.

    Args:
        data: That are given, if there are any: what they were told counts most.
        content: What a checkpoint holds, which counts before what data of their class have; empty where there is none.
    """
    told = vars(data).get("image_size") if data is not None else None
    if told is not None:
        return told
    learnt = data_in(content) or {}
    # Older checkpoints keep it only where it is an argument.
    size = learnt.get("image_size", content.get("datamodule_hyper_parameters", {}).get("image_size"))
    return getattr(data, "image_size", 32) if size is None else size


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


class NoImages(LightningDataModule):
    """Stands in for a run's data where a checkpoint tells all that is asked of them: they may be gone.

    Args:
        num_classes: Number of classes.
        image_size: Side in pixels of what the network is given, or height and width.
    """

    def __init__(self, num_classes: int, image_size: Any = 32) -> None:
        super().__init__()
        self.num_classes, self.image_size = num_classes, image_size


def stand_in_for_data(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a network alone needs of its run's data, as a checkpoint tells it: a class and its arguments.

    Args:
        content: Of a checkpoint that keeps its data: see `cifar_lit.checkpoint_content.data_in`.
    """
    learnt, size = data_in(content) or {}, size_of_images(None, content)
    class_path = f"{NoImages.__module__}.{NoImages.__name__}"
    return {"class_path": class_path, "init_args": {"num_classes": len(learnt["class_names"]), "image_size": size}}
