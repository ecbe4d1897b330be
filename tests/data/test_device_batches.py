"""Who makes the batches, and that both ways make the same of what is not drawn."""

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
