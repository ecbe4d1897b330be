import os
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.combined_loader import CombinedLoader

from cifar_lit.data import DigitsDataModule
from cifar_lit.data.batches import BatchKey, BatchLoader, EvaluationPlan, TrainingPlan, evaluation_batch
from cifar_lit.data.worker_executor import WorkerExecutor
from cifar_lit.errors import UserError
from cifar_lit.models import DepthwiseNet

SIZE, BATCH = 23, 5


def epoch_of(plan: TrainingPlan | EvaluationPlan, epoch: int = 0) -> list[BatchKey]:
    return [plan.key(epoch, step) for step in range(len(plan))]


def visited(keys: list[BatchKey]) -> list[int]:
    return [int(index) for key in keys for index in key.indices]


def drawn(keys: list[BatchKey]) -> list[int]:
    return [int(seed) for key in keys for seed in key.seeds]


def loader(seed: int = 1, num_workers: int = 0) -> BatchLoader:
    """Its images and labels both say which image it is."""
    pixels = np.arange(SIZE, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    executor = WorkerExecutor(pixels, np.arange(SIZE), ())
    return BatchLoader(TrainingPlan(SIZE, BATCH, seed), executor, num_workers)


def labels_of(batches: Any) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


def test_plan_is_a_pure_function_of_seed_epoch_and_step() -> None:
    ordered = epoch_of(TrainingPlan(100, 8, seed=3), epoch=2)
    asked_otherwise = TrainingPlan(100, 8, seed=3)
    for step in reversed(range(len(ordered))):
        asked_otherwise.key(step, 0)
        key = asked_otherwise.key(2, step)
        assert (key.epoch, key.step) == (2, step)
        assert key.indices.tolist() == ordered[step].indices.tolist()
        assert key.seeds.tolist() == ordered[step].seeds.tolist()


def test_plan_does_not_depend_on_global_generators() -> None:
    def draw(seed: int) -> list[int]:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        keys = epoch_of(TrainingPlan(100, 8, seed=3))
        return visited(keys) + drawn(keys)

    assert draw(0) == draw(1)


@pytest.mark.parametrize(("seed", "epoch"), [(4, 0), (3, 1), (0, 3)])
def test_another_seed_or_epoch_gives_another_order_and_other_draws(seed: int, epoch: int) -> None:
    keys, others = epoch_of(TrainingPlan(100, 8, 3)), epoch_of(TrainingPlan(100, 8, seed), epoch)
    assert visited(keys) != visited(others)
    assert not set(drawn(keys)) & set(drawn(others))


def test_every_image_of_a_run_has_a_seed_of_its_own() -> None:
    plan = TrainingPlan(100, 8, 3)
    seeds = [seed for epoch in range(5) for seed in drawn(epoch_of(plan, epoch))]
    assert len(set(seeds)) == 500


def test_images_are_shuffled() -> None:
    plan = TrainingPlan(1000, 10, 0)
    assert visited(epoch_of(plan)) != list(range(1000))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize(("size", "batch_size"), [(1003, 96), (1003, 12), (500, 24), (48, 48), (24, 120)])
def test_an_epoch_visits_every_image_once_and_ranks_share_the_same_batches(
    size: int, batch_size: int, ranks: int
) -> None:
    alone = epoch_of(TrainingPlan(size, batch_size, 7), 3)
    shares = [epoch_of(TrainingPlan(size, batch_size, 7, rank, ranks), 3) for rank in range(ranks)]
    assert sorted(visited(alone)) == list(range(size))
    assert {len(share) for share in shares} == {len(alone)}
    for step, whole in enumerate(alone):
        parts = [share[step] for share in shares]
        assert visited(parts) == whole.indices.tolist()
        assert drawn(parts) == whole.seeds.tolist()
        sizes = [len(part.indices) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1
        assert all(len(part.seeds) == len(part.indices) for part in parts)


def test_the_last_batch_is_smaller_or_dropped() -> None:
    assert [len(key.indices) for key in epoch_of(TrainingPlan(23, 5, 0))] == [5, 5, 5, 5, 3]
    assert [len(key.indices) for key in epoch_of(TrainingPlan(23, 5, 0, drop_last=True))] == [5, 5, 5, 5]
    assert len(TrainingPlan(20, 5, 0)) == len(TrainingPlan(20, 5, 0, drop_last=True)) == 4


def test_a_batch_that_does_not_divide_over_the_devices_is_an_error() -> None:
    with pytest.raises(UserError, match=r"batch_size 10 does not divide over 3 devices: give a multiple of 3"):
        TrainingPlan(100, 10, 0, rank=0, world_size=3)


def test_a_last_batch_with_fewer_images_than_devices_is_an_error_unless_it_is_dropped() -> None:
    with pytest.raises(UserError, match=r"last batch of an epoch has 2 images for 3 devices.*drop_last"):
        TrainingPlan(14, 12, 0, rank=0, world_size=3)
    assert len(TrainingPlan(14, 12, 0, rank=0, world_size=3, drop_last=True)) == 1
    assert len(TrainingPlan(15, 12, 0, rank=0, world_size=3)) == 2


def test_dropping_the_only_batch_is_an_error() -> None:
    with pytest.raises(UserError, match=r"batch_size 12 is more than the 11 training images"):
        TrainingPlan(11, 12, 0, drop_last=True)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 16, 64])
def test_evaluation_visits_every_image_once_in_as_many_batches_on_each_rank(batch_size: int, ranks: int) -> None:
    for size in range(1, 51):
        shares = [epoch_of(EvaluationPlan(size, batch_size, rank, ranks)) for rank in range(ranks)]
        assert sorted(i for share in shares for i in visited(share)) == list(range(size))
        assert len({len(share) for share in shares}) == 1
        lengths = [len(key.indices) for share in shares for key in share]
        assert max(lengths) <= batch_size
        # No more batches than it takes.
        assert len(shares[0]) == -(-len(visited(shares[0])) // batch_size)


def test_the_same_images_in_every_epoch_where_they_are_to_be_overfitted() -> None:
    data = DigitsDataModule(batch_size=8)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        overfit_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    seen = list[list[int]]()

    class Seen(DepthwiseNet):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            seen.append(batch[1].tolist())
            return super().training_step(batch, batch_idx)

    trainer.fit(Seen(widths=[[4]], dropout=[0.0]), datamodule=data)
    assert len(seen) == 6
    assert seen[0] != seen[1]
    assert seen[:2] == seen[2:4] == seen[4:]


def test_evaluation_takes_fewer_of_larger_images_at_once() -> None:
    sizes = [(8, 8), (32, 32), (64, 64), (224, 224), (2000, 3000)]
    assert [evaluation_batch(*size) for size in sizes] == [500, 500, 125, 10, 1]


def test_evaluation_keeps_the_published_order_on_one_rank() -> None:
    assert visited(epoch_of(EvaluationPlan(50, 7))) == list(range(50))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_hands_out_the_plan_in_its_order(num_workers: int) -> None:
    batches = loader(num_workers=num_workers)
    assert len(batches) == 5
    for epoch in (0, 1):
        batches.sampler.set_epoch(epoch)
        expected = [key.indices.tolist() for key in epoch_of(batches.plan, epoch)]  # type: ignore[arg-type]
        assert labels_of(batches) == expected


def test_loader_knows_how_far_it_has_come() -> None:
    batches = loader()
    assert batches.position == 0
    for i, _ in enumerate(batches, start=1):
        assert batches.position == i
        assert batches.state_dict()["position"] == i
    next(iter(batches))
    assert batches.position == 1


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("handed_out", [1, 3, 4])
def test_loader_continues_in_the_middle_of_an_epoch(handed_out: int, num_workers: int) -> None:
    whole = loader()
    whole.sampler.set_epoch(2)
    interrupted = loader(num_workers=num_workers)
    interrupted.sampler.set_epoch(2)
    first = [batch for _, batch in zip(range(handed_out), interrupted, strict=False)]
    state = interrupted.state_dict()

    resumed = loader(num_workers=num_workers)
    resumed.load_state_dict(state)
    resumed.sampler.set_epoch(2)
    assert resumed.state_dict()["position"] == handed_out
    assert labels_of(first) + labels_of(resumed) == labels_of(whole)
    assert resumed.position == len(resumed)
    # Only once: the same epoch, and the one after it, are whole again.
    for epoch in (2, 3):
        for batches in (whole, resumed):
            batches.sampler.set_epoch(epoch)
        assert labels_of(resumed) == labels_of(whole)


@pytest.mark.parametrize("same_epoch", [True, False])
def test_loader_starts_anew_behind_a_whole_epoch(same_epoch: bool) -> None:
    finished = loader()
    list(finished)
    resumed = loader()
    resumed.load_state_dict(finished.state_dict())
    epoch = 0 if same_epoch else 1
    resumed.sampler.set_epoch(epoch)
    finished.sampler.set_epoch(epoch)
    assert labels_of(resumed) == labels_of(finished)


def test_loader_starts_anew_behind_an_epoch_that_was_cut_short() -> None:
    # limit_train_batches ends an epoch early: what was left of it is no beginning of the next.
    limited = loader()
    _ = [batch for _, batch in zip(range(2), limited, strict=False)]
    resumed = loader()
    resumed.load_state_dict(limited.state_dict())
    resumed.sampler.set_epoch(1)
    limited.sampler.set_epoch(1)
    assert len(labels_of(resumed)) == len(resumed)
    assert labels_of(resumed) == labels_of(limited)


def test_loader_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches = loader(num_workers=1)
    list(batches)
    list(loader())
    assert torch.equal(torch.get_rng_state(), before)


def test_lightning_ends_the_workers_at_the_end_of_a_run() -> None:
    batches = loader(num_workers=2)
    combined = CombinedLoader(batches)
    iter(combined)
    next(combined)
    workers = batches._loader._iterator._workers  # type: ignore[union-attr]
    assert [worker.is_alive() for worker in workers] == [True, True]
    combined.reset()
    # They were told to go: they were not killed, or waited for in vain.
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(labels_of(batches)) == 5


LEFT_ALONE = """
import multiprocessing
import numpy as np
from cifar_lit.data.batches import BatchLoader, EvaluationPlan
from cifar_lit.data.worker_executor import WorkerExecutor

kept = []

def walk():
    executor = WorkerExecutor(np.zeros((4, 2, 2, 3), np.uint8), np.arange(4), ())
    kept.append(BatchLoader(EvaluationPlan(4, 2), executor, num_workers=1))
    print(len(list(kept[-1])), flush=True)

walk()
# As ranks are that `ddp_fork` begins.
rank = multiprocessing.get_context("fork").Process(target=walk)
rank.start()
rank.join()
print(rank.exitcode)
"""


def test_a_process_ends_whose_workers_nobody_ended() -> None:
    # As where a run ends by an error in validation.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LEFT_ALONE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    assert done.stdout == "2\n2\n0\n"


def test_lightning_finds_what_it_looks_for() -> None:
    batches = loader()
    assert callable(batches.sampler.set_epoch)
    assert callable(batches.state_dict)
    assert callable(batches.load_state_dict)
    assert batches.batch_sampler is None
