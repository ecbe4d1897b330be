"""What a step leaves out does nothing; all else is called as before."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.profilers import SimpleProfiler
from torch import nn

from cifar_lit.callbacks import EMA
from cifar_lit.callbacks.finite_loss import FiniteLoss
from cifar_lit.cli import CifarCLI
from cifar_lit.data import DigitsDataModule
from cifar_lit.hooks import OF_EVERY_BATCH, Unprofiled, leave_out_what_is_empty
from cifar_lit.models import ResNetV1

TINY = {
    "trainer": {"limit_train_batches": 2, "limit_val_batches": 1, "max_epochs": 1, "accelerator": "cpu"},
    "model": {"class_path": "ResNetV1", "init_args": {"depth": 8}},
    "data": {"class_path": "DigitsDataModule", "init_args": {"batch_size": 16, "val_size": 40}},
}


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))


class Own(Callback):
    """Calls a hook of its own that it leaves to its heirs."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.on_validation_batch_end(*args)
        self.heard.append("on_train_batch_end")


def left_out(callback: Callback) -> set[str]:
    return {name for name in OF_EVERY_BATCH if getattr(callback, name) is None}


def test_hooks_that_are_defined_are_called_and_empty_ones_passed_over() -> None:
    told: list[str] = []
    ours, own = FiniteLoss(), Own()
    of_instance = LambdaCallback(on_before_backward=lambda *args: told.append("on_before_backward"))
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    callbacks = [ours, own, of_instance]
    trainer = Trainer(max_steps=2, callbacks=callbacks, enable_checkpointing=False, accelerator="cpu", **quiet)
    leave_out_what_is_empty(trainer)
    assert left_out(ours) == left_out(of_instance) == {*OF_EVERY_BATCH} - {"on_before_backward"}
    assert left_out(own) == set()
    assert left_out(FiniteLoss()) == set()
    assert left_out(EMA()) == set()
    trainer.fit(ResNetV1(depth=8), DigitsDataModule(batch_size=16))
    assert own.heard == ["on_train_batch_end"] * 2
    assert told == ["on_before_backward"] * 2


def test_what_lightning_calls_for_every_batch_is_known() -> None:
    of_batches = {name for name in vars(Callback) if "batch_start" in name or "batch_end" in name}
    assert of_batches == {name for name in OF_EVERY_BATCH if "batch" in name}
    assert {*OF_EVERY_BATCH} < vars(Callback).keys()


def test_a_profiler_that_is_asked_for_profiles() -> None:
    plain: Any = CifarCLI(["fit", "--config=tiny.yaml"])
    assert isinstance(plain.trainer.profiler, Unprofiled)
    # A run's own settings are what was asked for.
    assert "profiler: null" in next(Path("lightning_logs").rglob("config.yaml")).read_text()
    assert any("on_before_optimizer_step" in left_out(callback) for callback in plain.trainer.callbacks)
    asked: Any = CifarCLI(["fit", "--config=tiny.yaml", "--trainer.profiler=simple"])
    assert isinstance(asked.trainer.profiler, SimpleProfiler)
    assert len(asked.trainer.profiler.recorded_durations["run_training_batch"]) == 2


def test_lightnings_barebones_train() -> None:
    bare = [f"--trainer.{name}=false" for name in ("logger", "enable_checkpointing", "enable_progress_bar")]
    bare += ["--trainer.barebones=true", "--trainer.log_every_n_steps=0"]
    assert CifarCLI(["fit", "--config=tiny.yaml", *bare]).trainer.global_step == 2


def test_the_hook_that_runs_is_noted_past_what_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ResNetV1(depth=8)

    def refuse(module: nn.Module, name: str, value: Any) -> None:
        raise AssertionError(f"{name} went the long way")

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "__setattr__", refuse)
        model._current_fx_name = "training_step"
    assert model._current_fx_name == "training_step"
    before = len([*model.parameters()])
    model.further = nn.Linear(2, 2)
    assert len([*model.parameters()]) == before + 2
