"""Who makes the batches, and that both ways make the same of what is not drawn."""

from types import SimpleNamespace
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from torch import Tensor

from cifar_lit.data import AlternatingFlip, DigitsDataModule
from cifar_lit.data.batches import TrainingPlan
from cifar_lit.data.device_batches import DeviceBatches
from cifar_lit.data.worker_executor import WorkerExecutor
from cifar_lit.errors import UserError

FLIP = [A.HorizontalFlip()]


def maker(capsys: pytest.CaptureFixture[str], **settings: Any) -> tuple[type, str]:
    data = DigitsDataModule(**settings)
    data.setup()
    capsys.readouterr()
    executor = data.train_dataloader().executor
    return type(executor), capsys.readouterr().out.strip()


def test_auto_takes_the_device_where_the_list_allows_it_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    kind, said = maker(capsys, transforms=FLIP)
    assert kind is DeviceBatches
    assert said == "Batches from the device executor on cpu: it runs every transform of the list"


def test_auto_takes_workers_for_what_the_device_cannot_and_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    kind, said = maker(capsys, transforms=[*FLIP, A.GaussianBlur()])
    assert kind is WorkerExecutor
    assert "\n" not in said
    assert "cannot run GaussianBlur" in said


def test_a_number_of_workers_asks_for_workers(capsys: pytest.CaptureFixture[str]) -> None:
    kind, said = maker(capsys, transforms=FLIP, num_workers=0)
    assert kind is WorkerExecutor
    assert "num_workers is given" in said


@pytest.mark.parametrize(("executor", "expected"), [("device", DeviceBatches), ("workers", WorkerExecutor)])
def test_a_choice_is_kept_without_a_word(executor: str, expected: type, capsys: pytest.CaptureFixture[str]) -> None:
    assert maker(capsys, transforms=FLIP, executor=executor) == (expected, "")


@pytest.mark.parametrize("asked", [{}, {"executor": "device"}, {"executor": "workers"}, {"num_workers": 0}])
def test_what_would_do_nothing_is_refused_whoever_makes_the_batches(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = A.CoarseDropout(hole_height_range=(4, 4), hole_width_range=(0.5, 0.5))
    with pytest.raises(UserError, match="give both in pixels"):
        maker(capsys, transforms=[mixed], **asked)


def test_the_device_says_that_it_uses_no_workers(capsys: pytest.CaptureFixture[str]) -> None:
    kind, said = maker(capsys, transforms=FLIP, executor="device", num_workers=2)
    assert kind is DeviceBatches
    assert said == "num_workers is not used: the device executor prepares batches in this process"


def test_the_device_refuses_what_it_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"cannot run GaussianBlur.*executor: workers"):
        maker(capsys, transforms=[A.GaussianBlur()], executor="device")


def epoch_of(data: DigitsDataModule, epoch: int) -> Tensor:
    """The images of an epoch in the order of the data set."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    order = np.concatenate([loader.plan.key(epoch, step).indices for step in range(len(loader))])
    return torch.cat([images for images, _ in loader])[np.argsort(order)]


def test_alternating_flip_is_the_same_in_both_and_turns_every_image_every_other_epoch() -> None:
    epochs = {}
    for executor in ("device", "workers"):
        data = DigitsDataModule(transforms=[AlternatingFlip()], executor=executor, seed=5)
        data.setup()
        epochs[executor] = [epoch_of(data, epoch) for epoch in range(3)]
    assert data.train_images is not None
    plain = torch.from_numpy(data.train_images.pixels)
    for device, workers in zip(epochs["device"], epochs["workers"], strict=True):
        assert torch.equal(device, workers)
    first, second, third = epochs["device"]
    assert torch.equal(first.flip(2), second)
    assert torch.equal(first, third)
    share = (first == plain).flatten(1).all(1).float().mean().item()
    assert 0.4 < share < 0.6


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_together_make_the_batch_of_one(ranks: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (36, 32, 32, 3), dtype=np.uint8)
    transforms = [A.Affine(rotate=(-30, 30)), A.CoarseDropout(), A.RandomBrightnessContrast()]
    batches = DeviceBatches(images, np.arange(36), transforms, run_seed=0, device=torch.device("cpu"))
    whole, labels = batches[TrainingPlan(36, 12, seed=1).key(2, 1)]
    shares = [batches[TrainingPlan(36, 12, seed=1, rank=r, world_size=ranks).key(2, 1)] for r in range(ranks)]
    assert torch.equal(torch.cat([share for share, _ in shares]), whole)
    assert torch.equal(torch.cat([share for _, share in shares]), labels)


def test_images_that_do_not_fit_are_an_error_that_names_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Tensor, "to", full)
    pixels, labels = np.zeros((1000, 32, 32, 3), np.uint8), np.zeros(1000, np.int64)
    with pytest.raises(UserError, match=r"1,000 images of 32×32 .* do not fit on cpu: take --data\.executor=workers"):
        DeviceBatches(pixels, labels, [], 0, torch.device("cpu"))


LISTS = {
    "whole pixels": [AlternatingFlip(), A.PadIfNeeded(40, 40, border_mode=4), A.RandomCrop(32, 32)],
    "between pixels": [A.Affine(rotate=(-20, 20), p=0.7), A.CoarseDropout(), A.RandomBrightnessContrast()],
    "floats": [A.HorizontalFlip(), A.Normalize()],
    "none": [],
}


@pytest.mark.parametrize("transforms", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("together", [1, 40, 1000])
def test_batches_that_are_made_together_are_the_same_to_the_bit(transforms: list[Any], together: int) -> None:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (103, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, 103)
    batches = DeviceBatches(pixels, labels, transforms, run_seed=1, device=torch.device("cpu"))
    plan = TrainingPlan(103, 20, seed=1, rank=1, world_size=2)
    batches.together = together
    calls = list[int]()
    one_by_one = [batches[plan.key(3, step)] for step in range(len(plan))]
    original = batches.augment

    def counted(images: Tensor, *given: Any, **named: Any) -> Tensor:
        calls.append(len(images))
        assert original is not None
        return original(images, *given, **named)

    if original is not None:
        batches.augment = counted  # type: ignore[assignment]
    walked = [*batches.walk(plan.key(3, step) for step in range(len(plan)))]
    assert len(walked) == len(one_by_one) == 6
    for a, b in zip(walked, one_by_one, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    # This rank has 10 of each 20 images, and 2 of the last 3.
    expected = {1: [10, 10, 10, 10, 10, 2], 40: [40, 12], 1000: [52]}[together]
    assert calls == (expected if transforms else [])


def test_indices_go_where_the_images_are() -> None:
    """As to an Apple GPU, which takes none of the host's."""
    batches: Any = DeviceBatches(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4), [], 1, torch.device("cpu"))
    elsewhere, asked = torch.device("meta"), list[torch.device]()

    def index_select(dim: int, indices: Tensor) -> Tensor:
        asked.append(indices.device)
        return torch.empty(len(indices), 8, 8, 3, device=elsewhere)

    batches.images = batches.labels = SimpleNamespace(is_cuda=False, device=elsewhere, index_select=index_select)
    batches[TrainingPlan(4, 2, seed=1).key(0, 0)]
    assert asked == [elsewhere] * 2
