"""What a module makes of images: logits, and probabilities of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from cifar_lit.errors import UserError


def outputs_of(model: LightningModule, images: Tensor) -> Tensor:
    """What a model makes of normalised images, float32 (n, C).

    Raises:
        UserError: It is something else.
    """
    outputs = model(images)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(images):
        given = f"a tensor {(*outputs.shape,)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise UserError(
            f"The forward of {type(model).__name__} gives {given} for {len(images)} images: this command needs logits, "
            "a tensor (n, classes)."
        )
    return outputs.float()


def logits_of(model: LightningModule, images: Tensor) -> Tensor:
    """The logits of normalised images, float32 (n, C): of a model that gives probabilities their logarithms.

    Raises:
        UserError: It gives something else.
    """
    outputs = outputs_of(model, images)
    return outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log() if _are_probabilities(outputs) else outputs


def _are_probabilities(outputs: Tensor) -> bool:
    sums = outputs.sum(dim=1)
    # They may have been computed in 16 bits.
    return bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=0.02)


def _predict_step(model: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
    outputs = model(batch[0] if isinstance(batch, (list, tuple)) else batch)
    # One number an image is no choice among classes.
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        return outputs
    outputs = outputs.float()
    return outputs if _are_probabilities(outputs) else outputs.softmax(dim=1)


@contextmanager
def predicting_probabilities(model: LightningModule | None) -> Iterator[None]:
    """Has a module without a `predict_step` of its own give probabilities, float32 (n, C), of a batch's images.

    Lightning's own gives the network the whole batch, with the labels in it. What is no tensor (n, C) stays as it is.
    """
    if model is None or getattr(type(model), "predict_step", None) is not LightningModule.predict_step:
        yield
        return
    # Of this module alone, not of its class, in which spawned processes would look for a method.
    vars(model)["predict_step"] = partial(_predict_step, model)
    try:
        yield
    finally:
        vars(model).pop("predict_step", None)
