"""Which of a network's parameters an optimizer's weight decay applies to."""

from typing import Literal

from torch import nn

from cifar_lit.errors import check_choice

Decayed = Literal["weights", "dense", "convolutions", "all"]


def split_by_decay(module: nn.Module, on: Decayed) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Splits the parameters that are trained into those that decay and those that do not.

    Args:
        module: Any network, or a module that holds one.
        on: ``weights`` (matrices and filters, never norms or biases), ``dense`` (these but the filters that read one
            channel each, of depthwise convolutions), ``convolutions`` (their filters alone) or ``all``.

    Returns:
        Both, in the order of the module's layers, each parameter once: layers may share one.

    Raises:
        UserError: There is no such choice.
    """
    check_choice("weight_decay_on", on, Decayed)
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    seen = set[nn.Parameter]()
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                (decayed if _decays(layer, name, parameter, on) else free).append(parameter)
                seen.add(parameter)
    return decayed, free


def _decays(layer: nn.Module, name: str, parameter: nn.Parameter, on: Decayed) -> bool:
    if on == "all":
        return True
    if isinstance(layer, nn.Conv2d) and name == "weight":
        # A convolution whose only input is one channel is no depthwise one.
        is_depthwise = parameter.shape[1] == 1 and layer.in_channels > 1
        return not (on == "dense" and is_depthwise)
    return on != "convolutions" and parameter.ndim > 1
