import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cifar_lit.data.batches import BatchKey, BatchLoader, TrainingPlan
from cifar_lit.data.images import Images
from cifar_lit.data.worker_executor import WorkerExecutor
from cifar_lit.data.worker_processes import begin_worker, default_workers
from cifar_lit.errors import UserError

SEED, BATCH = 5, 8


def test_images_of_several_sizes_are_no_batch(noise: Callable[..., Images]) -> None:
    images = noise(0, 64, 4)
    executor = WorkerExecutor(images.pixels, images.labels, [A.RandomCrop(12, 12, p=0.5)], SEED)
    with pytest.raises(UserError, match=r"images of different sizes, .* give those that change the size p: 1"):
        executor[TrainingPlan(64, 64, SEED).key(0, 0)]
    # From a worker process, too, without its traceback.
    with pytest.raises(UserError, match=r"\AThe transforms make images of different sizes, .* p: 1\.\Z"):
        list(BatchLoader(TrainingPlan(64, 64, SEED), executor, num_workers=1))


def augmentation() -> list[A.BasicTransform]:
    """Draws from both generators of albumentations, and through a nested choice."""
    return [
        A.HorizontalFlip(p=0.5),
        A.Affine(rotate=(-180, 180), scale=(0.7, 1.3), translate_percent=(-0.2, 0.2), p=1),
        A.OneOf([A.RandomBrightnessContrast(p=1), A.GaussNoise(p=1)], p=0.8),
        A.CoarseDropout(num_holes_range=(1, 2), hole_height_range=(3, 9), hole_width_range=(3, 9), p=0.5),
    ]


@pytest.fixture
def repeated(noise: Callable[..., Images]) -> Images:
    """40 times the same image."""
    return noise(0, 1, 1).take(np.zeros(40, dtype=np.int64))


def epoch_of(
    images: Images,
    epoch: int = 0,
    num_workers: int = 0,
    rank: int = 0,
    ranks: int = 1,
    transforms: list[A.BasicTransform] | None = None,
) -> list[torch.Tensor]:
    plan = TrainingPlan(len(images), BATCH, SEED, rank, ranks, drop_last=True)
    loader = BatchLoader(plan, WorkerExecutor(images.pixels, images.labels, transforms or augmentation()), num_workers)
    loader.sampler.set_epoch(epoch)
    return [pixels for pixels, _ in loader]


def distinct(batches: list[torch.Tensor]) -> int:
    return len({image.numpy().tobytes() for batch in batches for image in batch})


def test_without_transforms_it_gives_the_images_themselves(noise: Callable[..., Images]) -> None:
    images = noise(0, 10, 10)
    indices = np.array([7, 0, 3])
    pixels, labels = WorkerExecutor(images.pixels, images.labels)[BatchKey(0, 0, np.empty(0, np.uint64), indices)]
    assert (pixels.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert np.array_equal(pixels.numpy(), images.pixels[indices])
    assert labels.tolist() == images.labels[indices].tolist()
    # A batch of its own: what is done to it does not reach the data set.
    pixels.zero_()
    assert images.pixels[indices].any()


def test_a_rank_without_a_share_has_an_empty_batch(noise: Callable[..., Images]) -> None:
    images = noise(0, 10, 10)
    executor = WorkerExecutor(images.pixels, images.labels, augmentation())
    pixels, labels = executor[BatchKey(0, 0, np.empty(0, np.uint64), np.empty(0, np.int64))]
    assert (pixels.shape, labels.shape) == ((0, 32, 32, 3), (0,))


def test_transforms_are_applied_in_their_order(noise: Callable[..., Images]) -> None:
    images = noise(0, 2, 2)
    key = TrainingPlan(2, 2, 0).key(0, 0)
    crop_then_pad = [A.CenterCrop(16, 16), A.PadIfNeeded(32, 32, fill=0)]
    pixels, _ = WorkerExecutor(images.pixels, images.labels, crop_then_pad)[key]
    expected = np.zeros_like(images.pixels)
    expected[:, 8:24, 8:24] = images.pixels[:, 8:24, 8:24]
    assert np.array_equal(pixels.numpy(), expected[key.indices])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(noise: Callable[..., Images], num_workers: int) -> None:
    images = noise(1, 40, 10)
    for epoch in (0, 1):
        here, there = epoch_of(images, epoch), epoch_of(images, epoch, num_workers)
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_ranks_gives_the_same_batches(noise: Callable[..., Images], ranks: int) -> None:
    images = noise(1, 40, 10)
    alone = epoch_of(images)
    shares = [epoch_of(images, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert all(torch.equal(torch.cat(parts), whole) for *parts, whole in zip(*shares, alone, strict=True))


def test_three_ranks_give_the_same_batches_as_one(noise: Callable[..., Images]) -> None:
    images = noise(1, 21, 10)
    executor = WorkerExecutor(images.pixels, images.labels, augmentation())
    plans = [TrainingPlan(21, 9, SEED, rank, ranks) for rank, ranks in ((0, 1), (0, 3), (1, 3), (2, 3))]
    for step in range(3):
        whole, *parts = (executor[plan.key(1, step)][0] for plan in plans)
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(
    "transforms",
    [
        augmentation(),
        # One draws from albumentations' numpy generator alone, the other from its Python generator alone.
        [A.GaussNoise(std_range=(0.2, 0.2), p=1)],
        [A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=(-0.9, 0.9), p=1)],
    ],
    ids=["list", "numpy", "python"],
)
def test_no_image_of_an_epoch_is_augmented_like_another(repeated: Images, transforms: list[A.BasicTransform]) -> None:
    # Two workers, each with batches of its own: albumentations' own seeding would make them draw alike.
    assert distinct(epoch_of(repeated, num_workers=2, transforms=transforms)) == 40


def test_no_image_of_a_run_is_augmented_like_another(repeated: Images) -> None:
    epochs = [batch for epoch in range(3) for batch in epoch_of(repeated, epoch, num_workers=2)]
    assert distinct(epochs) == 120


def test_opencv_has_no_threads_whose_locks_a_fork_would_keep(noise: Callable[..., Images]) -> None:
    images = noise(0, 8, 8)
    cv2.setNumThreads(2)
    assert cv2.getNumThreads() == 2
    WorkerExecutor(images.pixels, images.labels, augmentation())
    assert cv2.getNumThreads() == 1


def test_workers_that_are_not_forked_have_no_such_threads_either() -> None:
    handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    cv2.setNumThreads(2)
    try:
        begin_worker(0)
    finally:
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
    assert cv2.getNumThreads() == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="a process may use all cores here")
@pytest.mark.parametrize(
    ("usable", "ranks", "expected"),
    # On a machine of 64 cores, which ranks share; where each was given its own, these are its alone.
    [(1, 1, 1), (6, 1, 6), (64, 1, 8), (64, 16, 4), (64, 128, 1), (6, 16, 6)],
)
def test_beside_a_gpu_there_are_as_many_workers_as_a_rank_has_cores(
    usable: int, ranks: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)))
    trainer: Any = SimpleNamespace(num_devices=ranks)
    assert default_workers(torch.device("cuda"), trainer) == expected
    assert default_workers(torch.device("cpu"), trainer) == 0


def first_channel(image: NDArray[np.uint8], **_: Any) -> NDArray[np.uint8]:
    return image[..., 0]


@pytest.mark.parametrize("transform", [A.ToGray(num_output_channels=1, p=1), A.Lambda(image=first_channel, p=1)])
def test_images_of_other_channels_are_told_of_in_a_line(transform: Any, noise: Callable[..., Images]) -> None:
    images = noise(0, 8, 8)
    with pytest.raises(UserError, match=r"The transforms make \(32, 32(, 1)?\) of an image \(32, 32, 3\): leave out"):
        _ = WorkerExecutor(images.pixels, images.labels, [transform]).output_size


def test_what_is_drawn_for_an_image_depends_on_its_seed_alone(noise: Callable[..., Images]) -> None:
    images = noise(0, 8, 8)
    executor = WorkerExecutor(images.pixels, images.labels, augmentation())
    seeds, indices = np.arange(8, dtype=np.uint64), np.arange(8)
    together = executor[BatchKey(0, 0, seeds, indices)][0]
    for i in reversed(range(8)):
        alone = executor[BatchKey(3, 4, seeds[i : i + 1], indices[i : i + 1])][0]
        assert torch.equal(alone[0], together[i])


def test_global_generators_are_neither_read_nor_moved(repeated: Images) -> None:
    def augmented(seed: int) -> list[torch.Tensor]:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = global_states()
        batches = epoch_of(repeated)
        assert global_states() == before
        return batches

    def global_states() -> tuple[Any, ...]:
        name, keys, *rest = np.random.get_state()  # noqa: NPY002
        return random.getstate(), name, np.asarray(keys).tolist(), rest, torch.get_rng_state().tolist()

    assert all(torch.equal(a, b) for a, b in zip(augmented(0), augmented(1), strict=True))


@pytest.fixture(scope="module")
def fresh_process() -> subprocess.CompletedProcess[str]:
    # pytest keeps warning filters of its own, and this process has set the variable already.
    program = """
import os, cifar_lit.data.worker_executor
import albumentations as A
import cv2
print(os.environ.get("NO_ALBUMENTATIONS_UPDATE"))
for make in (lambda: A.CoarseDropout(max_holes=3), lambda: A.PadIfNeeded(40, 40, value=0, mask_value=1)):
    try:
        make()
        print("accepted")
    except Exception as error:
        print(error)
A.CoarseDropout(num_holes_range=(1, 2))
print("done")
"""
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)


def test_a_misspelt_argument_is_an_error_that_names_it(fresh_process: subprocess.CompletedProcess[str]) -> None:
    _, dropout, pad, end = fresh_process.stdout.splitlines()
    assert "max_holes" in dropout
    assert "CoarseDropout" in dropout
    assert "value" in pad
    assert "PadIfNeeded" in pad
    assert end == "done"


def test_albumentations_asks_for_no_newer_version(fresh_process: subprocess.CompletedProcess[str]) -> None:
    assert fresh_process.stdout.splitlines()[0] == "1"
