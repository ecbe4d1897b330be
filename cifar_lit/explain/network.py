"""The network inside of a LightningModule, and what looking into it leaves as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
from torch import nn

from cifar_lit.errors import UserError


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Gives every part of a model its mode back, of training or evaluation: Lightning trains in that which it finds."""
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        # Not by `train`, which the user may have overridden.
        for module, training in before:
            module.training = training


@contextmanager
def numpys_random_state_kept() -> Iterator[None]:
    """Gives NumPy's global generator its state back: RandomCAM draws from it."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@contextmanager
def in_the_graph(layer: nn.Module) -> Iterator[None]:
    """Says so where a network's logits do not depend on what a layer puts out.

    Raises:
        UserError: So it is.
    """
    try:
        yield
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise UserError(
            f"The logits do not depend on cam_layer, of type {type(layer).__name__}: name a layer that forward runs, "
            "and behind which nothing is detached."
        ) from error


def copied(module: Any, copies: dict[int, Any]) -> Any:
    """A deep copy of a module, where what has been copied before is known by its id.

    Raises:
        UserError: It holds what cannot be copied.
    """
    try:
        return deepcopy(module, copies)
    except (TypeError, RuntimeError) as error:
        name = type(module).__name__
        raise UserError(f"{name} cannot be copied ({error}): keep such things outside of the module.") from error


def cam_layer_of(model: nn.Module) -> nn.Module:
    """The layer that a model names as ``cam_layer``.

    Raises:
        UserError: It names none, or fails to.
    """
    name, declared = type(model).__name__, getattr(type(model), "cam_layer", None)
    try:
        # Asked as usual, a module hides what an error within the property was.
        layer = declared.fget(model) if isinstance(declared, property) and declared.fget else model.cam_layer
    except UserError:
        raise
    except Exception as error:
        if declared is not None:
            raise UserError(f"cam_layer of {name} fails ({type(error).__name__}: {error}): mend it.") from error
        layer = None
    if not isinstance(layer, nn.Module):
        raise UserError(f"{name} names no cam_layer: add the property to see Grad-CAM.")
    return layer


def network_of(model: nn.Module) -> nn.Module:
    """A module's ``net``, if it computes all that the module does; else the module itself.

    So it is if the module's forward is `CompilableModule`'s and ``net`` has all parameters.
    """
    net = getattr(model, "net", None)
    # That of `CompilableModule` is known by its name: this module is below it, and does not import it.
    forward = getattr(type(model), "forward", None)
    named = getattr(forward, "__module__", None), getattr(forward, "__qualname__", None)
    calls_net = named == ("cifar_lit.compiling", "CompilableModule.forward")
    if calls_net and isinstance(net, nn.Module) and len([*net.parameters()]) == len([*model.parameters()]):
        return net
    return model
