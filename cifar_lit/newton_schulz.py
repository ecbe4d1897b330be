"""Matrices with their singular values brought near 1, many in few calls: a step of Muon."""

from collections import defaultdict
from collections.abc import Sequence
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
# Numbers in a matrix up to which a call costs a CPU more than what it multiplies.
SMALL = 2**16


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
    """`orthogonalize` of matrices of several shapes, in few calls: on a GPU they are what it costs.

    Those with as many rows go together, with columns of zeros up to the widest of them: zeros stay zeros, and change
    no singular value. A CPU, which has to multiply them, does so with small matrices only.

    Args:
        matrices: Each (rows, columns). Tall ones are transposed on the way.
        steps: Of the iteration.

    Returns:
        Each in the shape and type of its own, contiguous.
    """
    wide = [matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    together: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for i, matrix in enumerate(wide):
        rows, columns = matrix.shape
        is_cheap = matrix.device.type != "cpu" or matrix.numel() <= SMALL
        together[rows, 0 if is_cheap else columns].append(i)
    results = list(matrices)
    for places in together.values():
        widest = max(wide[i].shape[1] for i in places)
        orthogonal = orthogonalize(torch.stack([_padded(wide[i], widest) for i in places]), steps)
        for i, one in zip(places, orthogonal.to(matrices[places[0]].dtype).unbind(), strict=True):
            one = one[:, : wide[i].shape[1]]
            results[i] = (one if wide[i] is matrices[i] else one.mT).contiguous()
    return results


def _padded(matrix: Tensor, columns: int) -> Tensor:
    missing = columns - matrix.shape[1]
    return F.pad(matrix, (0, missing)) if missing else matrix


@cache
def _fast_dtype(device_type: str) -> torch.dtype:
    return torch.bfloat16 if choose_precision(device_type)[0] == "bf16-mixed" else torch.float32
