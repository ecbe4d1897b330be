"""Loops that train in turns, a few steps each, in one run: what disturbs the machine for a moment disturbs all of them.

On a shared machine single seconds differ by a fifth. Whole runs one after another then need dozens of rounds to show
a difference of a hundredth; turns of a few steps show it in some minutes.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from pytorch_lightning import Callback, LightningModule, Trainer

from benchmarks.measure import now
from cifar_lit.errors import UserError

# Steps at the start of a turn that only bring a loop to speed: caches are another's, and workers of the conventional
# script have fetched four batches while others trained.
WARM_UP = 5


def turn(loop: Iterator[int], steps: int) -> float:
    """Images/s of some steps.

    Args:
        loop: Makes one step an item, and gives the number of its images.
        steps: How many are measured, after those that bring it to speed.
    """
    for _ in range(WARM_UP):
        next(loop)
    begun = now()
    images = sum(next(loop) for _ in range(steps))
    return images / (now() - begun)


class Turns(Callback):
    """Halts ``fit`` after every turn, until the others had theirs, and ends it after some rounds.

    A turn of `fit` runs from the end of one step to the end of another: with fetching, augmentation, optimizer,
    metrics, curves and progress. One that an epoch's end cuts short does not count. The first round warms up, and does
    not count either.

    Args:
        steps: Of a turn, after those that bring a loop to speed.
        rounds: Turns of each that count.

    Attributes:
        others: What else has turns: each makes the steps that it is told and returns images/s; by name. The command
            line makes the callback, so they are the class's.
        speeds: Images/s of each turn, by name.
    """

    others: ClassVar[Mapping[str, Callable[[int], float]]] = {}

    def __init__(self, steps: int, rounds: int) -> None:
        self.steps = steps
        self.rounds = rounds
        self.speeds: dict[str, list[float]] = {name: [] for name in ("fit", *self.others)}
        self._rounds_done = 0
        self._steps = self._images = 0
        self._begun = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sees to it that a turn fits into an epoch: it would never end."""
        if trainer.num_training_batches < WARM_UP + self.steps:
            raise UserError(
                f"A turn has {WARM_UP} steps that warm up and {self.steps} that count, an epoch only "
                f"{trainer.num_training_batches}: give fewer steps, smaller batches or more images."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins a turn."""
        self._steps = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts, and behind the last step of a turn gives the others theirs."""
        self._steps += 1
        self._images += len(batch[0])
        if self._steps == WARM_UP:
            self._images, self._begun = 0, now()
        elif self._steps == WARM_UP + self.steps:
            self._take_down({"fit": self._images / (now() - self._begun)})
            self._steps = 0
            if self._rounds_done > self.rounds:
                trainer.should_stop = True

    def _take_down(self, found: dict[str, float]) -> None:
        # In turn behind `fit` and behind each other.
        for name in list(self.others)[:: -1 if self._rounds_done % 2 else 1]:
            found[name] = self.others[name](self.steps)
        label = f"round {self._rounds_done}" if self._rounds_done else "warm-up"
        print(f"{label}: " + ", ".join(f"{name} {speed:,.0f}/s" for name, speed in found.items()), flush=True)
        if self._rounds_done:
            for name, speed in found.items():
                self.speeds[name].append(speed)
        self._rounds_done += 1
