"""What several processes need beyond Lightning: an orderly end, and BatchNorm over all of them on a CPU, too."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.plugins.layer_sync import LayerSync
from torch import Tensor, nn


def leave_ranks() -> None:
    """Ends the connection to other ranks, whose threads would now and then abort a process that ends before them.

    Only where a run has ended in good order on all of them: it waits for what is under way.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def several_ranks() -> bool:
    """Whether other processes train the same network."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def share_of_ranks(images: int, device: torch.device) -> Tensor:
    """This rank's number of images over the mean of all ranks', float ().

    Times it, mean losses of ranks average to the mean over the images of all. All ranks must ask.
    """
    total = torch.full((), float(images), device=device)
    dist.all_reduce(total)
    return images * dist.get_world_size() / total


def dealt_in_turn(seen: int, count: int, rank: int, ranks: int) -> NDArray[np.int64]:
    """Places in a data set of a rank's next images, int64 (count,), where ranks take turns as in a DistributedSampler.

    Args:
        seen: Images that the rank has had.
        count: That it is given.
        rank: From 0.
        ranks: How many there are.
    """
    return np.arange(seen, seen + count) * ranks + rank


def of_all_ranks(value: Any) -> list[Any]:
    """What each rank has, in their order. All ranks must ask."""
    if not several_ranks():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def share_batch_norm_on_cpu(trainer: Trainer) -> None:
    """Lets ``sync_batchnorm`` work on CPUs, for which torch's own SyncBatchNorm is not made."""
    strategy: Any = trainer.strategy
    if isinstance(trainer.accelerator, CPUAccelerator) and getattr(strategy, "_layer_sync", None) is not None:
        strategy._layer_sync = SharedBatchNorms()


class SharedBatchNorms(LayerSync):
    """Puts `SharedBatchNorm2d` in the place of a model's BatchNorm2d while it trains, and those back behind it.

    Layers of other dimensions, which no model for images here has, stay each rank's own.
    """

    def __init__(self) -> None:
        self._layers: dict[SharedBatchNorm2d, nn.BatchNorm2d] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Replaces the layers, which keep their parameters and statistics."""
        for parent, name, layer in _children(model):
            if isinstance(layer, nn.BatchNorm2d):
                shared = SharedBatchNorm2d(layer)
                self._layers[shared] = layer
                setattr(parent, name, shared)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Puts the layers back."""
        for parent, name, layer in _children(model):
            if isinstance(layer, SharedBatchNorm2d):
                setattr(parent, name, self._layers.pop(layer).train(layer.training))
        return model


def _children(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    return [(parent, name, child) for parent in [*model.modules()] for name, child in parent.named_children()]


class SharedBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm layer whose statistics are those of the batches of all ranks together (as torch's SyncBatchNorm).

    Args:
        layer: The layer to stand in for, whose parameters and statistics it takes.
    """

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        super().__init__(
            layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats, device="meta"
        )
        # The very same tensors: the optimizer knows them, and what is learnt is there when the layer comes back.
        self._parameters, self._buffers = layer._parameters, layer._buffers
        self.training = layer.training

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (N, C, H, W); in evaluation mode as BatchNorm2d does."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        full = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        # Ranks may hold different numbers of images.
        sums = _SumOverRanks.apply(torch.cat([full.sum((0, 2, 3)), full.new_tensor([x.numel() / x.shape[1]])]))
        count = sums[-1].detach()
        centred = full - _per_channel(sums[:-1] / count)
        variance = _SumOverRanks.apply(centred.square().sum((0, 2, 3))) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_((sums[:-1] / count).detach().to(self.running_mean.dtype), share)
            unbiased = variance.detach() * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            normalised = centred * _per_channel(scale * self.weight) + _per_channel(self.bias)
        else:
            normalised = centred * _per_channel(scale)
        return normalised.to(x.dtype)


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks; every rank's loss depends on every rank's share of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _SumOverRanks.forward(ctx, gradients[0])
