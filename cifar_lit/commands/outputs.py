"""What a module makes of images: logits, and probabilities of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from cifar_lit.errors import UserError


def logits_of(model: LightningModule, images: Tensor) -> Tensor:
    """What a model makes of normalised images, float32 (n, C).

    Raises:
        UserError: It is something else.
    """
    logits = model(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        given = f"a tensor {(*logits.shape,)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UserError(
            f"The forward of {type(model).__name__} gives {given} for {len(images)} images: this command needs logits, "
            "a tensor (n, classes)."
        )
    return logits.float()


def _probabilities(model: LightningModule, batch: Any, batch_idx: int) -> Any:
    outputs = model(batch[0] if isinstance(batch, (list, tuple)) else batch)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        return outputs
    outputs = outputs.float()
    sums = outputs.sum(dim=1)
    # Probabilities already, in 16 bits perhaps.
    are_shares = bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=0.02)
    return outputs if are_shares else outputs.softmax(dim=1)


@contextmanager
def predicting_probabilities(model: LightningModule | None) -> Iterator[None]:
    """Has a module without a `predict_step` of its own give probabilities, float32 (n, C), of a batch's images.

    Lightning's own gives the network the whole batch, with the labels in it. What is no tensor (n, C) stays as it is.
    """
    if model is None or type(model).predict_step is not LightningModule.predict_step:
        yield
        return
    # Of this module alone, and not of its class.
    vars(model)["predict_step"] = MethodType(_probabilities, model)
    try:
        yield
    finally:
        vars(model).pop("predict_step", None)
