"""One rule an elementary operation (aten): the receptive field of what comes out, from the fields of what goes in.

Names and arguments are those of PyTorch's ``native_functions.yaml``. What has no rule here is not guessed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cifar_lit.explain.receptive_field import Axis, Field, Untraceable, broadcast, collapse, join, permute, reshape


@dataclass(frozen=True)
class Operation:
    """One elementary operation of the forward.

    Attributes:
        name: its aten name without a trailing underscore (in-place operations follow the same rules).
        args: its arguments by name, defaults filled in.
        inputs: the arguments that depend on the image, with their fields.
        outputs: the tensors that came out.
        sources: all arguments that depend on the image, those with an unknown field included.
    """

    name: str
    args: dict[str, Any]
    inputs: list[tuple[Tensor, Field]]
    outputs: list[Tensor]
    sources: list[Tensor]

    def single(self, first: bool = True) -> tuple[Tensor, Field]:
        """The one tensor that depends on the image.

        Args:
            first: it must be the first tensor argument: not a weight that the forward computed from the image.

        Raises:
            Untraceable: there are several, or it is not the first.
        """
        if len(self.inputs) != 1:
            raise Untraceable("combines several activations, which mixes positions")
        if first and next(tensors(self.args)) is not self.inputs[0][0]:
            raise Untraceable("takes weights that were computed from the image")
        return self.inputs[0]

    def joined(self, out: Tensor) -> Field:
        """The union of all inputs, broadcast to the shape of ``out``."""
        return join(broadcast(field, tensor.shape, out.shape) for tensor, field in self.inputs)

    def dims(self, names: Sequence[str] = ("dim",)) -> set[int]:
        """The dimensions named by an argument, counted from the front; all of them where it is empty."""
        ndim = self.inputs[0][0].dim()
        value: Any = next((self.args[name] for name in names if self.args.get(name) is not None), [])
        return {d % ndim for d in ([value] if isinstance(value, int) else value)} or set(range(ndim))


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def _item(values: int | Sequence[int] | None, index: int, default: int) -> int:
    values = [values] if isinstance(values, int) else list(values or [])
    return values[index if len(values) > 1 else 0] if values else default


def _window(op: Operation, out: Tensor) -> Field:
    tensor, field = op.single()
    weight = op.args.get("weight")
    if op.args.get("transposed"):
        raise Untraceable("is a transposed convolution, which resamples the map")
    kernel = weight.shape[2:] if weight is not None else op.args["kernel_size"]
    first = tensor.dim() - len(kernel)

    def slide(axis: Axis) -> Axis:
        if axis.dim is None or axis.dim < first - 1:
            return axis
        if axis.dim == first - 1:  # the channels: a convolution sums over them, a pool leaves them apart
            if op.args.get("groups", 1) != 1:
                raise Untraceable("sums over groups of positions")
            return axis.whole() if weight is not None else axis
        i = axis.dim - first
        stride = _item(op.args.get("stride"), i, kernel[i] if weight is None else 1)
        padding, dilation = _item(op.args.get("padding"), i, 0), _item(op.args.get("dilation"), i, 1)
        return axis.window(out.shape[axis.dim], kernel[i], stride, padding, dilation)

    return slide(field[0]), slide(field[1])


def _adaptive(op: Operation, out: Tensor) -> Field:
    """Windows that tile the map."""

    def pool(axis: Axis) -> Axis:
        if axis.dim is None:
            return axis
        size = out.shape[axis.dim]
        if axis.size == 1 and size > 1:
            return axis.whole()
        if axis.size % size:
            raise Untraceable(f"pools {axis.size} positions to {size} with windows of unequal size")
        return axis.window(size, axis.size // size, axis.size // size)

    _, (height, width) = op.single()
    return pool(height), pool(width)


def _reduce(op: Operation, out: Tensor) -> Field:
    return collapse(op.single()[1], op.dims(), bool(op.args.get("keepdim")))


def _normalise(op: Operation, out: Tensor) -> Field:
    """Statistics over some dimensions, which every position then sees whole."""
    tensor, field = op.single()
    dims = set(range(tensor.dim()))
    if "normalized_shape" in op.args:  # layer norm
        dims = set(sorted(dims)[-len(op.args["normalized_shape"]) :])
    elif "dim" in op.args:  # softmax
        dims = op.dims()
    elif "group" in op.args or op.args.get("training"):  # group norm; batch norm that takes the statistics of now
        dims -= {0, 1}
        if any(axis.dim == 1 for axis in field):
            raise Untraceable("takes statistics over groups of positions")
    else:  # batch norm that has learnt its statistics
        return field
    height, width = (axis.joined(axis.whole()) if axis.dim in dims else axis for axis in field)
    return height, width


def _along(op: Operation, out: Tensor) -> Field:
    """Reorders or mixes along some dimensions only."""
    _, field = op.single()
    if any(axis.dim in ((1,) if "channel" in op.name else op.dims(("dim", "dims"))) for axis in field):
        raise Untraceable("mixes or moves positions")
    return field


def _index(op: Operation, out: Tensor) -> Field:
    tensor, field = op.single()
    indexed = [dim for dim, index in enumerate(op.args["indices"]) if index is not None]
    if out.dim() != tensor.dim() or len(indexed) != 1 or any(axis.dim in indexed for axis in field):
        raise Untraceable("picks positions by a tensor of indices")
    return field


def _reshape(op: Operation, out: Tensor) -> Field:
    tensor, field = op.single()
    return reshape(field, tensor.shape, out.shape)


def _permute(op: Operation, out: Tensor) -> Field:
    tensor, field = op.single()
    order = list(range(tensor.dim()))
    if op.name == "permute":
        order = [d % tensor.dim() for d in op.args["dims"]]
    elif tensor.dim() > 1:
        a, b = (0, 1) if op.name == "t" else (op.args["dim0"], op.args["dim1"])
        order[a], order[b] = order[b], order[a]
    return permute(field, order)


def _slice(op: Operation, out: Tensor) -> Field:
    tensor, field = op.single()
    dim, step = op.args["dim"] % tensor.dim(), op.args["step"]
    start, size = op.args["start"] or 0, tensor.shape[dim]
    start = min(max(start + size if start < 0 else start, 0), size)
    height, width = (a.window(out.shape[dim], 1, step, -start) if a.dim == dim else a for a in field)
    return height, width


def _select(op: Operation, out: Tensor) -> Field:
    tensor, field = op.single()
    dim = op.args["dim"] % tensor.dim()
    index = op.args["index"] % tensor.shape[dim] if "index" in op.args else [id(o) for o in op.outputs].index(id(out))
    height, width = (a.window(1, 1, 1, -index) if a.dim == dim else a for a in field)
    return collapse((height, width), [dim], keepdim=False)


def _split(op: Operation, out: Tensor) -> Field:
    tensor, field = op.single()
    dim = op.args["dim"] % tensor.dim()
    start = sum(o.shape[dim] for o in op.outputs[: [id(o) for o in op.outputs].index(id(out))])
    height, width = (a.window(out.shape[dim], 1, 1, -start) if a.dim == dim else a for a in field)
    return height, width


def _concatenate(op: Operation, out: Tensor) -> Field:
    field = join(field for _, field in op.inputs)
    dim = op.args["dim"] % out.dim()
    if op.name == "stack":
        height, width = (a if a.dim is None else a.moved(a.dim + (a.dim >= dim)) for a in field)
        return height, width
    if any(axis.dim == dim for axis in field):
        raise Untraceable("joins maps side by side")
    return field


def _pad(op: Operation, out: Tensor) -> Field:
    tensor, field = op.single()
    pad = op.args["pad" if "pad" in op.args else "padding"]  # left and right of the last dimension first

    def shift(axis: Axis) -> Axis:
        i = 0 if axis.dim is None else 2 * (tensor.dim() - 1 - axis.dim)
        return axis if axis.dim is None or i >= len(pad) else axis.window(out.shape[axis.dim], padding=pad[i])

    return shift(field[0]), shift(field[1])


def _matmul(op: Operation, out: Tensor) -> Field:
    tensor, field = op.single(first=False)  # a product of two activations (attention) is refused here
    role = next(name for name, value in op.args.items() if value is tensor)
    if role == "self" and op.name in ("addmm", "baddbmm", "addmv"):  # the bias
        return op.joined(out)
    summed = tensor.dim() - (2 if role in ("mat2", "batch2") else 1)
    height, width = (axis.whole() if axis.dim == summed else axis for axis in field)
    return height, width


RULES: dict[str, Callable[[Operation, Tensor], Field]] = {
    name: rule
    for rule, names in (
        (_window, "convolution max_pool2d_with_indices avg_pool2d max_pool3d_with_indices avg_pool3d avg_pool1d"),
        (_adaptive, "_adaptive_avg_pool2d adaptive_max_pool2d _adaptive_avg_pool3d pixel_unshuffle"),
        (_reduce, "mean sum amax amin max min prod var std var_mean std_mean logsumexp linalg_vector_norm norm"),
        (_reduce, "argmax argmin any all median nanmean nansum"),
        (_normalise, "native_group_norm native_layer_norm _fused_rms_norm _softmax _log_softmax native_batch_norm"),
        (_normalise, "_native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm"),
        (_along, "glu flip roll cumsum cumprod sort topk index_select channel_shuffle native_channel_shuffle"),
        (_index, "index"),
        (_reshape, "view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten unflatten"),
        (_permute, "permute transpose t"),
        (_slice, "slice"),
        (_select, "select unbind"),
        (_split, "split split_with_sizes"),
        (_concatenate, "cat stack"),
        (_pad, "constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"),
        (_matmul, "mm addmm bmm baddbmm mv addmv dot"),
        (Operation.joined, "expand repeat _prelu_kernel hardswish log_sigmoid_forward _to_copy detach alias clone"),
        (Operation.joined, "native_dropout masked_fill where rsub lift_fresh rrelu_with_noise"),
    )
    for name in names.split()
}
"""aten name (without a trailing underscore) → rule. Operations that PyTorch tags as pointwise need no entry."""
