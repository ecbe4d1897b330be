"""What a training step is made of beyond its loss: its seed, the weight of its batches, and its learning rate."""

import itertools
import os
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import BatchSizeFinder, GradientAccumulationScheduler
from torch import Tensor
from torch.optim import Optimizer

from cifar_lit.errors import UserError
from cifar_lit.ranks import several_ranks

# Generators take seeds below 2⁶³.
_SEED_MASK = 0x7FFF_FFFF_FFFF_FFFF
# What is said of what goes by the share of a run, where nobody knows how long that is.
NO_LENGTH = (
    "needs the run's length: give --trainer.max_epochs or --trainer.max_steps, the latter or "
    "--trainer.limit_train_batches where the data have no length."
)
# Of this process.
_FITS = itertools.count()


def seed_batch(device: torch.device, epoch: int, batch: int, rank: int) -> None:
    """Makes what a network draws for a batch (dropout) a function of the run's seed and these numbers alone.

    Then a resumed run draws what the uninterrupted one drew, and nothing that ran in between matters.
    """
    run_seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
    seed = hash((run_seed, epoch, batch, rank)) & _SEED_MASK
    # torch.manual_seed also queues a seeding for every kind of device that is not there, at 1 ms a step.
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def draw_seed() -> int:
    """What to seed torch's generators with behind a run, which seeds them step by step: see `seed_afterwards`."""
    drawn, count = int(torch.randint(_SEED_MASK, (), device="cpu")), next(_FITS)
    # Lightning has several ranks begin every fit with the run's seed: there the count alone tells one from another.
    return hash((drawn, count)) & _SEED_MASK if several_ranks() else drawn


def seed_afterwards(drawn: int) -> None:
    """Has torch's generators go on from what was drawn before a run, and not from the last of its steps.

    Else everything that is drawn behind a run, such as the weights of the next network, would be the same every time.
    """
    torch.manual_seed(drawn)


def seed_order(epoch: int, batches: int = 0) -> None:
    """Makes the order in which a DataLoader of one's own shuffles an epoch's images a function of seed and epoch alone.

    It asks torch's generator when the epoch begins, which in a resumed run would be as in the first one.

    Args:
        epoch: Counted from 0.
        batches: Of the epoch that were learnt before, where the loader begins it anew: another order.
    """
    if "PL_GLOBAL_SEED" in os.environ:
        # From -2 on: Python's hashes of -1 and -2 are the same.
        seed_batch(torch.device("cpu"), epoch, -2 - batches, 0)


def check_length(trainer: Trainer, by_steps: bool = True) -> None:
    """Refuses callbacks that change how many steps a run has when it has begun.

    Args:
        trainer: Has them.
        by_steps: Whether a schedule or an average goes by the number of steps. Without one a larger batch may be.

    Raises:
        UserError: There is one.
    """
    # A run that goes on inside an epoch would gather no gradients up to its end.
    refused: dict[type, str] = {GradientAccumulationScheduler: "--trainer.accumulate_grad_batches"}
    refused |= {BatchSizeFinder: "--data.batch_size"} if by_steps else {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        # Lightning's Tuner looks for a batch size in a fit of its own, and not in that which follows.
        for kind in () if getattr(callback, "_early_exit", False) else refused:
            if isinstance(callback, kind):
                name = kind.__name__
                raise UserError(f"{name} changes the steps of a run that has begun: give {refused[kind]} instead.")


def check_due(name: str, every: int, first: int, last: int) -> None:
    """Refuses an average of every so many steps that a run has none of, from its first to its last one.

    Raises:
        UserError: So it is.
    """
    if last // every * every < max(first, 1):
        raise UserError(
            f"{name} averages at every {every}th step, and none of the steps {max(first, 1)} to {last} is one: give a "
            "smaller every_n_steps, or train longer."
        )


def weight_in_step(trainer: Trainer) -> float:
    """What the current batch's loss is multiplied by for a step's gradient to be the mean over its batches.

    Lightning divides by ``accumulate_grad_batches`` also where an epoch ends with fewer: their step would be smaller.
    """
    gathered, batches = trainer.accumulate_grad_batches, trainer.num_training_batches
    # Of data without a length nobody knows which batch is the last.
    left = int(batches % gathered) if batches != float("inf") else 0
    return gathered / left if left and trainer.fit_loop.batch_idx >= batches - left else 1.0


def loss_of_batch(trainer: Trainer, outputs: Any) -> Tensor | None:
    """A batch's loss, (), of what `on_train_batch_end` is given: Lightning has divided it by the batches of a step."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    if not isinstance(loss, Tensor):
        return None
    return loss if trainer.accumulate_grad_batches == 1 else loss * trainer.accumulate_grad_batches


def main_group(optimizer: Optimizer) -> dict[str, Any]:
    """The group of most of what is trained, whose rate is to be told: others may have one of their own.

    Of a module without an optimizer, for which Lightning has one without groups, it is empty.
    """
    groups = optimizer.param_groups
    return max(groups, key=lambda group: sum(parameter.numel() for parameter in group["params"]), default={})
