"""The arithmetic of receptive fields: which pixels of the image one position of a tensor sees.

Along each axis of the image, position ``i`` of a feature map sees pixels ``first + i * jump`` to ``last + i * jump``. A
window (convolution, pooling, slice) multiplies the jump and widens the interval; where paths meet, the intervals are
united. Padding counts as pixels, as in the tables of papers: the field of a small map may exceed the image.
Source: Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from typing import Self


class Untraceable(Exception):  # noqa: N818 - the answer to a question, not a failure
    """The receptive field after an operation cannot be told. Its message says why, in half a sentence."""


@dataclass(frozen=True)
class Axis:
    """What the positions of one tensor see along one axis (height or width) of the image.

    Attributes:
        spans: jump → (first, last) in pixels: position ``i`` sees ``first + i * jump`` to ``last + i * jump``, both
            included, for each jump, united. Jump 0 is what all see alike (a global pool that is multiplied back in).
        dim: tensor dimension that runs along this axis; None where every element sees the same (then only jump 0).
        size: positions along ``dim``.
        block: sizes (none of them 1) of the dimensions that a reshape merged into ``dim``, row-major; empty for a
            plain dimension.
        place: index in ``block`` of the dimension that runs along this axis.
    """

    spans: Mapping[int, tuple[int, int]]
    dim: int | None
    size: int
    block: tuple[int, ...] = ()
    place: int = 0

    @property
    def extent(self) -> int:
        """Receptive field in pixels; of the position that sees most where positions differ."""
        # The union of straight lines is convex in the position, so that one of the two ends sees most.
        return max(self._union(i)[1] - self._union(i)[0] + 1 for i in (0, self.size - 1))

    @property
    def jump(self) -> int | None:
        """Pixels between neighbouring positions; None without a grid of positions, or where several jumps meet."""
        jumps = [jump for jump in self.spans if jump]
        return jumps[0] if self.dim is not None and not self.block and len(jumps) == 1 else None

    def _union(self, position: int) -> tuple[int, int]:
        firsts = [first + position * jump for jump, (first, _) in self.spans.items()]
        lasts = [last + position * jump for jump, (_, last) in self.spans.items()]
        return min(firsts), max(lasts)

    def window(self, size: int, kernel: int = 1, stride: int = 1, padding: int = 0, dilation: int = 1) -> Self:
        """What ``size`` windows over the positions see: convolution, pooling, padding, slice.

        Raises:
            Untraceable: the window runs over a merged dimension.
        """
        if self.dim is None:
            return self
        if self.block:
            if (size, kernel, stride, padding) != (prod(self.block), 1, 1, 0):
                raise Untraceable("takes a window of dimensions that were merged")
            return self
        start, end = -padding, dilation * (kernel - 1) - padding
        spans = {j * stride: (first + start * j, last + end * j) for j, (first, last) in self.spans.items()}
        return replace(self, spans=spans, size=size)

    def whole(self) -> Self:
        """What all positions see together, seen by every element: reduction, matrix product, normalisation."""
        first, last = self._union(0)[0], self._union(self.size - 1)[1]
        return replace(self, spans={0: (first, last)}, dim=None, size=1, block=(), place=0)

    def joined(self, other: Self) -> Self:
        """The union with another tensor of the same shape, position by position: sum, product, concatenation.

        Raises:
            Untraceable: the axis runs along different dimensions of the two.
        """
        base, added = (other, self) if self.dim is None else (self, other)
        if added.dim is not None and replace(added, spans=base.spans) != base:
            raise Untraceable("joins maps that are laid out differently")
        spans = dict(base.spans)
        for jump, (first, last) in added.spans.items():
            known = spans.get(jump, (first, last))
            spans[jump] = min(first, known[0]), max(last, known[1])
        return replace(base, spans=spans)

    def moved(self, dim: int) -> Self:
        """The same along another dimension of the tensor."""
        return self if self.dim is None else replace(self, dim=dim)


Field = tuple[Axis, Axis]
"""What a tensor sees of the image: along its height, along its width."""


def image_field(height: int, width: int) -> Field:
    """The image itself, (N, C, height, width): each position sees its own pixel."""
    return Axis({1: (0, 0)}, dim=2, size=height), Axis({1: (0, 0)}, dim=3, size=width)


def join(fields: Iterable[Field]) -> Field:
    """The union of fields of tensors of one shape."""
    return reduce(lambda a, b: (a[0].joined(b[0]), a[1].joined(b[1])), fields)


def broadcast(field: Field, before: Sequence[int], after: Sequence[int]) -> Field:
    """The field after broadcasting a tensor from shape ``before`` to shape ``after``."""
    offset = len(after) - len(before)

    def widen(axis: Axis) -> Axis:
        if axis.dim is None:
            return axis
        if before[axis.dim] == after[axis.dim + offset]:
            return axis.moved(axis.dim + offset)
        if before[axis.dim] == 1:
            return axis.whole()
        raise Untraceable("repeats positions")

    return widen(field[0]), widen(field[1])


def permute(field: Field, order: Sequence[int]) -> Field:
    """The field after reordering dimensions: dimension ``order[i]`` becomes dimension ``i``."""
    height, width = (axis if axis.dim is None else axis.moved(list(order).index(axis.dim)) for axis in field)
    return height, width


def collapse(field: Field, dims: Iterable[int], keepdim: bool) -> Field:
    """The field after a reduction (mean, maximum, sum, …) over ``dims``."""
    gone = set(dims)

    def shrink(axis: Axis) -> Axis:
        if axis.dim is None:
            return axis
        if axis.dim in gone:  # a pool whose window is the whole map
            return axis.window(1, axis.size, axis.size) if keepdim and not axis.block else axis.whole()
        return axis if keepdim else axis.moved(axis.dim - sum(dim < axis.dim for dim in gone))

    return shrink(field[0]), shrink(field[1])


def reshape(field: Field, before: Sequence[int], after: Sequence[int]) -> Field:
    """The field after a row-major reshape from ``before`` to ``after``, which may merge dimensions and part them again.

    Raises:
        Untraceable: the reshape cuts a dimension that runs along the image.
    """
    starts = [0]  # starts[dim]: how many factors lie before dimension dim; dimensions of size 1 have none
    factors: list[int] = []
    for dim, size in enumerate(before):
        factors += [n for n in _block(field, dim, size) if n != 1]
        starts.append(len(factors))
    new = [dim for dim, size in enumerate(after) if size != 1]
    result = [_unit(axis, before, after) for axis in field]
    # Walk both shapes; a group is the fewest factors that fill the fewest new dimensions.
    group: list[int] = []
    dims: list[int] = []
    have = want = 1
    for index, factor in enumerate(factors):
        group.append(index)
        have *= factor
        while want < have and new:
            dims.append(new.pop(0))
            want *= after[dims[-1]]
        if have != want:
            continue
        for k, axis in enumerate(field):
            if axis.dim is None or axis.size == 1 or starts[axis.dim] + axis.place not in group:
                continue
            if len(dims) != 1:
                raise Untraceable("reshapes space into other dimensions")
            block = tuple(factors[i] for i in group) if len(group) > 1 else ()
            place = group.index(starts[axis.dim] + axis.place) if block else 0
            result[k] = replace(axis, dim=dims[0], block=block, place=place)
        group, dims, have, want = [], [], 1, 1
    return result[0], result[1]


def _unit(axis: Axis, before: Sequence[int], after: Sequence[int]) -> Axis:
    """An axis of one position, which a reshape keeps as a dimension only where all dimensions behind it stay."""
    if axis.dim is None or axis.size != 1:
        return axis
    behind = len(before) - axis.dim
    kept = len(after) >= behind and tuple(after[-behind:]) == tuple(before[axis.dim :])
    return axis.moved(len(after) - behind) if kept else axis.whole()


def _block(field: Field, dim: int, size: int) -> tuple[int, ...]:
    """The dimensions that were merged into ``dim``."""
    return next((axis.block for axis in field if axis.dim == dim and axis.block), (size,))
