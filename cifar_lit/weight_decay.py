"""Which of a network's parameters an optimizer's weight decay applies to."""

from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from cifar_lit.errors import check_choice
from cifar_lit.parameter_kinds import NORM, is_scale

Decayed = Literal["weights", "dense", "convolutions", "all"]
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def groups_by_decay(module: nn.Module, on: Decayed) -> list[dict[str, Any]]:
    """The parameters for an optimizer: those with its weight decay, and those without any; see `split_by_decay`.

    Those of a norm over whole maps are in a group that says so, as they have the shape of filters.
    """
    decayed, free = split_by_decay(module, on)
    of_norms = {p for layer in module.modules() if isinstance(layer, NORMS) for p in layer.parameters() if p.ndim > 1}
    groups: list[dict[str, Any]] = []
    for parameters, settings in ((decayed, {}), (free, {"weight_decay": 0.0})):
        groups.append({"params": [p for p in parameters if p not in of_norms], **settings})
        groups.append({"params": [p for p in parameters if p in of_norms], **settings, NORM: True})
    return [group for group in groups if group["params"]]


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
    if isinstance(layer, NORMS) or name == "bias" or is_scale(parameter):
        return False
    return on != "convolutions"
