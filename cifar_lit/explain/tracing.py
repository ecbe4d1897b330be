"""Follows the receptive field of every tensor through a forward pass, whatever Python runs in it.

A dispatch mode sees each elementary operation (aten) that the forward executes, and applies its rule to the fields of
the tensors that go in. An operation without a rule yields `Unknown`, which says why, and never a guess.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from cifar_lit.explain.operation_rules import RULES, Operation, tensors
from cifar_lit.explain.receptive_field import Field, Untraceable, image_field, join


@dataclass(frozen=True)
class Unknown:
    """A receptive field that cannot be told, and why."""

    reason: str


Record = Field | Unknown | None
"""What is known of a tensor; None where it does not depend on the image."""


CONSTANTS = {
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "zero"),
    *("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"),
}
"""Operations whose result has the shape of their input but none of its values."""

REASONS = {
    "upsample": "resamples the map (interpolation)",
    "pixel_shuffle": "resamples the map",
    "_scaled_dot_product": "is attention, which mixes positions",
    "_native_multi_head": "is attention, which mixes positions",
    "_transformer": "is attention, which mixes positions",
    "im2col": "unfolds windows into channels",
    "grid_sampler": "samples the map at computed places",
}
"""Start of an aten name → why it has no rule."""


class FieldTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context in which the receptive field of every tensor computed from ``image`` is known.

    Args:
        image: (N, C, H, W), the input of the network.
        observe: called after each operation with what was done.

    Attributes:
        place: where the forward is, for the reasons of what cannot be traced. The caller keeps it up to date.
    """

    def __init__(self, image: Tensor, observe: Callable[[Operation], None] = lambda operation: None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Weak: a network's activations must be freed as its forward goes on.
        self._records: Any = WeakIdKeyDictionary()
        self._records[image] = image_field(image.shape[2], image.shape[3])
        self._observe = observe
        self._lost: Unknown | None = None  # set once the forward takes a path that no tensor shows
        self._written: dict[int, Record] = {}  # memory that was written through a view: what a buffer holds by now
        self.place = "the forward"

    def record(self, tensor: Tensor) -> Record:
        """What is known of ``tensor``."""
        if tensor in self._records:
            record: Record = self._records[tensor]
            return self._lost or record if record is not None else None
        return self._written.get(_memory(tensor)) if self._written else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation as it is, then follow what it did."""
        result = func(*args, **(kwargs or {}))
        schema = func._schema
        bound = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        bound |= dict(zip((a.name for a in schema.arguments), args, strict=False)) | (kwargs or {})
        bound.pop("out", None)
        name = func.overloadpacket.__name__.removesuffix("_")
        if name in ("copy", "fill"):  # overwrite their first argument
            bound.pop("self")
        given = [(tensor, self.record(tensor)) for tensor in tensors(bound)]
        fields = [(tensor, record) for tensor, record in given if isinstance(record, tuple)]
        unknown = next((record for _, record in given if isinstance(record, Unknown)), None)
        operation = Operation(
            name, bound, fields, list(tensors(result)), [tensor for tensor, record in given if record]
        )
        if operation.sources and result is not None and not operation.outputs:
            self._lost = unknown or self._unknown(name, "reads a value of the activations into Python")
        before = [self.record(out) for out in operation.outputs]
        for out in operation.outputs:
            record = None
            if operation.sources and name not in CONSTANTS:
                record = unknown or self._apply(operation, out, torch.Tag.pointwise in func.tags)
            self._records[out] = record
        if schema.is_mutable:
            for out, old in zip(operation.outputs, before, strict=True):
                if self._records[out] != old:
                    self._spread(out)
        self._observe(operation)
        return result

    def _unknown(self, name: str, why: str) -> Unknown:
        return Unknown(f"{self.place}: {name.strip('_')} {why}; no receptive field can be told from here on")

    def _apply(self, operation: Operation, out: Tensor, pointwise: bool) -> Record:
        name = operation.name
        fields = [field for _, field in operation.inputs]
        try:
            if pointwise or name in ("copy", "fill"):
                field = operation.joined(out)
            elif name in RULES:
                field = RULES[name](operation, out)
            else:
                why = (why for start, why in REASONS.items() if name.startswith(start))
                raise Untraceable(next(why, "has no rule"))
        except Untraceable as reason:
            if any(axis.size > 1 for field in fields for axis in field):
                return self._unknown(name, str(reason))
            # Without positions every element sees the same pixels, and so does whatever is made of them.
            field = join((height.whole(), width.whole()) for height, width in fields)
        except Exception as error:  # an argument that a rule does not foresee must not break the user's summary
            return self._unknown(name, f"cannot be followed ({type(error).__name__}: {error})")
        for axis in field:  # a rule that errs shows in the sizes: rather no number than a wrong one
            if axis.dim is not None and (
                axis.dim >= out.dim() or out.shape[axis.dim] != prod(axis.block or (axis.size,))
            ):
                return self._unknown(name, "does not keep the layout of the map")
        return field

    def _spread(self, out: Tensor) -> None:
        """Tell all that shares memory with ``out`` that it was written to."""
        memory, record = _memory(out), self._records[out]
        unknown = self._unknown("an operation in place", "writes a part of a map, as circular padding does")
        for other in list(self._records.keys()):
            if other is not out and _memory(other) == memory and _overlap(other, out):
                same = (other.shape, other.stride(), _range(other)) == (out.shape, out.stride(), _range(out))
                self._records[other] = record if same else unknown
        self._written[memory] = unknown


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _range(tensor: Tensor) -> range:
    """The elements of its memory that lie between its first and its last."""
    start = tensor.storage_offset()
    return range(start, start + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1)


def _overlap(a: Tensor, b: Tensor) -> bool:
    return max(_range(a).start, _range(b).start) < min(_range(a).stop, _range(b).stop)
