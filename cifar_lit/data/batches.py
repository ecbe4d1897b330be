"""The plan of a run's batches: (seed, epoch, step) decides which images, and what is drawn for them. Nothing else does.

From that follow the same run whatever the number of workers or ranks, other augmentations in every epoch, and a
resume in the middle of an epoch that repeats and skips nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cifar_lit.data.worker_processes import begin_worker, end_workers_at_exit, spoken_plainly
from cifar_lit.errors import UserError

Batch = tuple[Tensor, Tensor]

# Images of 32×32 in an evaluation batch of one device: large enough for a GPU, small enough for 1 GB of activations.
EVALUATION_BATCH = 500
# What is drawn for one purpose must not be what is drawn for another.
ORDER, AUGMENTATION = 1, 2


@dataclass(frozen=True)
class BatchKey:
    """All that decides one rank's share of one batch.

    Attributes:
        epoch: Counted from 0.
        step: Counted from 0 in every epoch.
        seeds: One for each image of this share, uint64 (n,); everything drawn for an image comes from its own.
        indices: Which images, int64 (n,).
    """

    epoch: int
    step: int
    seeds: NDArray[np.uint64]
    indices: NDArray[np.int64]


class Plan(Protocol):
    """Knows the batches of every epoch."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def key(self, epoch: int, step: int) -> BatchKey:
        """The batch at a place of the run."""


class TrainingPlan:
    """Shuffles anew in every epoch and shares each batch out among the ranks, repeating and dropping no image.

    Args:
        size: Number of images.
        batch_size: Images in a batch, over all ranks together.
        seed: Of the run.
        rank: This process, from 0.
        world_size: Number of processes.
        drop_last: Leave the smaller batch at the end of an epoch out.
        same_order: Visit the images of every epoch in the order of the first: for the trainer's ``overfit_batches``.

    Raises:
        UserError: A batch cannot be shared out among the ranks.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        same_order: bool = False,
    ) -> None:
        if batch_size % world_size:
            raise UserError(
                f"batch_size {batch_size} does not divide over {world_size} devices: "
                f"give a multiple of {world_size} (it counts the images of all devices together)."
            )
        last = size % batch_size
        if 0 < last < world_size and not drop_last:
            raise UserError(
                f"The last batch of an epoch has {last} images for {world_size} devices: "
                "give another batch_size, or data.drop_last: true."
            )
        if drop_last and size < batch_size:
            raise UserError(f"batch_size {batch_size} is more than the {size} training images: give a smaller one.")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.same_order = same_order
        self._steps = size // batch_size if drop_last else math.ceil(size / batch_size)
        self._order_of: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self._steps

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The order in which an epoch visits the images, int64 (size,)."""
        epoch = 0 if self.same_order else epoch
        if self._order_of is None or self._order_of[0] != epoch:
            self._order_of = epoch, np.random.default_rng([ORDER, self.seed, epoch]).permutation(self.size)
        return self._order_of[1]

    def key(self, epoch: int, step: int) -> BatchKey:
        """This rank's share of a batch."""
        indices = self.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]
        # Seeds go by the place in the whole batch, so that an image is augmented alike whatever the number of ranks.
        seeds = (
            np.random.SeedSequence([AUGMENTATION, self.seed, epoch, step])
            .generate_state(len(indices), np.uint64)
            .astype(np.uint64)
        )
        start, stop = (len(indices) * r // self.world_size for r in (self.rank, self.rank + 1))
        return BatchKey(epoch, step, seeds[start:stop], indices[start:stop])


def evaluation_batch(height: int, width: int) -> int:
    """Images of a size in an evaluation batch: of larger ones fewer, whose activations take as much memory."""
    return max(min(EVALUATION_BATCH * 32 * 32 // (height * width), EVALUATION_BATCH), 1)


class EvaluationPlan:
    """Visits every image exactly once, over all ranks together, in the same number of batches on each.

    That keeps ranks in step: a shard that is short makes smaller batches.

    Args:
        size: Number of images.
        batch_size: Images in a batch of one rank, at most.
        rank: This process, from 0.
        world_size: Number of processes.
        shuffled: In an order by chance, the same every time: the first batches have some of every class.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world_size: int = 1, shuffled: bool = False) -> None:
        steps = math.ceil(math.ceil(size / world_size) / batch_size)
        order = np.random.default_rng([ORDER, size]).permutation(size) if shuffled else np.arange(size)
        self._batches = np.array_split(order[rank::world_size], steps)

    def __len__(self) -> int:
        return len(self._batches)

    def key(self, epoch: int, step: int) -> BatchKey:
        """This rank's images of a batch; nothing is drawn for them."""
        return BatchKey(epoch, step, np.zeros(len(self._batches[step]), np.uint64), self._batches[step])


class _Keys(Sampler[BatchKey]):
    """Walks a plan through one epoch. Lightning tells it the epoch, the loader where to begin."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[BatchKey]:
        # A DataLoader with workers calls this twice before it takes the first key, so nothing may change here.
        return (self.plan.key(self.epoch, step) for step in range(self.start, len(self.plan)))


class BatchLoader:
    """Makes a plan's batches, in worker processes or in this one, and knows how far it has come.

    It is no `DataLoader`, so that Lightning leaves its order alone; it has what Lightning looks for: a length, a
    ``sampler`` with ``set_epoch``, ``state_dict`` and ``load_state_dict``, and the ``_iterator`` that holds workers.

    Args:
        plan: Decides the batches.
        executor: Makes a batch of a `BatchKey`.
        num_workers: Worker processes; 0 makes the batches in this process.
        pin_memory: Put batches in page-locked memory, for faster copies to a GPU.
    """

    def __init__(self, plan: Plan, executor: Dataset[Batch], num_workers: int = 0, pin_memory: bool = False) -> None:
        self.plan = plan
        self.executor = executor
        self.sampler = _Keys(plan)
        # Lightning looks here, too, for something to tell the epoch to.
        self.batch_sampler = None
        self.position = 0
        self._resume_at = (0, 0)
        self._loader: DataLoader[Batch] = DataLoader(
            executor,
            sampler=self.sampler,
            batch_size=None,
            num_workers=num_workers,
            pin_memory=pin_memory,
            # Starting workers anew costs seconds in every epoch where processes are spawned.
            persistent_workers=num_workers > 0,
            worker_init_fn=begin_worker,
            # Its own, so that the loader takes nothing from the global generator.
            generator=torch.Generator(),
        )
        if num_workers:
            end_workers_at_exit(self)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        (epoch, step), self._resume_at = self._resume_at, (0, 0)
        self.position = self.sampler.start = step if epoch == self.sampler.epoch else 0
        # One that can makes several at once.
        walk = getattr(self.executor, "walk", None)
        for batch in spoken_plainly(self._loader) if walk is None else walk(self.sampler):
            self.position += 1
            yield batch

    @property
    def _iterator(self) -> Any:
        # Through this Lightning ends the workers at the end of a run. The garbage collector, which met them in a
        # cycle, did not tell them, and ending each took five seconds.
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: None) -> None:
        self._loader._iterator = iterator

    def state_dict(self) -> dict[str, Any]:
        """Where the run is: the epoch, and how many of its batches were handed out."""
        return {"epoch": self.sampler.epoch, "position": self.position, "of": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues that epoch behind the last batch that was handed out. Any other epoch begins at its first batch.

        Where batches have another size now, it goes on at the same share of the epoch.
        """
        of = state.get("of", len(self))
        self.position = state["position"] % of * len(self) // of
        self._resume_at = (state["epoch"], self.position)
