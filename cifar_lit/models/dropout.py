"""Dropout that does not hold up a CPU."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cifar_lit.errors import UserError

# A random number of 16 bits decides about an element, so probabilities are whole multiples of 1/65,536.
LEVELS = 2**16
ELEMENTS_PER_DRAW = 4


class _Mask(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        # Of the type of what it multiplies, or both passes would convert it.
        keep = keep.to(x.dtype)
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return _masked(x, keep, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return _masked(grads[0], keep, ctx.scale), None, None


def _masked(x: Tensor, keep: Tensor, scale: float) -> Tensor:
    """``x · keep · scale`` in one pass over memory, where two products take two."""
    return torch.addcmul(x.new_zeros(()), x, keep, value=scale)


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014) with the distribution of torch's, drawn faster on CPUs.

    There torch draws one number an element in a single thread, which took 57 % of the time of a training step of
    `DepthwiseNet`. Here one draw of 64 bits decides about four elements, from a generator that needs half the time.
    torch's seed is its seed. Other devices use torch's own.

    Args:
        p: Probability in [0, 1) that an element is set to zero; the others are divided by 1 − p.

    Raises:
        UserError: So it is not.
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise UserError(f"dropout is {p}: give a share from 0 up to, but not, 1.")
        super().__init__(p)

    def forward(self, input: Tensor) -> Tensor:
        """Maps a tensor of any shape to one of the same shape."""
        if not self.training or self.p == 0 or input.device.type != "cpu" or not input.numel():
            return super().forward(input)
        dense = input if _is_dense(input) else input.contiguous()
        bits = _random_bits(-(-dense.numel() // ELEMENTS_PER_DRAW)).view(torch.int16)[: dense.numel()]
        # In the memory order of the input, or channels_last would be left for every mask.
        keep = bits.as_strided(dense.shape, dense.stride()) >= round(self.p * LEVELS) - LEVELS // 2
        masked: Tensor = _Mask.apply(dense, keep, 1 / (1 - self.p))
        return masked


def _random_bits(draws: int) -> Tensor:
    """Random int64 (draws,), all 64 bits of them; torch's generator decides which."""
    if torch.compiler.is_compiling():
        # No compiler takes either into its graph, and to leave it costs less here. None stands for 2⁶³.
        return torch.empty(draws, dtype=torch.int64).random_(-(2**63), None)
    seed = torch.empty(1, dtype=torch.int64).random_().numpy()
    return torch.from_numpy(np.random.SFC64(seed).random_raw(draws).view(np.int64))


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))
