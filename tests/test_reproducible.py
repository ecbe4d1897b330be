"""A run is the same run: twice, whatever the number of workers, after a stop, and on two ranks to the end."""

import csv
import itertools
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import albumentations as A
import pytest
import torch
from forks import COMMAND_LINE, run_on_ranks
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import BatchSizeFinder, GradientAccumulationScheduler, ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.optim import Optimizer

from benchmarks.accuracy import QUIET
from cifar_lit.callbacks import EMA
from cifar_lit.callbacks.checkpoint import BestCheckpoint, LastCheckpoint
from cifar_lit.callbacks.curves import Curves
from cifar_lit.callbacks.stops import Stopped, Stops
from cifar_lit.checkpoint_io import AtomicCheckpointIO
from cifar_lit.data import DigitsDataModule
from cifar_lit.errors import UserError
from cifar_lit.logger import CurvesLogger
from cifar_lit.models import DepthwiseNet
from cifar_lit.schedules import Exponential, OneCycle, Plateau
from cifar_lit.stepping import check_length, seed_batch


class Begins(Callback):
    """Notes the step that training begins at."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step


def fit(
    folder: Path,
    num_workers: int | None = None,
    ckpt_path: Path | None = None,
    schedule: Any = OneCycle,
    compile_mode: Any = "none",
    ends_at: int | None = None,
    batch_size: int = 64,
    **kwargs: Any,
) -> dict[str, Tensor]:
    seed_everything(3)
    model = DepthwiseNet(widths=[[8], [8]], dropout=[0.2, 0.2], schedule=schedule, compile_mode=compile_mode)
    data = DigitsDataModule(
        batch_size=batch_size, num_workers=num_workers, transforms=[A.Affine(rotate=(-20, 20)), A.CoarseDropout()]
    )
    begins = Begins()
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[*kwargs.pop("callbacks", []), begins],
        **{"logger": False, "max_epochs": 2, "limit_train_batches": 6, "limit_val_batches": 1, **kwargs},
    )
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    # A run that began anew would end in the same.
    assert begins.step == (torch.load(ckpt_path, weights_only=True)["global_step"] if ckpt_path else 0)
    accumulated = kwargs.get("accumulate_grad_batches", 1)
    whole = kwargs.get("max_epochs", 2) * kwargs.get("limit_train_batches", 6) // accumulated
    assert trainer.global_step == (ends_at or whole)
    logged = {name: value for name, value in trainer.callback_metrics.items() if "/" in name}
    assert ends_at or {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= set(logged)
    return {name: value.clone() for name, value in (*model.state_dict().items(), *logged.items())}


class TrainFigures(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DepthwiseNet)
        self.seen += [float(metric.compute()) for metric in pl_module.train_scores.named().values()]


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("num_workers", [None, 0])
def test_same_seed_same_weights_to_the_bit(tmp_path: Path, num_workers: int | None) -> None:
    first = fit(tmp_path, num_workers=num_workers, enable_checkpointing=False)
    # What happens in between must not matter.
    torch.randn(100)
    assert_equal(first, fit(tmp_path, num_workers=num_workers, enable_checkpointing=False))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_number_of_workers_changes_nothing(tmp_path: Path, num_workers: int) -> None:
    alone = fit(tmp_path, num_workers=0, enable_checkpointing=False)
    assert_equal(alone, fit(tmp_path, num_workers=num_workers, enable_checkpointing=False))


# None leaves it to the device executor.
@pytest.mark.parametrize("num_workers", [None, 0, 2])
@pytest.mark.parametrize("step", [4, 6, 9])
def test_a_resumed_run_ends_in_the_same_weights_and_figures_to_the_bit(
    tmp_path: Path, step: int, num_workers: int | None
) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(tmp_path, num_workers=num_workers, callbacks=[keep])
    resumed = fit(
        tmp_path, num_workers=num_workers, ckpt_path=tmp_path / f"step={step}.ckpt", enable_checkpointing=False
    )
    assert_equal(whole, resumed)


def test_a_run_in_float64_is_resumed_to_the_bit(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(tmp_path, precision="64-true", callbacks=[keep])
    assert torch.float64 in {tensor.dtype for tensor in whole.values()}
    resumed = fit(tmp_path, precision="64-true", ckpt_path=tmp_path / "step=4.ckpt", enable_checkpointing=False)
    assert_equal(whole, resumed)


def test_a_run_that_leaves_its_average_behind_goes_on_from_the_trained_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = fit(tmp_path, enable_checkpointing=False)
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(tmp_path, callbacks=[keep, EMA(start=0.0)])
    capsys.readouterr()
    resumed = fit(tmp_path, ckpt_path=tmp_path / "step=4.ckpt", enable_checkpointing=False)
    assert "are those of EMA: the run goes on from the trained ones" in capsys.readouterr().out
    assert_equal(whole, resumed)


@pytest.mark.parametrize(("accuracies", "kept"), [((0.5, 0.5, 0.25), 1), ((0.5, 0.75, 0.25), 1), ((0.5, 0.25), 0)])
def test_of_equally_good_epochs_the_later_is_kept(tmp_path: Path, accuracies: tuple[float, ...], kept: int) -> None:
    class Pretended(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.callback_metrics["pretended"] = torch.tensor(accuracies[trainer.current_epoch])

    best = BestCheckpoint(dirpath=tmp_path, filename="{epoch}", monitor="pretended")
    fit(tmp_path, max_epochs=len(accuracies), callbacks=[Pretended(), best])
    assert [path.name for path in tmp_path.glob("*.ckpt")] == [f"epoch={kept}.ckpt"]


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_a_compiled_run_resumed_behind_an_epochs_smaller_batch_ends_in_the_same_weights(tmp_path: Path) -> None:
    # 18 batches of 64, the last of 61, for which the whole run has compiled a program before the resumed one begins.
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=27, save_top_k=-1)
    torch.compiler.reset()
    # Without validation, which would compile a graph of its own.
    options: dict[str, Any] = {"limit_train_batches": 18, "limit_val_batches": 0, "ends_at": 36}
    whole = fit(tmp_path, compile_mode="default", callbacks=[keep], **options)
    torch.compiler.reset()
    resumed = fit(
        tmp_path, ckpt_path=tmp_path / "step=27.ckpt", compile_mode="default", enable_checkpointing=False, **options
    )
    assert_equal(whole, resumed)


@pytest.mark.parametrize("schedule", [OneCycle, partial(Exponential, gamma=0.5)])
def test_a_run_of_so_many_steps_goes_on_behind_an_epoch_with_the_next_one(tmp_path: Path, schedule: Any) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, save_on_train_epoch_end=True)
    options: dict[str, Any] = {"schedule": schedule, "max_epochs": 3, "max_steps": 18}
    whole = fit(tmp_path, callbacks=[keep], **options)
    for step in (6, 12):
        resumed = fit(tmp_path, ckpt_path=tmp_path / f"step={step}.ckpt", enable_checkpointing=False, **options)
        assert_equal(whole, resumed)


class TimeIsUp(Callback):
    """Ends a run as `max_time` does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step


class Clock(Callback):
    """A figure that grows from one validation to the next."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("clock", float(trainer.global_step))


@pytest.mark.parametrize("interval", [1.0, 0.5])
@pytest.mark.parametrize("by_steps", [False, True])
@pytest.mark.parametrize("ends_at", [4, 6, 9])
def test_a_run_that_ended_inside_an_epoch_goes_on_with_the_rest_of_it(
    tmp_path: Path, ends_at: int, by_steps: bool, interval: float
) -> None:
    options: dict[str, Any] = {"schedule": None, "val_check_interval": interval}
    whole = fit(tmp_path, enable_checkpointing=False, **options)
    # The best one is of the last validation, which may follow the last step alone.
    best = BestCheckpoint(dirpath=tmp_path, filename="best-{step}", monitor="clock", mode="max")
    last = LastCheckpoint()
    last.dirpath = str(tmp_path)
    callbacks = [Clock(), *([] if by_steps else [TimeIsUp(ends_at)]), best, last]
    end: dict[str, Any] = {"max_steps": ends_at} if by_steps else {}
    fit(tmp_path, ends_at=ends_at, callbacks=callbacks, **end, **options)
    states = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    # There is none before the first validation.
    named = Path(states[best.state_key]["best_model_path"]).name
    assert named == "".join(path.name for path in tmp_path.glob("best*"))
    assert named or (by_steps and (ends_at, interval) == (4, 1.0))
    more: dict[str, Any] = {"max_steps": 12} if by_steps else {}
    resumed = fit(tmp_path, ckpt_path=tmp_path / "last.ckpt", enable_checkpointing=False, **more, **options)
    assert_equal(whole, resumed)


class StopsAtBatch(Callback):
    """Ends a run behind a batch, or behind the validation that follows it, as early stopping does."""

    def __init__(self, batch: int, behind_validation: bool) -> None:
        self.batch, self.behind_validation = batch, behind_validation

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._end(trainer, not self.behind_validation)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer, self.behind_validation)

    def _end(self, trainer: Trainer, here: bool) -> None:
        if here and trainer.fit_loop.total_batch_idx + 1 == self.batch:
            trainer.should_stop = True


# Of two epochs of six batches, in steps of two.
@pytest.mark.parametrize(("batch", "behind_validation", "ends_at"), [(3, False, 2), (3, True, 2), (9, True, 5)])
def test_a_run_does_not_end_while_a_step_gathers_gradients(
    tmp_path: Path, batch: int, behind_validation: bool, ends_at: int
) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "val_check_interval": 3}
    whole = fit(tmp_path, enable_checkpointing=False, **options)
    last = LastCheckpoint()
    last.dirpath = str(tmp_path)
    fit(tmp_path, ends_at=ends_at, callbacks=[StopsAtBatch(batch, behind_validation), last], **options)
    resumed = fit(tmp_path, ckpt_path=tmp_path / "last.ckpt", enable_checkpointing=False, **options)
    assert_equal(whole, resumed)


def test_what_nobody_has_validated_is_not_among_the_best(tmp_path: Path) -> None:
    best = BestCheckpoint(dirpath=tmp_path, filename="{step}", monitor="val/loss", save_top_k=-1)
    fit(tmp_path, schedule=None, ends_at=9, max_steps=9, callbacks=[best])
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["step=6.ckpt"]


class LogsOfItsOwn(Callback):
    """A metric of validation as modules of one's own name it, the same each time."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val_loss", 1.0)


@pytest.mark.parametrize("monitor", ["val_loss", "val/loss"])
def test_weights_that_nobody_has_validated_do_not_replace_the_best(tmp_path: Path, monitor: str) -> None:
    best = BestCheckpoint(dirpath=tmp_path, filename="{step}", monitor=monitor)
    fit(tmp_path, schedule=None, ends_at=9, max_steps=9, callbacks=[LogsOfItsOwn(), best])
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["step=6.ckpt"]


def test_the_best_is_kept_where_it_is_validated_also_inside_an_epoch(tmp_path: Path) -> None:
    best = BestCheckpoint(
        dirpath=tmp_path, filename="{step}", monitor="val/loss", save_top_k=-1, save_on_train_epoch_end=True
    )
    fit(tmp_path, val_check_interval=4, callbacks=[best])
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"step=4.ckpt", "step=10.ckpt"}


def test_the_best_by_validation_is_not_kept_between_validations() -> None:
    with pytest.raises(UserError, match="val/loss, which is known behind a validation alone: leave every_n_train"):
        BestCheckpoint(monitor="val/loss", every_n_train_steps=4)


class ScoresOnce(Callback):
    """Without any validation."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val_score", float(trainer.current_epoch))


def test_where_nothing_validates_a_metric_of_validation_is_that_of_the_epoch(tmp_path: Path) -> None:
    best = BestCheckpoint(dirpath=tmp_path, filename="{step}", monitor="val_score")
    fit(tmp_path, schedule=None, ends_at=12, limit_val_batches=0, callbacks=[ScoresOnce(), best])
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["step=12.ckpt"]


def test_what_changes_the_number_of_steps_of_a_run_is_refused(tmp_path: Path) -> None:
    gathers = GradientAccumulationScheduler({0: 2})
    with pytest.raises(UserError, match=r"GradientAccumulationScheduler changes .*: give --trainer\.accumulate_grad"):
        fit(tmp_path, schedule=None, callbacks=[gathers], enable_checkpointing=False)
    # A larger batch matters to what goes by steps; and Lightning's Tuner looks for one in a fit of its own.
    finder = BatchSizeFinder()
    trainer = Trainer(logger=False, enable_checkpointing=False, callbacks=[finder])
    check_length(trainer, by_steps=False)
    for schedule, average in ((OneCycle, []), (None, [EMA()])):
        with pytest.raises(UserError, match=r"BatchSizeFinder changes .*: give --data\.batch_size"):
            fit(tmp_path, schedule=schedule, callbacks=[finder, *average], enable_checkpointing=False)
    finder._early_exit = True
    check_length(trainer)


def test_the_best_may_be_so_by_training(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    best = BestCheckpoint(dirpath=tmp_path, filename="{step}", monitor="train/loss", save_top_k=-1)
    fit(tmp_path, check_val_every_n_epoch=2, callbacks=[best])
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"step=6.ckpt", "step=12.ckpt"}
    assert not [warned for warned in recwarn if "logs no" in str(warned.message)]


class KeepsMoreThanData(Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"here": Path()}


def test_a_run_ends_inside_an_epoch_whatever_its_callbacks_keep(tmp_path: Path) -> None:
    last = LastCheckpoint()
    last.dirpath = str(tmp_path)
    fit(tmp_path, schedule=None, ends_at=4, callbacks=[TimeIsUp(4), KeepsMoreThanData(), last])
    content = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert (content["global_step"], content["callbacks"]["KeepsMoreThanData"]) == (4, {"here": Path()})


def never_content(optimizer: Optimizer, steps: int) -> Plateau:
    """Takes every epoch for a worse one."""
    plateau = Plateau(optimizer, steps, factor=0.5, patience=0)
    plateau.mode = "max"  # and nothing is above the infinity that it begins with
    return plateau


@pytest.mark.parametrize("behind_validation", [False, True])
def test_a_plateau_is_told_of_every_epoch_also_of_that_behind_which_the_run_stopped(
    tmp_path: Path, behind_validation: bool
) -> None:
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=not behind_validation)
    whole = fit(tmp_path, max_epochs=4, schedule=never_content, callbacks=[keep])
    epochs = [tmp_path / f"epoch={epoch}.ckpt" for epoch in range(4)]
    rates = {torch.load(epoch, weights_only=True)["optimizer_states"][0]["param_groups"][0]["lr"] for epoch in epochs}
    assert len(rates) > 1
    for epoch in epochs[:3]:
        resumed = fit(tmp_path, max_epochs=4, schedule=never_content, ckpt_path=epoch, enable_checkpointing=False)
        assert_equal(whole, resumed)


@pytest.mark.parametrize("options", [{"check_val_every_n_epoch": 2}, {"val_check_interval": 0.5}])
def test_a_schedule_by_epochs_goes_on_behind_a_validation(tmp_path: Path, options: dict[str, Any]) -> None:
    """Where a checkpoint of the best is saved: the epoch's step of the schedule is taken, the epoch not over."""
    schedule = partial(Exponential, gamma=0.5)
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=False)
    options = {"max_epochs": 4, "schedule": lambda o, n: schedule(o, n), **options}
    whole = fit(tmp_path, callbacks=[keep], **options)
    before_the_last = [*tmp_path.glob("epoch=[0-2]*.ckpt")]
    assert before_the_last
    for saved in before_the_last:
        resumed = fit(tmp_path, ckpt_path=saved, enable_checkpointing=False, **options)
        assert_equal(whole, resumed)


def test_a_plateau_waits_for_the_epochs_that_are_validated(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, "end", save_on_train_epoch_end=True)
    fit(tmp_path, max_epochs=6, schedule=never_content, check_val_every_n_epoch=2, callbacks=[keep])
    (state,) = torch.load(tmp_path / "end.ckpt", weights_only=True)["lr_schedulers"]
    assert state["last_epoch"] == 3
    nevers: list[dict[str, Any]] = [{"limit_val_batches": 0}, {"check_val_every_n_epoch": 3}]
    for never in nevers:
        with pytest.raises(UserError, match="Plateau monitors 'val/loss', which nothing logs"):
            fit(tmp_path, schedule=never_content, enable_checkpointing=False, **never)


def test_what_a_checkpoint_brought_along_is_nothing_to_a_run_afresh(tmp_path: Path) -> None:
    """Of a module loaded in Python, or tested, and then trained on from its weights."""
    keep = ModelCheckpoint(tmp_path, "end", save_on_train_epoch_end=True)
    fit(tmp_path, callbacks=[keep])
    checkpoint = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert checkpoint["progress"] == {"batches": 6, "a_step": 1, "ahead": 0}
    model = DepthwiseNet(widths=[[8], [8]], dropout=[0.2, 0.2], schedule=OneCycle)
    model.on_load_checkpoint({**checkpoint, "progress": {"batches": 6, "a_step": 1, "ahead": 100}})
    off: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=1, limit_train_batches=6, limit_val_batches=0, **off)
    trainer.fit(model, DigitsDataModule(batch_size=64))
    assert model.steps_ahead == 0


# Of 18 batches of 64 images; there are 36 of 32, 12 of 96 and 23 of 50.
@pytest.mark.parametrize(("stop", "batch_size", "ends_at"), [(4, 32, 28), (5, 32, 26), (5, 96, 9), (7, 50, 15)])
def test_a_run_stopped_inside_an_epoch_may_go_on_with_other_batches(
    tmp_path: Path, stop: int, batch_size: int, ends_at: int
) -> None:
    options: dict[str, Any] = {"limit_train_batches": 1.0, "max_epochs": 1}
    last, seen = LastCheckpoint(), Batches()
    last.dirpath = str(tmp_path)
    fit(tmp_path, ends_at=stop, callbacks=[TimeIsUp(stop), last], **options)
    resumed: dict[str, Any] = {"batch_size": batch_size, "ends_at": stop + ends_at, **options}
    logged = fit(tmp_path, ckpt_path=tmp_path / "last.ckpt", enable_checkpointing=False, callbacks=[seen], **resumed)
    assert seen.last == [*([False] * (ends_at - 1)), True]
    assert "val/loss" in logged, "behind its last batch the epoch is validated"


class Batches(Callback):
    """Whether each batch was an epoch's last one."""

    def __init__(self) -> None:
        self.last: list[bool] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.last.append(trainer.is_last_batch)


def test_a_run_resumed_from_behind_validation_logs_the_epoch_whole(tmp_path: Path) -> None:
    """Saved behind validation, when the epoch's training figures are still to be logged."""
    keep = BestCheckpoint(
        dirpath=tmp_path, filename="{epoch}", monitor="val/loss", save_top_k=-1, save_on_train_epoch_end=False
    )
    whole, logged = TrainFigures(), TrainFigures()
    fit(tmp_path, callbacks=[keep, whole])
    fit(tmp_path, ckpt_path=tmp_path / "epoch=0.ckpt", enable_checkpointing=False, callbacks=[logged])
    assert logged.seen == whole.seen


class Notice(Callback):
    """Tells another callback with every batch that there was a signal, and goes on."""

    def __init__(self, stops: Stops) -> None:
        self.stops = stops
        self.stopped_at: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.stops._signal = signal.SIGTERM
        try:
            self.stops.on_train_batch_end(trainer, pl_module, *args)
        except Stopped:
            self.stopped_at.append(trainer.fit_loop.total_batch_idx + 1)
        self.stops._signal = None


# Of two epochs of six batches.
@pytest.mark.parametrize(
    ("interval", "accumulated", "allowed"),
    [(1.0, 1, {1, 2, 3, 4, 5, 7, 8, 9, 10, 11}), (0.5, 1, {1, 2, 4, 5, 7, 8, 10, 11}), (1.0, 2, {2, 4, 8, 10})],
)
@pytest.mark.parametrize("every_n_epochs", [1, 2])
def test_a_run_stops_only_where_it_can_go_on_as_if_it_had_not(
    tmp_path: Path, interval: float, accumulated: int, allowed: set[int], every_n_epochs: int
) -> None:
    notice = Notice(Stops())
    options: dict[str, Any] = {"val_check_interval": interval, "accumulate_grad_batches": accumulated}
    options["check_val_every_n_epoch"] = every_n_epochs
    if (interval, every_n_epochs) == (0.5, 2):
        # No validation in the first epoch.
        allowed = allowed | {3}
    fit(tmp_path, callbacks=[notice], enable_checkpointing=False, **options)
    assert set(notice.stopped_at) == allowed


@pytest.mark.parametrize("interval", [1.0, 0.5])
def test_no_checkpoint_by_the_clock_stands_before_figures_that_are_still_to_be_logged(
    tmp_path: Path, interval: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever goes on from it would not log them."""
    saved: list[int] = []
    last = LastCheckpoint(1e-9)
    monkeypatch.setattr(last, "_save_last_checkpoint", lambda trainer, candidates: None)
    monkeypatch.setattr(last, "_save_topk_checkpoint", lambda trainer, _: saved.append(trainer.global_step))
    fit(tmp_path, callbacks=[last], val_check_interval=interval)
    # Of two epochs of six steps.
    before_figures = {6, 12} if interval == 1 else {3, 6, 9, 12}
    assert set(saved) == set(range(1, 13)) - before_figures


def scalars(folder: Path) -> list[tuple[str, str, int]]:
    """What TensorBoard would show now: sub-run, chart and step of every point."""
    found = []
    for file in folder.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        charts = events.Tags()["scalars"]
        found += [(file.parent.name, chart, event.step) for chart in charts for event in events.Scalars(chart)]
    return found


def test_what_happened_before_a_checkpoint_is_in_the_curves_once_it_is_written(tmp_path: Path) -> None:
    """Whoever goes on from it would not log that again, and Lightning logs an epoch's figures behind its checkpoint."""
    folder, before = tmp_path / "logs", dict[int, list[tuple[str, str, int]]]()

    class Checkpoints(AtomicCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            before[checkpoint["global_step"]] = scalars(folder)
            super().save_checkpoint(checkpoint, path)

    keep = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
    last = LastCheckpoint()
    last.dirpath = str(tmp_path)
    logged = {"logger": CurvesLogger(str(folder)), "log_every_n_steps": 1}
    trainer_options: dict[str, Any] = {**logged, "callbacks": [Curves(), keep, last], "plugins": [Checkpoints()]}
    fit(tmp_path, **trainer_options)
    assert sorted(before) == [2, 4, 6, 8, 10, 12]
    for steps, points in before.items():
        assert [step for _, chart, step in points if chart == "run/learning_rate"] == list(range(steps))
        of_epochs = [step for split, chart, step in points if (split, chart) == ("train", "loss")]
        assert of_epochs == [5, 11][: steps // 6], steps
    whole = scalars(folder)
    assert len(whole) == len(set(whole))


def test_what_a_network_draws_is_of_seed_epoch_batch_and_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for seed in ("0", "1", "0"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        for where in itertools.product(range(2), repeat=3):
            seed_batch(torch.device("cpu"), *where)
            drawn.append(torch.rand(()).item())
    assert len(set(drawn[:16])) == 16
    assert drawn[16:] == drawn[:8]


LAUNCHERS = {
    "ddp": [sys.executable, "-m", "cifar_lit"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "cifar_lit"],
}


TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu", "--trainer.precision=32-true"]
FEW = [
    "fit",
    "--model=ResNetV1",
    "--model.depth=8",
    "--data=DigitsDataModule",
    "--data.batch_size=64",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=3",
    *QUIET,
]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_start_ranks_that_train_one_network(tmp_path: Path, launcher: str) -> None:
    # torch's own shared BatchNorm would refuse what is on a CPU.
    shared = ["--trainer.sync_batchnorm=true"] if launcher == "torchrun" else []
    command, environment = [*LAUNCHERS[launcher], *FEW, *TWO, *shared], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    # Two that did not know of each other would each have a run.
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert [chart for split, chart, _ in scalars(tmp_path) if split == "val"].count("accuracy") == 1


@pytest.mark.slow
def test_two_ranks_count_every_image_once(tmp_path: Path) -> None:
    def accuracy(said: str) -> list[str]:
        return [line.split()[-1] for line in said.splitlines() if "test/accuracy" in line]

    run_on_ranks(COMMAND_LINE, 2, tmp_path, *FEW, *TWO)
    on_two = run_on_ranks(COMMAND_LINE, 2, tmp_path, "test", *TWO)
    one = ["--trainer.devices=1", "--trainer.strategy=auto", "--trainer.precision=32-true"]
    on_one = run_on_ranks(COMMAND_LINE, 1, tmp_path, "test", *one)
    # 359 test images do not divide over two ranks: a padded shard would count one of them twice.
    assert len(accuracy(on_two)) == 1
    assert accuracy(on_two) == accuracy(on_one)
    run_on_ranks(COMMAND_LINE, 2, tmp_path, "predict", *TWO)
    rows = list(csv.DictReader(next(tmp_path.rglob("predictions.csv")).open()))
    assert [int(row["index"]) for row in rows] == list(range(359))
    right = sum(row["true"] == row["predicted"] for row in rows)
    assert right / 359 == pytest.approx(float(accuracy(on_two)[0]), abs=1e-6)
