"""Who makes training batches: the device executor, or workers."""

from collections.abc import Sequence
from typing import Literal

import torch

from cifar_lit.console import say
from cifar_lit.data.device_executor import unsupported
from cifar_lit.data.images import Images
from cifar_lit.data.scaling import Transform

Executor = Literal["auto", "device", "workers"]


def runs_on_device(
    executor: Executor,
    num_workers: int | None,
    transforms: Sequence[Transform],
    image_size: tuple[int, int],
    device: torch.device,
) -> bool:
    """Whether the device executor makes the batches; says so in a line where that was left open.

    Args:
        executor: What is asked for.
        num_workers: As asked for, if it is.
        transforms: Of training images.
        image_size: Their height and width in pixels.
        device: That the network runs on.

    Raises:
        UserError: No executor can run the list on images of this size.
    """
    reason = unsupported(transforms, image_size) if transforms else None
    if executor != "auto":
        if executor == "device" and num_workers:
            say("num_workers is not used: the device executor prepares batches in this process")
        return executor == "device"
    if num_workers is not None:
        reason = "num_workers is given."
    if reason is not None:
        say(f"Batches from workers: {reason}")
        return False
    say(f"Batches from the device executor on {device}: it runs every transform of the list")
    return True


def tell_of_another_size(made: tuple[int, int], image_size: tuple[int, int], tested: Images | None) -> None:
    """Says so where a network learns from images of another size than it will be looked at with.

    Args:
        made: Height and width of what the transforms make.
        image_size: Of the training images, as validation looks at those that are held out.
        tested: The test images, if they are there.
    """
    if made != image_size:
        says = "The transforms make {}×{} pixels of images of {}×{}, which validation looks at"
        say(f"{says.format(*made, *image_size)}: if that is not meant, give images of that size, or keep theirs.")
    if tested is not None and tested.pixels.shape[1:3] != image_size:
        says = "Training images are of {}×{} pixels, and test images of {}×{}"
        say(f"{says.format(*image_size, *tested.pixels.shape[1:3])}: if that is not meant, give all of one size.")
