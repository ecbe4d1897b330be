"""The throughput of an epoch is that of its steps, however the epoch ends."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from cifar_lit.callbacks.curves import Curves
from cifar_lit.data import DigitsDataModule
from cifar_lit.logger import CurvesLogger
from cifar_lit.models import DepthwiseNet
from cifar_lit.optimizers import MuonSGD
from cifar_lit.schedules import OneCycle

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")
STEP, VALIDATION = 0.05, 1.0


class Slow(Callback):
    """Steps and validation of known length; and an end behind a step, where one is given."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        time.sleep(STEP)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.stop_at

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        time.sleep(VALIDATION)


class Speeds(Callback):
    def __init__(self, curves: Curves) -> None:
        self.curves, self.found = curves, list[float]()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.curves.images_per_second is not None
        self.found.append(self.curves.images_per_second)


@pytest.mark.parametrize(
    ("settings", "stop_at", "epochs"),
    [
        ({"max_epochs": 2}, None, 2),
        ({"max_steps": 6}, None, 2),
        ({"max_epochs": 3, "min_epochs": 0}, 6, 2),
        ({"max_epochs": 2, "val_check_interval": 0.5}, None, 2),
    ],
    ids=["to its end", "max_steps within it", "stopped within it", "validated within it"],
)
def test_images_a_second(settings: dict[str, Any], stop_at: int | None, epochs: int) -> None:
    curves = Curves()
    speeds = Speeds(curves)
    trainer = Trainer(
        **settings,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator="cpu",
        limit_train_batches=4,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        callbacks=[curves, speeds, Slow(stop_at)],
    )
    trainer.fit(DepthwiseNet(widths=[[4]], dropout=[0.0]), datamodule=DigitsDataModule(batch_size=20))
    assert len(speeds.found) == epochs
    for speed in speeds.found:
        # Never faster than its steps take, and not as slow as with validation among them.
        assert 20 / (STEP + VALIDATION / 4) < speed < 20 / STEP


class Dictionaries(LightningModule):
    """A module, and batches, of another kind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.layer(batch["x"]).mean()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_batches_of_another_kind_are_not_counted(tmp_path: Path) -> None:
    curves = Curves()
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator="cpu",
        callbacks=[curves],
    )
    trainer.fit(Dictionaries(), DataLoader([{"x": torch.ones(2)}] * 4, batch_size=2))  # type: ignore[arg-type]
    assert curves.images_per_second is None


def logged_rates(
    folder: Path, every: int, batches: int, callbacks: list[Callback], **settings: Any
) -> list[tuple[int, float]]:
    """Steps and rates that a run of one epoch logs."""
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=batches,
        limit_val_batches=0,
        log_every_n_steps=every,
        logger=CurvesLogger(str(folder)),
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator="cpu",
        callbacks=[Curves(), *callbacks],
    )
    trainer.fit(DepthwiseNet(widths=[[8]], dropout=[0.0], **settings), DigitsDataModule())
    events = EventAccumulator(str(folder / "lightning_logs" / "version_0")).Reload()
    is_logged = "run/learning_rate" in events.Tags()["scalars"]
    return [(event.step, event.value) for event in events.Scalars("run/learning_rate")] if is_logged else []


def test_the_rate_is_that_of_the_step_and_of_what_most_weights_have(tmp_path: Path) -> None:
    used = []

    class Used(Callback):
        def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
            used.append(max(group["lr"] for group in optimizer.param_groups))

    def optimizer(params: Any) -> Optimizer:
        return MuonSGD(params, lr=0.2, head_lr=0.001, bias_lr=0.002)

    found = logged_rates(tmp_path, 1, 4, [Used()], optimizer=optimizer, schedule=OneCycle)
    assert [rate for _, rate in found] == pytest.approx(used)
    assert len(set(used)) == 4


def test_rates_are_logged_every_so_many_steps_and_never_where_that_is_0(tmp_path: Path) -> None:
    for every, expected in ((2, [1, 3]), (0, [])):
        assert [step for step, _ in logged_rates(tmp_path / str(every), every, 5, [])] == expected
