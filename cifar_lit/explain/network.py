"""The network inside of a LightningModule, and what looking into it leaves as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from torch import nn


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
