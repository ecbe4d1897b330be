"""Which of a network's parameters an optimizer's weight decay applies to."""

from typing import Literal

from torch import nn

Decayed = Literal["weights", "dense", "convolutions", "all"]


def split_by_decay(net: nn.Module, on: Decayed) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Splits the parameters that are trained into those that decay and those that do not.

    Args:
        net: Any network.
        on: ``weights`` (matrices and filters, never norms or biases), ``dense`` (these but the filters that read one
            channel each, of depthwise convolutions), ``convolutions`` (their filters alone) or ``all``.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (decayed if _decays(module, name, parameter, on) else free).append(parameter)
    return decayed, free


def _decays(module: nn.Module, name: str, parameter: nn.Parameter, on: Decayed) -> bool:
    if on == "all":
        return True
    if isinstance(module, nn.Conv2d) and name == "weight":
        # A convolution whose only input is one channel is no depthwise one.
        is_depthwise = parameter.shape[1] == 1 and module.in_channels > 1
        return not (on == "dense" and is_depthwise)
    return on != "convolutions" and parameter.ndim > 1
