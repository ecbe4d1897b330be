"""A line for every epoch, and a bar that is there as long as it runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.optim import SGD
from tqdm import tqdm

from cifar_lit.callbacks.progress import EpochProgress
from cifar_lit.callbacks.resizing import ProgressiveResizing
from cifar_lit.data import DigitsDataModule
from cifar_lit.models import DepthwiseNet

pytestmark = pytest.mark.filterwarnings("ignore")


class Shown(tqdm):
    """A bar as on a terminal."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "disable": False})


@pytest.fixture(autouse=True)
def _on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar_lit.callbacks.progress.tqdm", Shown)


class Bars(Callback):
    """Notes what the bar shows behind every batch."""

    def __init__(self, progress: EpochProgress) -> None:
        self.progress, self.seen = progress, list[tuple[str, int]]()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        bar = self.progress._bar
        assert bar is not None
        self.seen.append((bar.desc, int(bar.n)))


def fit(
    folder: Path,
    *callbacks: Callback,
    ckpt_path: Path | None = None,
    model: LightningModule | None = None,
    **settings: Any,
) -> list[tuple[str, int]]:
    progress = EpochProgress()
    bars = Bars(progress)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_model_summary=False,
        limit_val_batches=1,
        callbacks=[progress, bars, *callbacks],
        **{"max_epochs": 2, "limit_train_batches": 4, **settings},
    )
    model = model or DepthwiseNet(widths=[[4]], dropout=[0.0])
    trainer.fit(model, datamodule=DigitsDataModule(batch_size=20), ckpt_path=ckpt_path, weights_only=True)
    return bars.seen


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return re.findall(r"Epoch .*", capsys.readouterr().out)


def test_validation_within_an_epoch_leaves_the_bar(tmp_path: Path) -> None:
    whole = [(f"Epoch {epoch}/2", batch) for epoch in (1, 2) for batch in (1, 2, 3, 4)]
    assert fit(tmp_path, val_check_interval=0.5) == whole


def test_a_run_that_goes_on_within_an_epoch_shows_the_rest_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1))
    capsys.readouterr()
    seen = fit(tmp_path, ckpt_path=tmp_path / "step=2.ckpt")
    assert seen == [("Epoch 1/2", 3), ("Epoch 1/2", 4), *(("Epoch 2/2", batch) for batch in (1, 2, 3, 4))]
    assert [line[:9] for line in lines(capsys)] == ["Epoch 1/2", "Epoch 2/2"]


@pytest.mark.parametrize("batches", [2, 8])
def test_a_run_that_goes_on_with_other_batches_ends_with_no_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], batches: int
) -> None:
    fit(tmp_path, ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1))
    capsys.readouterr()
    fit(tmp_path, ckpt_path=tmp_path / "step=2.ckpt", limit_train_batches=batches)
    assert [line.endswith(" left") for line in lines(capsys)] == [True, False]


class Clock(Callback):
    """The time of `EpochProgress`: a second for a batch of whole images, and as much less as there are fewer pixels."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        """Seconds."""
        return self.now

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, DepthwiseNet)
        small = pl_module.resized
        self.now += 1.0 if small is None else small(torch.zeros(1, 3, 32, 32)).shape[2] ** 2 / 32**2


@pytest.mark.parametrize("resizing", [[], [ProgressiveResizing([0.5, 0.75], until=0.5)]])
def test_the_time_left_knows_what_images_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, resizing: list[Callback]
) -> None:
    clock = Clock()
    monkeypatch.setattr("cifar_lit.callbacks.progress.time", clock)
    every = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(tmp_path, every, clock, *resizing, max_epochs=4, limit_train_batches=10)
    # Ten steps at a quarter, ten at nine sixteenths of the work, twenty whole ones.
    left = [26, 20, 10] if resizing else [30, 20, 10]
    assert [line.rpartition(", ")[2] for line in lines(capsys)[:3]] == [f"{seconds} s left" for seconds in left]
    # Gone on with within the small images.
    fit(tmp_path, clock, *resizing, max_epochs=4, limit_train_batches=10, ckpt_path=tmp_path / "step=5.ckpt")
    assert [line.rpartition(", ")[2] for line in lines(capsys)[:3]] == [f"{seconds} s left" for seconds in left]


class Plain(LightningModule):
    """Logs by names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """The loss."""
        loss = nn.functional.cross_entropy(self.head(batch[0].mean((2, 3))), batch[1])
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        self.log("unseen", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The same whatever the batch."""
        self.log_dict({"val_acc": 0.5, "val/f1": 0.25}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """SGD."""
        return SGD(self.parameters(), 0.1)


def test_a_line_tells_what_a_plain_module_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, model=Plain(), max_epochs=4, check_val_every_n_epoch=2)
    told = lines(capsys)
    assert all(re.search(r"Epoch ./4: train_loss \d\.\d+", line) for line in told)
    assert [", val/f1 0.25, val_acc 0.5" in line for line in told] == [False, True, False, True]
    assert ["val" in line for line in told] == [False, True, False, True]
    assert not [line for line in told if "_step" in line or "unseen" in line]


def test_a_line_tells_of_validation_in_its_own_epoch_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, max_epochs=4, check_val_every_n_epoch=2)
    assert ["val loss" in line for line in lines(capsys)] == [False, True, False, True]
