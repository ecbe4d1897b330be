"""What a step leaves out does nothing; all else is called as before."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.profilers import SimpleProfiler
from torch import nn

from cifar_lit.cli import CifarCLI
from cifar_lit.data import DigitsDataModule
from cifar_lit.hooks import OF_EVERY_BATCH, Unprofiled, leave_out_empty_hooks
from cifar_lit.models import ResNetV1

TINY = {
    "trainer": {"limit_train_batches": 2, "limit_val_batches": 1, "max_epochs": 1, "accelerator": "cpu"},
    "model": {"class_path": "ResNetV1", "init_args": {"depth": 8}},
    "data": {"class_path": "DigitsDataModule", "init_args": {"batch_size": 16}},
}


class Listener(Callback):
    """Listens to one hook of a step, by way of a class between."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.heard.append("on_train_batch_end")


class Heir(Listener):
    """Calls what is above it, also where that does nothing."""

    def on_after_backward(self, *args: Any) -> None:
        super().on_after_backward(*args)
        self.heard.append("on_after_backward")


def test_hooks_that_are_defined_are_called_and_the_others_passed_over(tmp_path: Path) -> None:
    heir, told = Heir(), []
    of_instance = LambdaCallback(on_before_backward=lambda *args: told.append("on_before_backward"))
    callbacks = [heir, of_instance]
    leave_out_empty_hooks(callbacks)
    left_out = {name for name in OF_EVERY_BATCH if getattr(heir, name) is None}
    assert left_out == {*OF_EVERY_BATCH} - {"on_train_batch_end", "on_after_backward"}
    assert all(callable(getattr(Heir, name)) for name in OF_EVERY_BATCH)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_steps=2,
        callbacks=callbacks,
        enable_checkpointing=False,
        accelerator="cpu",
        **quiet,
    )
    trainer.fit(ResNetV1(depth=8), DigitsDataModule(batch_size=16))
    assert heir.heard == ["on_after_backward", "on_train_batch_end"] * 2
    assert told == ["on_before_backward"] * 2


def test_what_lightning_calls_for_every_batch_is_known() -> None:
    of_batches = {name for name in vars(Callback) if "batch_start" in name or "batch_end" in name}
    assert of_batches == {name for name in OF_EVERY_BATCH if "batch" in name}


def test_a_profiler_that_is_asked_for_profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    plain: Any = CifarCLI(["fit", "--config=tiny.yaml"])
    assert isinstance(plain.trainer.profiler, Unprofiled)
    # A run's own settings are what was asked for.
    assert "profiler: null" in next(Path("lightning_logs").rglob("config.yaml")).read_text()
    empty = [c for c in plain.trainer.callbacks if getattr(c, "on_after_backward", None) is not None]
    assert empty == []
    asked: Any = CifarCLI(["fit", "--config=tiny.yaml", "--trainer.profiler=simple"])
    assert isinstance(asked.trainer.profiler, SimpleProfiler)
    assert len(asked.trainer.profiler.recorded_durations["run_training_batch"]) == 2


def test_what_is_set_on_a_model_is_where_it_was() -> None:
    model = ResNetV1(depth=8)
    model._current_fx_name = "training_step"
    assert model._current_fx_name == "training_step"
    before = len([*model.parameters()])
    model.further = nn.Linear(2, 2)
    assert len([*model.parameters()]) == before + 2
