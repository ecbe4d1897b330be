"""One record, for all panels, of what the network says of a split's images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import Tensor

from cifar_lit.console import printable, say
from cifar_lit.explain.scoring import Predictions
from cifar_lit.ranks import dealt_in_turn, of_all_ranks

Places = NDArray[np.int64]

# Images kept of data that does not hold its images in memory: panels choose among these.
KEPT = 512


class Pictures(Protocol):
    """Where the images of a split are found again. An image's place is its index in the data set."""

    def note(self, batch_idx: int, images: Tensor) -> Places:
        """Takes note of this rank's batch of normalised images, float (n, C, H, W), and tells their places, (n,)."""

    def has(self, places: Places) -> NDArray[np.bool_]:
        """Which of the images can be found again."""

    def find(self, places: Places, device: torch.device) -> tuple[NDArray[np.uint8], Tensor]:
        """Pixels, uint8 (n, H, W, 3), and what the network gets, float (n, 3, H, W), on the device."""


class StoredPictures:
    """Images that the data module holds in memory, as `ImageDataModule` does.

    Args:
        images: With ``pixels``, uint8 (N, H, W, 3).
        loader: With the plan that tells the places of a batch, and the executor that makes batches.
        datamodule: Normalises them.
    """

    def __init__(self, images: Any, loader: Any, datamodule: Any) -> None:
        self._images, self._loader, self._datamodule = images, loader, datamodule

    def note(self, batch_idx: int, images: Tensor) -> Places:
        """The places that the plan gives."""
        places: Places = self._loader.plan.key(0, batch_idx).indices
        return places

    def has(self, places: Places) -> NDArray[np.bool_]:
        """All of them."""
        return np.ones(len(places), dtype=bool)

    def find(self, places: Places, device: torch.device) -> tuple[NDArray[np.uint8], Tensor]:
        """Makes a batch of them, exactly as evaluation does: a recipe may normalise in its own list of transforms."""
        key = replace(self._loader.plan.key(0, 0), seeds=np.zeros(len(places), np.uint64), indices=places)
        batch = [part.to(device) for part in self._loader.executor[key]]
        return self._images.pixels[places], self._datamodule.on_after_batch_transfer(batch, 0)[0]


class KeptPictures:
    """Some `KEPT` images of rank zero, the first of each batch, taken from the batches: their pixels are gone.

    Of each batch, because data may come class after class.

    Args:
        rank: This process, from 0.
        world_size: Number of processes, which take turns as in a `DistributedSampler`.
        batches: Number of batches that will come, if it is known.
    """

    def __init__(self, rank: int, world_size: int, batches: float = math.inf) -> None:
        self._rank, self._world_size = rank, world_size
        known = 0 < batches < math.inf
        self._every = max(math.ceil(batches / KEPT), 1) if known else 1
        self._of_each = math.ceil(KEPT * self._every / batches) if known else KEPT
        self._most = math.inf if known else KEPT
        self._seen = 0
        self._kept: list[Tensor] = []
        self._places: Places = np.empty(0, np.int64)

    def note(self, batch_idx: int, images: Tensor) -> Places:
        """Keeps images, and counts on."""
        places: Places = dealt_in_turn(self._seen, len(images), self._rank, self._world_size)
        self._seen += len(images)
        if self._rank == 0 and batch_idx % self._every == 0 and len(self._places) < self._most:
            # A copy: a view would keep the whole batch.
            self._kept.append(images[: self._of_each].detach().clone())
            self._places = np.append(self._places, places[: self._of_each])
        return places

    def has(self, places: Places) -> NDArray[np.bool_]:
        """Those that were kept."""
        return np.isin(places, self._places)

    def find(self, places: Places, device: torch.device) -> tuple[NDArray[np.uint8], Tensor]:
        """The images, and stretched to 0–255 each."""
        images = torch.cat(self._kept)[torch.from_numpy(np.searchsorted(self._places, places))].to(device)
        return stretched(images), images


def stretched(images: Tensor) -> NDArray[np.uint8]:
    """Pixels of normalised images, float (n, 1 or 3, H, W), as uint8 (n, H, W, 3): each from its least to its most."""
    low, high = images.float().flatten(1).aminmax(dim=1, keepdim=True)
    shares = (images.float() - low[..., None, None]) / (high - low).clamp(min=1e-12)[..., None, None]
    return (255 * shares).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What a network said of a split.

    Args:
        split: ``val`` or ``test``.
        step: At which it is logged: within a fit the last optimizer step before it, counted from 0.
        predictions: Of all images, in the order of their places.
        shown: Of the images that can be drawn.
        places: Of the images that can be drawn, int64 (n,), rising.
        pictures: Finds them.
    """

    split: str
    step: int
    predictions: Predictions
    shown: Predictions
    places: Places
    pictures: Pictures

    def find(self, rows: Sequence[int], device: torch.device) -> tuple[NDArray[np.uint8], Tensor]:
        """Pixels and network inputs of rows of ``shown``: see `Pictures.find`."""
        return self.pictures.find(self.places[rows], device)


def _batches(trainer: Trainer, split: str) -> float:
    """Number of batches of a split, of the first of its loaders: panels look at no other."""
    of_validation = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
    return next(iter(trainer.num_test_batches if split == "test" else of_validation), math.inf)


class Record:
    """Labels and logits of the newest pass over a split. They stay on the device until a panel asks for them.

    Attributes:
        step: At which it is logged: within a fit the last optimizer step before it, counted from 0.
        steps_taken: Optimizer steps before it.
    """

    def __init__(self) -> None:
        self._split, self.step, self.steps_taken = "", 0, 0
        self._pictures: Pictures = KeptPictures(0, 1)
        self._batches: list[tuple[Places, Tensor, Tensor]] = []
        self._was_read = False
        self._evaluated: Evaluated | None = None
        self._said: set[str] = set()

    def begin(self, trainer: Trainer, split: str) -> None:
        """Forgets the pass before."""
        # Where Lightning's metrics of the same pass stand.
        self._split, self.step = split, trainer.fit_loop.epoch_loop._batches_that_stepped
        self.steps_taken = trainer.global_step
        self._batches, self._was_read, self._evaluated = [], False, None
        datamodule = getattr(trainer, "datamodule", None)
        images = getattr(datamodule, f"{split}_images", None)
        loader = trainer.test_dataloaders if split == "test" else trainer.val_dataloaders
        if images is not None and hasattr(loader, "plan"):
            self._pictures = StoredPictures(images, loader, datamodule)
        else:
            self._pictures = KeptPictures(trainer.global_rank, trainer.world_size, _batches(trainer, split))

    def add(self, batch: Any, logits: Any, batch_idx: int) -> None:
        """Takes a batch; one that is not images and labels, with logits for them, is passed over."""
        if not (isinstance(batch, (list, tuple)) and len(batch) == 2):
            return
        images, labels = batch
        shapes = [part.shape for part in (images, labels, logits) if isinstance(part, Tensor)]
        if [len(shape) for shape in shapes] == [4, 1, 2] and len({shape[0] for shape in shapes}) == 1:
            self._batches.append((self._pictures.note(batch_idx, images), labels.detach(), logits.detach()))

    def read(self, trainer: Trainer) -> Evaluated | None:
        """What the network said; None where it gave no logits, and on all ranks but zero. Every rank must call it."""
        if not self._was_read:
            # Told by a flag that is the same on all ranks: they gather together or not at all.
            self._was_read = True
            shares = self._gather()
            if shares and trainer.is_global_zero:
                parts = zip(*shares, strict=True)
                self._evaluated = self._joined(trainer, *(np.concatenate(part) for part in parts))
            self._batches = []
        return self._evaluated

    def _gather(self) -> list[tuple[NDArray[Any], ...]]:
        """Places, labels and logits of each rank that has some."""
        share = None
        if self._batches:
            places, labels, logits = zip(*self._batches, strict=True)
            share = np.concatenate(places), torch.cat(labels).cpu().numpy(), torch.cat(logits).float().cpu().numpy()
        return [share for share in of_all_ranks(share) if share is not None]

    def _joined(self, trainer: Trainer, places: Places, labels: Places, logits: NDArray[np.float32]) -> Evaluated:
        names = tuple(map(printable, getattr(getattr(trainer, "datamodule", None), "class_names", None) or ()))
        if len(names) != logits.shape[1]:
            names = tuple(map(str, range(logits.shape[1])))
        order = np.argsort(places)
        places, predictions = places[order], Predictions(labels[order], logits[order], names)
        drawn = self._pictures.has(places)
        shown = Predictions(predictions.labels[drawn], predictions.logits[drawn], names)
        return Evaluated(self._split, self.step, predictions, shown, places[drawn], self._pictures)

    def say_once(self, message: str) -> None:
        """Says a line that was not said before."""
        if message not in self._said:
            self._said.add(message)
            say(message)
