"""A table of a network's layers, as executed: sizes, parameters, multiply-adds and receptive fields."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from cifar_lit.explain.layer_kinds import (
    ROW_KINDS,
    Sizes,
    computed_window,
    declared_window,
    is_layer,
    is_statistic,
    is_uncounted,
    kind,
)
from cifar_lit.explain.layer_rows import LayerRow, LayerTable
from cifar_lit.explain.network import modes_kept, network_of
from cifar_lit.explain.operation_rules import Operation, tensors
from cifar_lit.explain.tracing import FieldTracer, Unknown

__all__ = ["LayerRow", "LayerTable", "layer_table", "network_table"]


def layer_table(net: nn.Module, input_size: tuple[int, int, int] = (3, 32, 32)) -> LayerTable:
    """Describe every layer of a network in the order of execution.

    The network runs once, on one image of zeros, in evaluation mode; its modes, buffers and the random state of torch
    are afterwards as they were. Layers are modules without children and the layers of ``torch.nn``; a sum, a pooling
    or a matrix product that the forward computes outside of them has a row of its own.

    Args:
        net: any module that maps (N, C, H, W) to whatever it likes.
        input_size: (C, H, W) of one image.

    Returns:
        The table. Where a receptive field cannot be told it is None, and a note says where and why.

    Raises:
        ValueError: the size is not of one image, or the network cannot run on it.
    """
    if len(input_size) != 3 or min(input_size) < 1:
        raise ValueError(f"input_size is (channels, height, width), each at least 1; not {tuple(input_size)}")
    if any(is_lazy(tensor) for tensor in (*net.parameters(), *net.buffers())):
        raise ValueError("the network has lazy layers, whose sizes are not known yet: run it on one batch first")
    net = getattr(net, "_orig_mod", net)  # what torch.compile wraps: its graph would hide the layers
    weight = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(0))
    image = torch.zeros(1, *input_size, dtype=weight.dtype, device=weight.device)
    walk = _Walk(net, image)
    try:
        walk.run()
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        size = "×".join(map(str, input_size))
        raise ValueError(f"the network cannot run on an input of {size}: {type(error).__name__}: {reason}") from error
    return LayerTable(
        rows=tuple(walk.rows),
        input_size=(input_size[0], input_size[1], input_size[2]),
        trainable_parameters=sum(p.numel() for p in net.parameters() if p.requires_grad),
        batchnorm_statistics=sum(b.numel() for name, b in net.named_buffers() if is_statistic(name)),
        notes=tuple(walk.notes()),
    )


def network_table(model: nn.Module, image_size: Any) -> LayerTable:
    """Describe the layers of a LightningModule's ``net`` or, unless that holds all parameters, of the module itself.

    Args:
        model: maps images (N, 3, H, W), or with as many channels as its ``example_input_array`` (N, C, H, W) has.
        image_size: height and width of the images in pixels, or one number for both.

    Returns:
        The table.

    Raises:
        ValueError: the size is none, or the network cannot run on such images.
    """
    try:
        height, width = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
        example = getattr(model, "example_input_array", None)
        channels = example.shape[1] if isinstance(example, Tensor) and example.ndim == 4 else 3
        input_size = (channels, int(height), int(width))
    except (TypeError, ValueError):
        wanted = "a number of pixels or a pair of them"
        raise ValueError(f"the images' size is {image_size!r}, where {wanted} is wanted") from None
    # A module that keeps layers beside its net, or does more than to call it, is described whole.
    return layer_table(network_of(model), input_size)


class _Walk:
    """One forward that writes a row a layer."""

    def __init__(self, net: nn.Module, image: Tensor) -> None:
        self.net = net
        self.image = image
        self.rows: list[LayerRow] = []
        self.tracer = FieldTracer(image, self._after_operation)
        self.counter = FlopCounterMode(display=False)
        self._names = {module: name for name, module in net.named_modules()}
        self._parents: list[nn.Module] = []  # the modules whose forward runs
        self._leaf: nn.Module | None = None  # the layer whose forward runs
        self._pending: dict[int, Tensor] = {}  # parameters used outside of layers, which the next row takes
        self._counted: set[int] = set()  # parameters and statistics that are in a row
        self._uncounted: dict[str, str] = {}  # place → an operation whose multiply-adds torch does not count
        self._macs = 0  # multiply-adds that are in a row

    def run(self) -> None:
        """Execute the network and fill `rows`."""
        buffers = {name: buffer.clone() for name, buffer in self.net.named_buffers()}
        devices = [self.image.device] if self.image.is_cuda else []
        with ExitStack() as stack:
            # Over one image threads wait for one another longer than they work: ResNet-1001 takes a fifth of the time.
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
            stack.enter_context(_evaluating(self.net))
            for module in self.net.modules():
                stack.callback(module.register_forward_pre_hook(self._before_module).remove)
                stack.callback(module.register_forward_hook(self._after_module, always_call=True).remove)
            stack.enter_context(torch.random.fork_rng(devices))
            stack.enter_context(torch.no_grad())
            stack.enter_context(self.counter)
            stack.enter_context(self.tracer)
            # The forward works on copies of the buffers, so that what it may write there is lost.
            for out in tensors(torch.func.functional_call(self.net, buffers, (self.image,))):
                self._add_output(out)

    def _add_output(self, out: Tensor) -> None:
        """Add a row for what the network puts out, where what follows the last row has changed its field."""
        record = self.tracer.record(out)
        if isinstance(record, Unknown):
            new = record.reason not in {row.note for row in self.rows}
        else:
            fields = [row.receptive_field for row in self.rows if row.receptive_field]
            new = record is not None and any(
                axis.extent > max((field[i] for field in fields), default=0) for i, axis in enumerate(record)
            )
        if new:
            self._add_row("output", "Output", (None, None, None), [], out)

    def notes(self) -> Iterator[str]:
        """What the rows do not tell, each once."""
        yield from dict.fromkeys(row.note for row in self.rows if row.note)
        for place, name in self._uncounted.items():
            yield f"{place}: the multiply-adds of {name} are not counted"
        left = {n: p for n, p in self.net.named_parameters() if p.requires_grad and id(p) not in self._counted}
        if left:
            names = ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in left))
            count = sum(p.numel() for p in left.values())
            yield f"not executed, and so in the totals only: {names} ({count:,} parameters)"

    def _before_module(self, module: nn.Module, args: Any) -> None:
        self._parents.append(module)
        if self._leaf is None:
            self._leaf = module if is_layer(module) else None
            self._tell_place()

    def _after_module(self, module: nn.Module, args: Any, output: Any) -> None:
        self._parents.pop()
        out = next(tensors(output), None)
        if module is self._leaf and out is not None and not isinstance(module, nn.Identity):
            own = [*module.parameters(), *(b for name, b in module.named_buffers() if is_statistic(name))]
            before = next(tensors(args), out).shape
            self._add_row(
                self._names[module] or kind(module), kind(module), declared_window(module, before, out), own, out
            )
        if self._leaf in (None, module):
            self._leaf = None
            self._tell_place()

    def _tell_place(self) -> None:
        module = self._parents[-1] if self._parents else self.net
        self.tracer.place = f"{self._names[module] or 'the forward'} ({type(module).__name__})"

    def _after_operation(self, operation: Operation) -> None:
        """Add a row for an operation outside any layer, if it computes, pools or joins."""
        if is_uncounted(operation):
            self._uncounted[self.tracer.place] = operation.name
        if self._leaf is not None:
            return
        self._pending |= {id(p): p for p in tensors(operation.args) if isinstance(p, nn.Parameter)}
        sources = {id(source) for source in operation.sources}
        computes = self.counter.get_total_flops() // 2 > self._macs or self._pending.keys() - self._counted
        if not sources or not operation.outputs or not (computes or len(sources) > 1 or operation.name in ROW_KINDS):
            return
        prefix = self._names[self._parents[-1]] if self._parents else ""
        name = operation.name.strip("_")
        own, self._pending = list(self._pending.values()), {}
        label = ROW_KINDS.get(operation.name, name.capitalize())
        self._add_row(f"{prefix}.{name}".strip("."), label, computed_window(operation), own, operation.outputs[0])

    def _add_row(self, name: str, label: str, window: Sequence[Sizes], own: Sequence[Tensor], out: Tensor) -> None:
        new = [tensor for tensor in own if id(tensor) not in self._counted]
        self._counted |= {id(tensor) for tensor in new}
        macs = self.counter.get_total_flops() // 2 - self._macs
        self._macs += macs
        record = self.tracer.record(out)
        field = jump = None
        note = ""
        if isinstance(record, Unknown):
            note = record.reason
        elif record is None:
            note = f"{name} ({label}): does not depend on the image by any operation that can be followed"
        else:
            field = record[0].extent, record[1].extent
            if record[0].jump is not None and record[1].jump is not None:
                jump = record[0].jump, record[1].jump
        self.rows.append(
            LayerRow(
                name=name,
                kind=label,
                kernel=window[0],
                stride=window[1],
                dilation=window[2],
                output_size=tuple(out.shape[1:]),
                parameters=sum(p.numel() for p in new if isinstance(p, nn.Parameter) and p.requires_grad),
                batchnorm_statistics=sum(b.numel() for b in new if not isinstance(b, nn.Parameter)),
                macs=macs,
                receptive_field=field,
                jump=jump,
                note=note,
            )
        )


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode, without calling a `train` that the user may have overridden."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernels are not among the counted operations
    try:
        with modes_kept(net):
            for module in net.modules():
                module.training = False
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
