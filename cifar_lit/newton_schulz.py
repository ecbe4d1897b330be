"""Matrices with their singular values brought near 1, many in few calls: a step of Muon."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from cifar_lit.precision import choose_precision

# Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/: so steep at 0 that few steps lift small singular
# values, for which they end near 1 and not at it.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Keeps what is all zeros from being divided by zero.
EPSILON = 1e-7
# Multiplications by zeros in a product of matrices that take a device as long as the calls that they save.
WORTH_A_CALL = {"cpu": 2**21}
WORTH_A_CALL_ELSEWHERE = 2**30

# Matrices of one shape, (N, rows, columns) with no more rows than columns, and their places in a list.
Stack = tuple[list[int], Tensor]


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """Brings all singular values near 1 by a Newton–Schulz iteration of fifth degree.

    Args:
        matrices: (N, rows, columns); the fewer rows, the faster.
        steps: Of the iteration. After 5 singular values lie in 0.68 to 1.13, but for those that were tiny.

    Returns:
        (N, rows, columns), in bfloat16 where the device is fast at it, else in float32.
    """
    a, b, c = COEFFICIENTS
    x = matrices.float()
    # The Frobenius norm: no singular value is larger.
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + EPSILON)).to(_fast_dtype(x.device.type))
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def orthogonalize_all(matrices: Sequence[Tensor], steps: int) -> list[Tensor]:
    """`orthogonalize` of matrices of several shapes, in few calls, however many they are: on a GPU calls are the cost.

    Those with as many rows go together, with columns of zeros up to the widest of them: zeros stay zeros, and change
    no singular value.

    Args:
        matrices: Each (rows, columns). Tall ones are transposed on the way.
        steps: Of the iteration.

    Returns:
        Each in the shape and type of its own, contiguous.
    """
    alike: defaultdict[tuple[torch.Size, torch.dtype, torch.device], list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        alike[matrix.shape, matrix.dtype, matrix.device].append(i)
    stacks: list[Stack] = []
    for places in alike.values():
        stack = torch.stack([matrices[i] for i in places])
        stacks.append((places, stack.mT if stack.shape[1] > stack.shape[2] else stack))
    results = list(matrices)
    for batch in _batches(stacks):
        padded = [_padded(stack, batch[0][1].shape[2]) for _, stack in batch]
        orthogonal = orthogonalize(torch.cat(padded) if len(padded) > 1 else padded[0], steps).to(padded[0].dtype)
        for (places, stack), part in zip(
            batch, torch.split(orthogonal, [len(places) for places, _ in batch]), strict=True
        ):
            own = part[:, :, : stack.shape[2]]
            is_tall = own.shape[1:] != matrices[places[0]].shape
            for i, result in zip(places, (own.mT if is_tall else own).contiguous().unbind(), strict=True):
                results[i] = result
    return results


def _batches(stacks: Iterable[Stack]) -> list[list[Stack]]:
    """Stacks that go together, the widest of each first."""
    batches: list[list[Stack]] = []
    begun: dict[tuple[int, torch.dtype, torch.device], list[Stack]] = {}
    for places, stack in sorted(stacks, key=lambda one: -one[1].shape[2]):
        count, rows, columns = stack.shape
        kind = rows, stack.dtype, stack.device
        worth = WORTH_A_CALL.get(stack.device.type, WORTH_A_CALL_ELSEWHERE)
        if kind not in begun or count * rows**2 * (begun[kind][0][1].shape[2] - columns) > worth:
            begun[kind] = []
            batches.append(begun[kind])
        begun[kind].append((places, stack))
    return batches


def _padded(stack: Tensor, columns: int) -> Tensor:
    missing = columns - stack.shape[2]
    return F.pad(stack, (0, missing)) if missing else stack


@cache
def _fast_dtype(device_type: str) -> torch.dtype:
    return torch.bfloat16 if choose_precision(device_type)[0] == "bf16-mixed" else torch.float32
