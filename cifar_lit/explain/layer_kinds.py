"""How a layer or an operation is called in the table, and the window that it declares."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from cifar_lit.explain.operation_rules import Operation

Sizes = tuple[int, ...] | None

ROW_KINDS = {
    "convolution": "Conv",
    "max_pool2d_with_indices": "MaxPool2d",
    "avg_pool2d": "AvgPool2d",
    "_adaptive_avg_pool2d": "AdaptiveAvgPool2d",
    "adaptive_max_pool2d": "AdaptiveMaxPool2d",
    "mean": "Mean",
    "amax": "Max",
    "sum": "Sum",
    "cat": "Concat",
    "addmm": "Linear",
    "mm": "Linear",
}
"""Operations that have a row also outside of any layer: those that change what is seen, or join paths."""

# Starts of operations, besides convolutions and matrix products, that compute.
COMPUTING = ("_scaled_dot_product", "mkldnn_rnn", "_thnn_fused", "_cudnn_rnn", "miopen_rnn", "_trilinear")
# Whole names of others: products with a vector, and distances of points.
ALSO_COMPUTING = ("mv", "addmv", "dot", "vdot", "_euclidean_dist", "_cdist_forward")
COUNTED = {operation.__name__ for operation in flop_registry}  # grows with torch: 2.11 lacks attention on the CPU


def is_uncounted(operation: Operation) -> bool:
    """Whether an operation has multiply-adds that torch does not count."""
    computes = operation.name.startswith(COMPUTING) or operation.name in ALSO_COMPUTING
    return computes and operation.name not in COUNTED


def _torch_layer(module: nn.Module) -> type | None:
    """The class of ``torch.nn`` that a layer is or derives from."""
    others = ("torch.nn.modules.module", "torch.nn.modules.container")
    bases = (c for c in type(module).__mro__ if c.__module__.startswith("torch.nn.modules."))
    return next((c for c in bases if c.__module__ not in others), None)


def is_layer(module: nn.Module) -> bool:
    """Whether the module has one row, whatever it is made of."""
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return False
    return _torch_layer(module) is not None or next(module.children(), None) is None


def kind(module: nn.Module) -> str:
    """The class of the layer, in the words of ``torch.nn`` where it derives from there."""
    name = (_torch_layer(module) or type(module)).__name__
    groups, channels = getattr(module, "groups", 1), getattr(module, "in_channels", None)
    if name.startswith("Conv") and groups > 1:
        return f"depthwise {name}" if groups == channels else f"grouped {name}"
    return name


def is_statistic(name: str) -> bool:
    """Whether a buffer is one that BatchNorm learns; the counter of batches is not."""
    return name.rpartition(".")[2] in ("running_mean", "running_var")


def declared_window(module: nn.Module, before: Sequence[int], out: Tensor) -> list[Sizes]:
    """Kernel, stride and dilation that a layer declares; what an adaptive pool comes to on this input."""
    axes = max(out.dim() - 2, 1)
    if "Adaptive" in type(module).__name__ and len(before) == out.dim():
        ratios = [n // m for n, m in zip(before[2:], out.shape[2:], strict=True) if n % m == 0]
        window = tuple(ratios) if len(ratios) == axes else None
        return [window, window, None]
    return [_sizes(getattr(module, name, None), axes) for name in ("kernel_size", "stride", "dilation")]


def computed_window(operation: Operation) -> list[Sizes]:
    """Kernel, stride and dilation of an operation outside any layer."""
    arguments = operation.args
    if operation.name == "convolution":
        kernel = tuple(arguments["weight"].shape[2:])
        return [kernel, *(_sizes(arguments[name], len(kernel)) for name in ("stride", "dilation"))]
    if "kernel_size" in arguments:
        kernel = tuple(arguments["kernel_size"])
        return [
            kernel,
            _sizes(arguments["stride"] or kernel, len(kernel)),
            _sizes(arguments.get("dilation"), len(kernel)),
        ]
    return [None, None, None]


def _sizes(value: Any, axes: int) -> Sizes:
    """A number or a tuple of numbers as one number an axis; None for anything else."""
    if isinstance(value, int):
        return (value,) * axes
    if isinstance(value, (tuple, list)) and value and all(isinstance(v, int) for v in value):
        return tuple(value) if len(value) == axes else (value[0],) * axes
    return None
