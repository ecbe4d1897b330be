"""What a user types, and what comes of it."""

import csv
import errno
import io
import json
import os
import pickle
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import dict_to_namespace
from PIL import Image
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cifar_lit
from cifar_lit.callbacks import run_lock
from cifar_lit.callbacks.checkpoint import LastCheckpoint
from cifar_lit.callbacks.run_lock import RunLock
from cifar_lit.checkpoint_content import data_in, load_checkpoint
from cifar_lit.cli import DEFAULTS, CifarCLI, main
from cifar_lit.commands.evaluation import gather_provenance
from cifar_lit.commands.run_settings import suit
from cifar_lit.console import hush_libraries, one_line
from cifar_lit.data import CIFAR10DataModule, DigitsDataModule
from cifar_lit.data.decoding import decode
from cifar_lit.errors import UserError
from cifar_lit.files import expanded
from cifar_lit.logger import logger_of
from cifar_lit.models import ResNetV1
from cifar_lit.parsing import check_files_of_settings, in_order, of_recipe
from cifar_lit.runs import checkpoints, find_checkpoint, runs_of, with_own_config
from cifar_lit.trainer import CifarTrainer

REPOSITORY = Path(__file__).parent.parent
TINY = {
    "trainer": {"max_epochs": 2, "limit_train_batches": 3, "accelerator": "cpu", "log_every_n_steps": 1},
    "model": {"class_path": "ResNetV1", "init_args": {"depth": 8, "schedule": "OneCycle", "tta": "flip"}},
    # To validate on 288 images, twice flipped, would be an eighth of all the time here.
    "data": {"class_path": "DigitsDataModule", "init_args": {"batch_size": 16, "val_size": 40}},
    # Drawing would be a fifth of all the time here; tests/callbacks/test_panels.py looks at what is drawn.
    **{panel: {"every_n_epochs": 0} for panel in ("gradcam", "misclassified", "confusion")},
}


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))


def fit(*args: str) -> Path:
    main(["fit", "--config", "tiny.yaml", *args])
    return max(Path("lightning_logs").rglob("version_*"), key=lambda run: run.stat().st_mtime)


def failure(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    message = str(caught.value.code)
    assert message.startswith("cifar-lit: ")
    assert "\n" not in message
    assert "Traceback" not in capsys.readouterr().err
    return message


def scalars(folder: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_defaults_exist() -> None:
    assert DEFAULTS.is_file()


def test_fit_leaves_a_run_and_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit()
    out = capsys.readouterr().out
    assert run == Path("lightning_logs/tiny/version_0")
    assert (run / "config.yaml").is_file()
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names[1] == "last.ckpt"
    assert re.fullmatch(r"best-epoch=00[01]-val_accuracy=0\.\d{4}\.ckpt", names[0])
    assert re.search(r"Epoch 1/2: train loss .*, val loss .*, accuracy +[\d.]+%, [\d,]+ images/s, .* left", out)
    assert re.search(r"Epoch 2/2: ", out)
    assert re.search(r"Precision (bf16-mixed|32-true): ", out)
    *_, where, best, watch = out.strip().splitlines()
    assert str(run) in where
    assert names[0] in best
    assert watch == "Watch: tensorboard --logdir lightning_logs"


def test_a_run_has_panels_unless_they_are_switched_off() -> None:
    tiny = yaml.safe_load(Path("tiny.yaml").read_text())
    Path("plain.yaml").write_text(yaml.safe_dump({name: tiny[name] for name in ("trainer", "model", "data")}))
    limits = ["--trainer.max_epochs=6", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    main(["fit", "--config", "plain.yaml", *limits])
    (run,) = Path("lightning_logs/plain").glob("version_*")
    drawn = [EventAccumulator(str(folder), size_guidance={"images": 0}).Reload() for folder in (run, run / "val")]
    steps = {tag: [event.step for event in events.Images(tag)] for events in drawn for tag in events.Tags()["images"]}
    # Behind the 5th epoch, and at the end.
    assert {tag: found for tag, found in steps.items() if found != [4, 5]} == {}
    assert {tag.split("/")[1] for tag in steps} == {"gradcam", "misclassified", "confusion", "classes"}
    # Behind each.
    assert len(scalars(run / "val")["per_class_recall/3"]) == 6


def test_a_run_saves_by_the_clock_and_atomically(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LastCheckpoint(5)._train_time_interval == timedelta(minutes=5)
    Path("ends.py").write_text(
        "from pytorch_lightning import Callback\n"
        "class Ends(Callback):\n"
        "    def on_train_batch_start(self, trainer, module, batch, batch_idx):\n"
        "        if batch_idx == 2:\n"
        "            raise ValueError('in the third step')\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    for minutes, saved in ((1e-9, [2]), (99, [])):
        with pytest.raises(SystemExit, match="in the third step"):
            fit(f"--checkpoint.every_n_minutes={minutes}", "--trainer.callbacks+=ends.Ends")
        last = [torch.load(path, weights_only=True)["global_step"] for path in Path().rglob("last.ckpt")]
        assert last == saved
        shutil.rmtree("lightning_logs")
    main(["fit", "--config", "tiny.yaml", "--trainer.max_epochs=1"])
    (path,) = Path().rglob("last.ckpt")
    before = path.read_bytes()

    def half(content: Any, file: Any) -> None:
        file.write(b"half of one")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cifar_lit.checkpoint_io.torch.save", half)
    with pytest.raises(SystemExit, match="Cannot write the checkpoint"):
        fit("--ckpt_path=last")
    assert path.read_bytes() == before


def test_curves_of_training_and_validation_share_a_chart() -> None:
    run = fit()
    train, val, top = scalars(run / "train"), scalars(run / "val"), scalars(run)
    # Equal tags of different sub-runs are what TensorBoard draws on one chart.
    assert set(train) == set(val) == {"loss", "accuracy"}
    assert len(train["loss"]) == len(val["accuracy"]) == 2
    assert {"run/learning_rate", "run/images_per_second", "results/val/accuracy", "results/train/loss"} <= set(top)
    assert len(top["run/learning_rate"]) == 6
    assert top["results/val/accuracy"][0] == pytest.approx(val["accuracy"][-1])


def test_losses_of_single_steps_are_logged_when_asked_for() -> None:
    train = scalars(fit("--curves.step_loss=true") / "train")
    assert len(train["step_loss"]) == 6
    # Batches of one size: their mean is the epoch's loss.
    assert sum(train["step_loss"][:3]) / 3 == pytest.approx(train["loss"][0], rel=1e-5)


def test_losses_of_steps_that_gather_batches_are_those_of_batches() -> None:
    given = ["--curves.step_loss=true", "--trainer.accumulate_grad_batches=3", "--trainer.max_epochs=1"]
    run = fit(*given, "--trainer.limit_train_batches=9", "--model.optimizer=SGD", "--model.optimizer.lr=0")
    events = EventAccumulator(str(run / "train")).Reload()
    steps = events.Scalars("step_loss")
    assert [event.step for event in steps] == [0, 1, 2]
    # That of each step's last batch; with weights that stay, all are near the mean.
    assert sum(event.value for event in steps) / 3 == pytest.approx(events.Scalars("loss")[0].value, rel=0.3)


WHOLE = "--checkpoint.filename={epoch:03d}_{val/accuracy:.4f}"
WITHIN = "--checkpoint.filename={epoch:03d}-{val/top-5:.4f}"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        # Never validated.
        (["--trainer.limit_val_batches=0", "--trainer.max_epochs=1"], ["best-epoch=000.ckpt"]),
        (["--trainer.limit_val_batches=0", "--trainer.max_epochs=1", WHOLE], ["epoch=0-step=3.ckpt"]),
        # What joins the parts of a name may stand within braces, too.
        (["--trainer.limit_val_batches=0", "--trainer.max_epochs=1", WITHIN], ["000.ckpt"]),
        # Validated a step before the epoch's end.
        (["--trainer.val_check_interval=2", "--trainer.max_epochs=1"], ["best-epoch=000.ckpt"]),
        # Validated behind the second epoch alone.
        (
            ["--trainer.check_val_every_n_epoch=2", "--trainer.max_epochs=3"],
            ["best-epoch=000.ckpt", r"best-epoch=001-val_accuracy=0\.\d{4}.ckpt", "best-epoch=002.ckpt"],
        ),
    ],
)
def test_a_checkpoint_by_training_tells_no_accuracy_of_other_weights(options: list[str], names: list[str]) -> None:
    run = fit("--checkpoint.monitor=train/loss", "--checkpoint.save_top_k=-1", *options)
    *found, last = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert last == "last.ckpt"
    assert len(found) == len(names)
    assert all(re.fullmatch(name, path) for name, path in zip(names, found, strict=True)), found


def test_predictions_go_to_the_run_and_curves_are_where_the_line_says(capsys: pytest.CaptureFixture[str]) -> None:
    csv_logger = "{class_path: CSVLogger, init_args: {save_dir: .}}"
    boards = "{class_path: TensorBoardLogger, init_args: {save_dir: boards}}"
    main(["fit", "--config", "tiny.yaml", f"--trainer.logger=[{csv_logger}, {boards}]"])
    watch = capsys.readouterr().out.strip().splitlines()[-1]
    assert watch == "Watch: tensorboard --logdir boards/lightning_logs"
    main(["predict", "--ckpt_path=lightning_logs/version_0/checkpoints/last.ckpt"])
    assert Path("lightning_logs/version_0/predictions.csv").is_file()
    assert not Path("predictions.csv").exists()
    # As one does whose checkpoint is in somebody else's run.
    main(["predict", "--ckpt_path=lightning_logs/version_0/checkpoints/last.ckpt", "--trainer.logger=false"])
    assert Path("predictions.csv").is_file()
    main(["fit", "--config", "tiny.yaml", f"--trainer.logger={csv_logger}"])
    assert "Watch" not in capsys.readouterr().out


def test_test_and_predict_take_the_newest_best_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit()
    capsys.readouterr()
    main(["test"])
    out = capsys.readouterr().out
    assert "test/accuracy_flip" in out
    accuracy = float(re.search(r"test/accuracy +([\d.]+)", out)[1])  # type: ignore[index]
    assert scalars(run / "test")["accuracy"] == [pytest.approx(accuracy)]
    assert not Path("lightning_logs/tiny/version_1").exists(), "results belong to the run that they are about"

    main(["predict"])
    rows = list(csv.DictReader((run / "predictions.csv").open()))
    assert [int(row["index"]) for row in rows] == list(range(359))
    right = sum(row["true"] == row["predicted"] for row in rows) / len(rows)
    assert right == pytest.approx(accuracy, abs=1e-6)
    assert sum(float(rows[0][f"p_{digit}"]) for digit in range(10)) == pytest.approx(1, abs=1e-4)


def test_a_run_on_several_machines_with_its_own_checkpoints_is_looked_at_on_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fit("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k=-1")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["num_nodes"] = 2
    config["gradcam"]["method"] = "HiResCAM"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for command in ("summary", "explain", "test"):
        main([command])
    assert "test/accuracy" in capsys.readouterr().out
    # By the method of its panels.
    assert "(HiResCAM, <span" in (run / "explain" / "report.html").read_text(encoding="utf-8")
    # By as many processes as it had, which one does as well.
    config["trainer"] |= {"devices": 3, "strategy": "ddp"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with monkeypatch.context() as patch:
        patch.setattr("pytorch_lightning.strategies.launchers.subprocess_script.subprocess.Popen", None)
        main(["test"])
    assert "test/accuracy" in capsys.readouterr().out
    # On as many GPUs as it had, which need not be here.
    config["trainer"] |= {"devices": 64, "accelerator": "gpu", "strategy": "fsdp"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    Path("pictures").mkdir()
    Image.new("RGB", (32, 32)).save("pictures/a.png")
    monkeypatch.setattr("cifar_lit.commands.run_settings.can_use", lambda accelerator: accelerator != "gpu")
    main(["test"])
    assert "test/accuracy" in capsys.readouterr().out
    main(["predict", "--images=pictures"])
    printed = capsys.readouterr().out
    assert "Wrote 1 prediction to" in printed
    # It computes in float32, whatever the run did.
    assert "Precision" not in printed


@pytest.mark.parametrize(
    ("had", "here", "asked", "expected"),
    [
        ({"devices": 4, "strategy": "ddp"}, 2, [], (1, "auto")),
        ({"devices": "0,3", "strategy": "ddp"}, 2, [], (1, "auto")),
        ({"devices": [3], "strategy": "ddp"}, 2, [], (1, "auto")),
        ({"devices": 2, "strategy": "ddp"}, 2, [], (2, "ddp")),
        ({"devices": "2", "strategy": "ddp"}, 2, [], ("2", "ddp")),
        ({"devices": -1, "strategy": "ddp"}, 2, [], (-1, "ddp")),
        ({"devices": "auto", "strategy": "auto"}, 2, [], ("auto", "auto")),
        ({"devices": 4, "strategy": "ddp"}, 2, ["--trainer.devices=4"], (4, "ddp")),
        ({"devices": 4, "strategy": "ddp"}, 2, ["--config=other.yaml"], (4, "ddp")),
    ],
)
def test_as_many_devices_as_a_run_had_need_not_be_here(
    had: dict[str, Any],
    here: int,
    asked: list[str],
    expected: tuple[Any, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    settings = dict_to_namespace({"trainer": {"accelerator": "auto", **had}, "method": None, "images": None})
    suit(settings, "test", None, asked)
    assert (settings.trainer.devices, settings.trainer.strategy) == expected
    # A launcher has begun as many as it was told to.
    for launcher in ({"WORLD_SIZE": "4"}, {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "test"}):
        with monkeypatch.context() as patch:
            for name, value in launcher.items():
                patch.setenv(name, value)
            settings = dict_to_namespace({"trainer": {"accelerator": "auto", **had}, "method": None, "images": None})
            suit(settings, "test", None, asked)
        assert (settings.trainer.devices, settings.trainer.strategy) == (had["devices"], had["strategy"])


def test_only_of_a_settings_file_is_it_said_that_it_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("Grün".encode("latin-1"))
    with pytest.raises(UnicodeDecodeError) as caught:
        (tmp_path / "latin.csv").read_text(encoding="utf-8")
    assert "settings" not in one_line(caught.value)
    assert "UnicodeDecodeError" in one_line(caught.value)


def test_a_best_epoch_that_the_test_split_chose_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--trainer.max_epochs=1", "--data.val_size=0")
    capsys.readouterr()
    main(["test"])
    last = run / "checkpoints" / "last.ckpt"
    chosen = f"This epoch was chosen by the test split, as no images were held out: --ckpt_path={last} is of the last"
    assert chosen in capsys.readouterr().out
    main(["test", "--ckpt_path=last"])
    assert "chosen by" not in capsys.readouterr().out
    best = next((run / "checkpoints").glob("best*"))
    content = load_checkpoint(best)
    assert gather_provenance(content, best, run)["epoch chosen by"] == "the test split"
    assert "epoch chosen by" not in gather_provenance(load_checkpoint(last), last, run)
    content["datamodule_hyper_parameters"]["val_size"] = 0.1
    assert "epoch chosen by" not in gather_provenance(content, best, run)


def test_validate_and_a_config_given_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    main(["validate", "--config", "tiny.yaml", "--ckpt_path", "last"])
    assert "val/accuracy" in capsys.readouterr().out


def test_command_line_and_config_beat_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--model.optimizer.lr=0.1", "--trainer.max_epochs=1")
    fit("--model.optimizer.lr=0.003", "--model.schedule=null", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    # The run goes on where it was.
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    resumed = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert resumed["epoch"] == 1
    assert resumed["optimizer_states"][0]["param_groups"][0]["lr"] == 0.003
    assert resumed["hyper_parameters"]["optimizer"]["init_args"]["lr"] == 0.003
    # Another architecture than the checkpoint's is an error, and no silent return to the checkpoint's.
    message = failure(capsys, "test", "--config", "tiny.yaml", "--model.depth=14", "--ckpt_path=last")
    assert "another architecture" in message


def test_a_resumed_run_remembers_its_best(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--trainer.max_epochs=1", "--trainer.limit_train_batches=30")
    (best,) = (run / "checkpoints").glob("best*")
    # A rate of 10 unlearns everything.
    fit("--ckpt_path=last", "--model.optimizer.lr=10", "--model.schedule=null")
    assert list((run / "checkpoints").glob("best*")) == [best]
    assert best.name in capsys.readouterr().out.splitlines()[-2]
    assert find_checkpoint("best", Path()) == best
    assert len(scalars(run / "val")["accuracy"]) == 2


def test_a_moved_run_remembers_its_best(monkeypatch: pytest.MonkeyPatch) -> None:
    run = fit("--trainer.max_epochs=1", "--trainer.limit_train_batches=30")
    (best,) = (run / "checkpoints").glob("best*")
    moved = Path("elsewhere/lightning_logs/tiny/version_0")
    moved.parent.mkdir(parents=True)
    run.rename(moved)
    Path("here").mkdir()
    monkeypatch.chdir("here")
    config, last = Path("../tiny.yaml"), (Path("..") / moved / "checkpoints" / "last.ckpt").resolve()
    main(["fit", f"--config={config}", f"--ckpt_path={last}", "--model.optimizer.lr=10", "--model.schedule=null"])
    assert [path.name for path in last.parent.glob("best*")] == [best.name]


def test_a_runs_own_config_means_that_run(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (fit(f"--seed_everything={seed}", "--trainer.max_epochs=1") for seed in (1, 2))
    before = (second / "checkpoints" / "last.ckpt").read_bytes()
    main(["test", f"--config={first / 'config.yaml'}"])
    assert f"Checkpoint {first}" in capsys.readouterr().out
    main(["fit", f"--config={first / 'config.yaml'}", "--ckpt_path=last", "--trainer.max_epochs=2"])
    assert torch.load(first / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    assert (second / "checkpoints" / "last.ckpt").read_bytes() == before
    assert f"Resuming {first}" in capsys.readouterr().out


def test_a_runs_folder_means_its_best_checkpoint_and_in_fit_its_last(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (fit(f"--seed_everything={seed}", "--trainer.max_epochs=1") for seed in (1, 2))
    (best,) = (first / "checkpoints").glob("best*")
    capsys.readouterr()
    # Its settings are meant, too.
    main(["test", f"--ckpt_path={first}"])
    printed = capsys.readouterr().out
    assert f"Settings of {first}\n" in printed
    assert f"Checkpoint {best}\n" in printed
    # Runs below it come behind its own, also where they are newer; and from within it is a dot.
    (below,) = (second / "checkpoints").glob("best*")
    newer = first / "lightning_logs" / "other" / "version_0" / "checkpoints" / below.name
    newer.parent.mkdir(parents=True)
    shutil.copy(below, newer)
    for folder in (first, first / "checkpoints"):
        assert find_checkpoint(str(folder), Path()) == best
    with monkeypatch.context() as inside:
        inside.chdir(first / "checkpoints")
        assert find_checkpoint(".", Path()).samefile(best.name)
    shutil.rmtree(first / "lightning_logs")
    main(["fit", "--config=tiny.yaml", f"--ckpt_path={first}", "--trainer.max_epochs=2"])
    assert f"Resuming {first / 'checkpoints' / 'last.ckpt'}\n" in capsys.readouterr().out
    # Of a folder of runs the newest, which is the one that has gone on.
    main(["test", f"--ckpt_path={first.parent}"])
    assert f"Settings of {first}\n" in capsys.readouterr().out
    (second / "checkpoints" / "last.ckpt").unlink()
    said = failure(capsys, "fit", "--config=tiny.yaml", f"--ckpt_path={second}", "--trainer.max_epochs=2")
    assert f"The run {second} has no last checkpoint: give another, such as --ckpt_path={below}" in said
    below.rename(below.with_name("last.ckpt"))
    said = failure(capsys, "test", f"--ckpt_path={second}")
    assert f"The run {second} has no best checkpoint: give another, such as --ckpt_path={second}" in said
    Path("empty").mkdir()
    assert "empty holds no run with a checkpoint" in failure(capsys, "test", "--ckpt_path=empty")
    assert "There is no checkpoint .: give" in failure(capsys, "test", "--ckpt_path=")


def test_of_the_newest_run_an_older_ones_checkpoint_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    older, killed = (fit("--trainer.max_epochs=1") for _ in range(2))
    shutil.rmtree(killed / "checkpoints")
    learnt = (older / "checkpoints" / "last.ckpt").read_bytes()
    said = failure(capsys, "fit", "--config=tiny.yaml", "--trainer.max_epochs=2", "--ckpt_path=last")
    assert f"The newest run, {killed}, has no checkpoint: begin anew without --ckpt_path, or go on with an ear" in said
    assert said.endswith(f"--ckpt_path={older}.")
    assert (older / "checkpoints" / "last.ckpt").read_bytes() == learnt
    # What only looks says so.
    main(["summary"])
    assert f"{killed} is newer, and has no checkpoint\n" in capsys.readouterr().err
    # Settings of other programs are no run.
    other = Path("lightning_logs", "wandb", "run-1", "files", "config.yaml")
    other.parent.mkdir(parents=True)
    shutil.move(killed, "aside")
    other.touch()
    assert find_checkpoint("last", Path(), kind="last") == older / "checkpoints" / "last.ckpt"
    shutil.move("aside", killed)
    # One that went on behind it is the newest.
    main(["fit", "--config=tiny.yaml", "--trainer.max_epochs=2", f"--ckpt_path={older}"])
    main(["fit", "--config=tiny.yaml", "--trainer.max_epochs=3", "--ckpt_path=last"])
    assert f"Resuming {older / 'checkpoints' / 'last.ckpt'}\n" in capsys.readouterr().out


def test_the_best_checkpoint_may_be_called_otherwise_and_lie_elsewhere() -> None:
    run = fit("--checkpoint.filename=epoch={epoch}", "--checkpoint.auto_insert_metric_name=false")
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    (kept,) = [Path(state["best_model_path"]) for key, state in last["callbacks"].items() if "BestCheck" in key]
    assert kept.name.startswith("epoch=")
    assert find_checkpoint("best", Path()).samefile(kept)
    assert find_checkpoint(str(run), Path()).samefile(kept)
    fit("--checkpoint.dirpath=elsewhere")
    assert find_checkpoint("elsewhere", Path()).name.startswith("best-")


def test_weights_alone_are_nothing_to_go_on_from(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--trainer.max_epochs=1", "--checkpoint.save_weights_only=true")
    (best,) = (run / "checkpoints").glob("best-*")
    said = failure(capsys, "fit", "--config=tiny.yaml", f"--ckpt_path={best}")
    assert f"{best} holds weights alone: give a checkpoint of the whole run" in said


@pytest.mark.skipif(os.name == "nt", reason="no such locks there")
def test_a_run_is_trained_by_one_process_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--trainer.max_epochs=1")
    other = "import sys, pathlib; from cifar_lit.callbacks.run_lock import _locked; _locked(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", f"{other}; print('held', flush=True); sys.stdin.read()", str(run)]
    again = ["fit", "--config=tiny.yaml", "--trainer.max_epochs=2", "--ckpt_path=last"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        said = failure(capsys, *again)
        assert said.endswith(f"The run {run} is trained by another process: wait for its end, or stop it.")
        # To look at it is no harm, nor to try what it would do.
        main(["test", "--ckpt_path=last"])
        main([*again, "--trainer.fast_dev_run=true"])
        # One that was killed lets go.
        process.kill()
    main(again)
    # And so does one that has ended.
    main([*again, "--trainer.max_epochs=3"])
    assert set() == run_lock._LOCKED


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks there")
def test_a_fork_does_not_hold_a_run_that_has_ended(tmp_path: Path) -> None:
    descriptor = run_lock._locked(tmp_path)
    assert descriptor is not None
    with pytest.raises(UserError, match="is trained by another process"):
        run_lock._locked(tmp_path)
    (reading, until), (begun, telling) = os.pipe(), os.pipe()
    if not (child := os.fork()):
        os.close(until)
        os.write(telling, b"!")
        os.read(reading, 1)
        os._exit(0)
    os.read(begun, 1)
    run_lock._LOCKED.clear()
    os.close(descriptor)
    again = run_lock._locked(tmp_path)
    assert again is not None
    run_lock._LOCKED.clear()
    for one in (again, until, reading, begun, telling):
        os.close(one)
    assert os.waitpid(child, 0)[1] == 0


def test_a_folder_that_runs_share_is_not_locked(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(is_global_zero=True, log_dir=str(tmp_path))
    lock = RunLock()
    for logger in (None, object(), DummyLogger()):
        run.logger = logger
        lock.setup(run, None, "fit")  # type: ignore[arg-type]
        assert lock._folder is None
    run.logger = CSVLogger(tmp_path)
    for stage, is_locked in (("test", False), ("fit", True)):
        lock.setup(run, None, stage)  # type: ignore[arg-type]
        assert (lock._folder is not None) == is_locked
    lock.on_exception(run, None, KeyboardInterrupt())  # type: ignore[arg-type]
    assert lock._folder is None
    assert set() == run_lock._LOCKED


def test_where_folders_cannot_be_locked_runs_are_trained_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lockless(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("cifar_lit.callbacks.run_lock.fcntl.flock", lockless)
    assert run_lock._locked(tmp_path) is None
    monkeypatch.setattr("cifar_lit.callbacks.run_lock.fcntl", None)
    assert run_lock._locked(tmp_path) is None


def test_a_copy_does_not_hold_the_run() -> None:
    lock = RunLock()
    lock._folder = 99
    assert pickle.loads(pickle.dumps(lock))._folder is None


def test_a_command_that_is_none_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(capsys, "fti").endswith("there is no command fti: give fit.")
    assert failure(capsys, "deploy").endswith(
        "there is no command deploy: give fit, validate, test, predict, summary, explain or export."
    )
    assert failure(capsys).endswith(
        "no command is given: see --help, or begin with fit --config configs/quickstart.yaml."
    )


def test_a_home_that_is_nowhere_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(UserError, match=r"~/x cannot be found \(Could not determine .*\): give a path without ~"):
        expanded("~/x")


def test_the_last_run_is_where_its_own_logger_keeps_it(capsys: pytest.CaptureFixture[str]) -> None:
    fit("--trainer.max_epochs=1")
    for number, name in enumerate(("lightning_logs", "mine")):
        logger = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=csv"]
        logger += [f"--trainer.logger.name={name}"] if number else []
        said = failure(capsys, "fit", "--config=tiny.yaml", *logger, "--ckpt_path=last")
        assert f"csv/{name} holds no run with a last checkpoint" in said
        main(["fit", "--config=tiny.yaml", "--trainer.max_epochs=1", *logger])
        capsys.readouterr()
        main(["fit", "--config=tiny.yaml", *logger, "--ckpt_path=last"])
        assert f"Resuming csv/{name}/version_0/checkpoints/last.ckpt\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "settings", "folder"),
    [
        ("pytorch_lightning.loggers.CSVLogger", {"save_dir": "out", "name": ""}, "out"),
        ("TensorBoardLogger", {"save_dir": "out", "name": None}, "out"),
        ("TensorBoardLogger", {"save_dir": "out", "name": "a"}, "out/a"),
        ("WandbLogger", {"save_dir": "out", "name": "a", "project": "b"}, "out/b"),
        ("MLFlowLogger", {"save_dir": "out"}, "lightning_logs/tiny"),
    ],
)
def test_where_a_logger_keeps_runs(kind: str, settings: dict[str, Any], folder: str) -> None:
    logger = dict_to_namespace({"class_path": kind, "init_args": settings})
    assert runs_of(Path("tiny.yaml"), Path(), [logger, True], is_fit=True) == Path(folder)


def test_of_an_evaluation_a_logger_says_where_its_results_go(capsys: pytest.CaptureFixture[str]) -> None:
    logger = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=csv"]
    run = fit("--trainer.max_epochs=1")
    main(["test", "--config=tiny.yaml", *logger])
    assert f"Checkpoint {run}/checkpoints/best" in capsys.readouterr().out
    shutil.rmtree("lightning_logs")
    shutil.rmtree("csv")
    main(["fit", "--config=tiny.yaml", "--trainer.max_epochs=1", *logger])
    main(["test", "--config=tiny.yaml", *logger])
    assert "Checkpoint csv/lightning_logs/version_0/checkpoints/best" in capsys.readouterr().out


def test_that_a_run_is_no_longer_saved_by_the_clock_is_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    fit("--trainer.max_epochs=1", "--checkpoint.every_n_minutes=5")
    fit("--ckpt_path=last")
    assert not [one for one in recwarn if "add the following callbacks" in str(one.message)]


def test_from_python_a_runs_folder_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--trainer.max_epochs=1", "--trainer.limit_train_batches=30")
    (best,) = (run / "checkpoints").glob("best*")
    model, data = ResNetV1.load_from_checkpoint(best), DigitsDataModule.load_from_checkpoint(best)
    trainer = CifarTrainer(accelerator="cpu", logger=False, enable_progress_bar=False, max_epochs=2)
    by_file, by_folder = (trainer.test(model, datamodule=data, ckpt_path=path) for path in (best, run))
    assert by_file == by_folder
    assert trainer.validate(model, datamodule=data, ckpt_path=str(run))
    assert trainer.predict(model, datamodule=data, ckpt_path=run)
    Image.new("RGB", (8, 8)).save("picture.png")
    # Lightning trains in the mode in which it finds a model.
    model.train()
    next(model.net.children()).eval()
    modes = [module.training for module in model.modules()]
    trainer.predict(model, datamodule=data, ckpt_path=run, images=Path("picture.png"))
    assert (run / "pictures" / "predictions.csv").is_file()
    trainer.explain(model, run, data, output_dir=Path("explained"))
    trainer.export(model, run, data, output_dir=Path("exported"), format="torch")
    assert [module.training for module in model.modules()] == modes
    capsys.readouterr()
    trainer.summary(model, data, "csv", ckpt_path=run)
    assert "total" in capsys.readouterr().out
    trainer.fit(model, datamodule=data, ckpt_path=run)
    assert trainer.current_epoch == 2


def test_a_run_that_cannot_be_written_to_is_named_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit("--trainer.max_epochs=1")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    # Not by chmod: an administrator may write everywhere.
    monkeypatch.setattr(Path, "touch", refuse)
    assert f"Cannot write to {run}" in failure(capsys, "test")


def test_of_an_older_run_the_best_checkpoint_is_not_taken() -> None:
    for i, name in enumerate(("version_0/checkpoints/best", "version_1/checkpoints/last")):
        path = Path("lightning_logs/r", f"{name}.ckpt")
        path.parent.mkdir(parents=True)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data", "")
        os.utime(path, (i, i))
    with pytest.raises(UserError, match=r"r.version_1, has no best checkpoint: give --ckpt_path last"):
        find_checkpoint("best", Path())
    assert find_checkpoint("last", Path()) == path


def test_of_several_best_checkpoints_the_best_is_taken() -> None:
    folder = Path("lightning_logs/r/version_0/checkpoints")
    folder.mkdir(parents=True)
    for i, accuracy in enumerate(("0.9150", "0.9200", "0.9130")):
        path = folder / f"best-epoch=00{i}-val_accuracy={accuracy}.ckpt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data", "")
        os.utime(path, (i, i))
    assert "0.9200" in find_checkpoint("best", Path()).name
    # What is monitored may be something else.
    states = {"BestCheckpoint{'monitor': 'val/loss'}": {"best_model_path": f"elsewhere/{path.name}"}, "EMA": {}}
    torch.save({"callbacks": states, "global_step": 8}, folder / "last.ckpt")
    assert find_checkpoint("best", Path()) == path
    # A run that went on from an earlier one has fewer steps than the branch that it gave up.
    given_up = folder / "best-epoch=009-val_accuracy=0.9999.ckpt"
    starts = [{"started": "2026-01-01T00:00:00+00:00"}, {"started": "2026-01-02T00:00:00+00:00"}]
    of_given_up = {"BestCheckpoint": {"best_model_path": str(given_up)}}
    torch.save({"callbacks": of_given_up, "global_step": 99, "provenance": starts[:1]}, given_up)
    torch.save({"callbacks": states, "global_step": 8, "provenance": starts}, folder / "last.ckpt")
    assert find_checkpoint("best", Path()) == path
    given_up.unlink()
    # The last one does not know of what was saved behind it.
    better = folder / "best-epoch=003-val_accuracy=0.9110.ckpt"
    states["BestCheckpoint{'monitor': 'val/loss'}"] = {"best_model_path": str(better)}
    torch.save({"callbacks": states, "global_step": 9, "provenance": starts}, better)
    os.utime(better, (0, 0))
    assert find_checkpoint("best", Path()) == better
    better.unlink()
    (folder / "last.ckpt").write_bytes(b"cut short")
    assert "0.9200" in find_checkpoint("best", Path()).name


class Interrupt(Callback):
    """Ctrl-C in the middle of an epoch."""

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        if trainer.global_step == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("executor", ["device", "workers"])
def test_an_interrupted_run_goes_on_in_the_middle_of_the_epoch(
    executor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(*args: str) -> dict[str, torch.Tensor]:
        augmented = "--data.transforms=[{class_path: Affine, init_args: {rotate: [-20, 20]}}]"
        run = fit(augmented, f"--data.executor={executor}", "--trainer.limit_train_batches=4", *args)
        state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        return dict(state)

    whole = weights()
    shutil.rmtree("lightning_logs")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with pytest.raises(SystemExit):
        weights("--trainer.callbacks+=test_cli.Interrupt")
    resumed = weights("--ckpt_path=last")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_away_from_its_run_tells_its_settings(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit("--trainer.max_epochs=1")
    moved = tmp_path_factory.mktemp("elsewhere") / "model.ckpt"
    shutil.copy(run / "checkpoints" / "last.ckpt", moved)
    shutil.rmtree("lightning_logs")
    capsys.readouterr()
    main(["summary", f"--ckpt_path={moved}", "--format=json"])
    # A program may read it.
    assert json.loads(capsys.readouterr().out)["totals"]["trainable_parameters"] == 77850
    main(["test", f"--ckpt_path={moved}"])
    assert "test/accuracy_flip" in capsys.readouterr().out


def test_a_file_of_weights_alone_is_no_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.zeros(3)}, "weights.ckpt")
    assert "is no checkpoint of a run" in failure(capsys, "test", "--config", "tiny.yaml", "--ckpt_path=weights.ckpt")


def test_a_run_is_repeated_from_its_own_config() -> None:
    first = fit("--seed_everything=7")
    main(["fit", "--config", str(first / "config.yaml")])
    weights = [
        torch.load(f"lightning_logs/tiny/version_{i}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for i in (0, 1)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(("given", "steps"), [("1", 1), ("2", 2), ("1.0", 10), ("0.5", 5)])
def test_a_number_of_batches_is_no_share_of_them(given: str, steps: int) -> None:
    # 160 images are left to train on.
    few = ["--trainer.max_epochs=1", "--trainer.limit_val_batches=0", "--data.val_size=1278"]
    run = fit(*few, f"--trainer.limit_train_batches={given}")
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == steps


def test_the_end_is_told_of_where_epochs_come_before_steps(capsys: pytest.CaptureFixture[str]) -> None:
    fit("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.max_steps=2")
    assert "The run ends behind epoch" not in capsys.readouterr().out
    fit("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.max_steps=1000")
    words = "The run ends behind epoch 1, which is step 2, and not behind step 1,000: --trainer.max_epochs=-1"
    assert words in capsys.readouterr().out


def test_a_run_that_kept_its_worst_can_be_looked_at_and_goes_on_with_the_best(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = fit("--checkpoint.monitor=val/loss")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["checkpoint"]["mode"] is None
    config["checkpoint"]["mode"] = "max"  # as it was before modes went by names
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    main(["test"])
    main(["summary", "--ckpt_path=best"])
    words = failure(capsys, "fit", f"--config={run / 'config.yaml'}")
    assert "checkpoint.mode is max, and val/loss is best at its min: give min, or no mode." in words


def test_an_evaluation_stands_at_the_step_of_its_checkpoint() -> None:
    run = fit("--trainer.limit_val_batches=1", "--confusion.every_n_epochs=2")
    before = EventAccumulator(str(run / "val")).Reload().Scalars("loss")
    main(["validate", "--ckpt_path=last"])
    main(["test", "--ckpt_path=last"])
    # The last training step of two epochs of three is 5.
    assert [event.step for event in before] == [2, 5]
    again = EventAccumulator(str(run / "val")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in again] == [(e.step, e.value) for e in (*before, before[-1])]
    assert [event.step for event in EventAccumulator(str(run / "test")).Reload().Scalars("loss")] == [5]
    images = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    assert {event.step for event in images.Images("test/confusion")} == {5}
    assert {event.step for event in images.Images("val/confusion")} == {5}


def write_images(side: int) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog", "eel"):
            folder = Path("images", split, name)
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (side, side), (i * 9, 50, 90)).save(folder / f"{i}.png")


def test_test_images_are_normalised_as_the_network_learnt_whatever_lies_beside_them() -> None:
    write_images(32)
    run = fit("--data=ImageFolderDataModule", "--data.root=images", "--data.val_size=3")
    found = []
    for red in (200, 0):
        for command in ("predict", "explain"):
            main([command])
        tables = [(run / name).read_text() for name in ("predictions.csv", "explain/predictions.csv")]
        found.append((*tables, json.loads((run / "explain" / "metrics.json").read_text())["loss"]))
        for path in Path("images", "train").rglob("*.png"):
            Image.new("RGB", (32, 32), (red, 200, 200)).save(path)
    assert found[0] == found[1]
    Path("images", "test", "eel").rename(Path("images", "test", "fly"))
    Path("images", "train", "eel").rename(Path("images", "train", "fly"))
    with pytest.raises(SystemExit, match=r"other classes than those of the data \(eel where they have fly\)"):
        main(["test"])


def test_a_summary_and_ones_own_pictures_need_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    write_images(16)
    fit("--data=ImageFolderDataModule", "--data.root=images", "--data.val_size=3", "--data.image_size=16")
    Path("images").rename("own")
    capsys.readouterr()
    main(["summary"])
    assert "3×16×16" in capsys.readouterr().out
    assert "no folder" in failure(capsys, "summary", "--data.root=gone")
    main(["summary", "--data.image_size=32", "--data.root=own"])
    assert "3×32×32" in capsys.readouterr().out
    main(["predict", "--images=own", "--overlays=true", "--method=HiResCAM"])
    (table,) = Path().rglob("predictions.csv")
    assert table.read_text().startswith("file,predicted,probability,second,third,p_cat,p_dog,p_eel\n")
    assert len(table.read_text().splitlines()) == 25
    # Where predictions of test images would go nobody may be allowed to write.
    checkpoint = next(Path("lightning_logs").rglob("last.ckpt"))
    main(["predict", "--images=own", f"--ckpt_path={checkpoint}", "--trainer.default_root_dir=unused"])
    assert not Path("unused").exists()


def test_ones_own_pictures_are_of_the_size_of_ones_own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(16)
    Path("small.py").write_text(
        "from cifar_lit.data import ImageFolderDataModule\n"
        "class Small(ImageFolderDataModule):\n"
        "    def __init__(self, root: str = 'images', **kwargs):\n"
        "        super().__init__(root, image_size=16, **kwargs)\n"
    )
    monkeypatch.syspath_prepend(".")
    sizes = set()

    def noted(path: Path, size: int, formats: Any) -> Any:
        sizes.add(size)
        return decode(path, size)

    monkeypatch.setattr("cifar_lit.trainer.decode", noted)
    fit("--data=small.Small", "--data.val_size=3")
    main(["predict", "--images=images"])
    assert sizes == {16}
    sizes.clear()
    fit("--data=ImageFolderDataModule", "--data.root=images", "--data.val_size=3")
    # Unless another one is asked for.
    main(["predict", "--images=images", "--data.image_size=24"])
    assert sizes == {24}


def test_without_a_logger_no_run_writes_over_another_ones_last_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config", "tiny.yaml", "--trainer.logger=false"]
    main(["fit", *options])
    last = Path("checkpoints/last.ckpt")
    before = last.read_bytes()
    assert "last.ckpt is another run's and would be written over: go on" in failure(capsys, "fit", *options)
    assert last.read_bytes() == before
    main(["fit", *options, "--trainer.fast_dev_run=1"])
    main(["fit", *options, f"--ckpt_path={last}", "--trainer.max_epochs=3"])
    assert torch.load(last, weights_only=True)["epoch"] == 2
    # Another one's to go on from is no reason.
    other = shutil.copy(last, "other.ckpt")
    assert "would be written over" in failure(capsys, "fit", *options, f"--ckpt_path={other}", "--trainer.max_epochs=4")


def test_a_trainer_may_fit_again(tmp_path: Path) -> None:
    callbacks: list[Callback] = [LastCheckpoint(), LastCheckpoint(60)]
    settings: dict[str, Any] = {
        "max_epochs": 1,
        "limit_train_batches": 1,
        "limit_val_batches": 0,
        "enable_progress_bar": False,
    }
    trainer = Trainer(default_root_dir=tmp_path, logger=False, accelerator="cpu", callbacks=callbacks, **settings)
    model, data = ResNetV1(depth=8), DigitsDataModule(batch_size=8)
    trainer.fit(model, data)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, data)
    assert trainer.global_step == 2
    # Here, as with strategies that shard the network, the checkpoint is opened behind the callbacks' beginning.
    again = Trainer(
        default_root_dir=tmp_path, logger=False, accelerator="cpu", callbacks=[LastCheckpoint()], **settings
    )
    again.strategy.__class__ = type("Late", (type(again.strategy),), {"restore_checkpoint_after_setup": True})
    again.fit_loop.max_epochs = 3
    again.fit(ResNetV1(depth=8), data, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert again.global_step == 3


def test_ones_own_model_and_data_by_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text(
        "import torch, pytorch_lightning as pl\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "class Data(pl.LightningDataModule):\n"
        "    def train_dataloader(self):\n"
        "        return DataLoader(TensorDataset(torch.randn(8, 3, 8, 8), torch.arange(8) % 2), batch_size=4)\n"
        "    val_dataloader = train_dataloader\n"
        "class Model(pl.LightningModule):\n"
        "    def __init__(self, width: int = 3):\n"
        "        super().__init__()\n"
        "        self.net = torch.nn.Linear(192, width)\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        return torch.nn.functional.cross_entropy(self.net(batch[0].flatten(1)), batch[1])\n"
        "    def validation_step(self, batch, batch_idx):\n"
        "        self.log('val_loss', self.training_step(batch, batch_idx))\n"
        "    def configure_optimizers(self):\n"
        "        return torch.optim.SGD(self.parameters(), lr=0.1)\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    common = ["fit", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    # Metrics of other names than ours are no obstacle.
    with pytest.warns(UserWarning, match="logs no 'val/accuracy'.*val_loss"):
        main([*common, "--model=mine.Model", "--model.width=5", "--data=mine.Data"])
    assert Path("lightning_logs/Model/version_0/checkpoints/last.ckpt").is_file()
    main([*common, "--model=ResNetV1", "--model.depth=8", "--data=mine.Data"])
    main([*common, "--model=mine.Model", "--data=DigitsDataModule", "--trainer.limit_train_batches=0"])


def test_a_network_of_other_classes_than_the_datas_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("fixed.py").write_text(
        "import torch\n"
        "from cifar_lit.classifier import Classifier\n"
        "class Fixed(Classifier):\n"
        "    def __init__(self, outputs: int = 10):\n"
        "        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, outputs))\n"
        "        super().__init__(net=net, num_classes=outputs)\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    write_images(32)
    common = ["--trainer.accelerator=cpu", "--data=ImageFolderDataModule", "--data.root=images", "--data.val_size=3"]
    said = failure(capsys, "fit", "--model=fixed.Fixed", "--model.outputs=2", *common)
    assert "Fixed has num_classes 2, and ImageFolderDataModule has 3: let its __init__ take num_classes" in said
    # More can be learnt, and have no names.
    main(["fit", "--model=fixed.Fixed", *common, "--trainer.max_epochs=1"])
    assert "10, and ImageFolderDataModule has 3: it trains, but `predict` and" in capsys.readouterr().out
    main(["test"])
    for command in ("predict", "explain", "export --format=torch"):
        assert "num_classes 10, and ImageFolderDataModule has 3: let its" in failure(capsys, *command.split())
    assert not [*Path("lightning_logs").rglob("model.*")]
    said = failure(capsys, "predict", "--images=images/test")
    assert "Fixed tells 10 classes apart, and its data had 3: there are no names for all." in said
    assert not [*Path("lightning_logs").rglob("pictures/*.*")]


def test_runs_that_begin_at_once_have_a_folder_each(tmp_path: Path) -> None:
    (tmp_path / "lightning_logs" / "tiny" / "version_3").mkdir(parents=True)
    with ThreadPoolExecutor(8) as pool:
        loggers = [logger_of(None, tmp_path, "tiny", evaluates=False) for _ in range(8)]
        folders = [Path(folder) for folder in pool.map(lambda logger: logger.log_dir, loggers)]
    assert sorted(int(folder.name[8:]) for folder in folders) == [*range(4, 12)]
    assert all(folder.is_dir() for folder in folders)


def test_a_run_that_failed_before_it_began_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: DigitsDataModule) -> None:
        raise UserError("The archive is not to be had.")

    with monkeypatch.context() as patch:
        patch.setattr(DigitsDataModule, "prepare_data", fail)
        assert "not to be had" in failure(capsys, "fit", "--config", "tiny.yaml")
        assert not Path("lightning_logs").exists()
        failure(capsys, "fit", "--config", "tiny.yaml", "--trainer.default_root_dir=new/folder")
        assert not Path("new").exists()
        # What was there before stays, empty as it is.
        Path("lightning_logs/tiny").mkdir(parents=True)
        failure(capsys, "fit", "--config", "tiny.yaml")
        assert Path("lightning_logs/tiny").is_dir()
        Path("lightning_logs/tiny/version_4").mkdir()
        failure(capsys, "fit", "--config", "tiny.yaml")
        assert [run.name for run in Path("lightning_logs/tiny").iterdir()] == ["version_4"]
    # What fails later has something to tell.
    failure(capsys, "fit", "--config", "tiny.yaml", "--model.optimizer.lr=1e30", "--trainer.precision=32-true")
    assert Path("lightning_logs/tiny/version_5/config.yaml").is_file()


def test_a_run_that_only_tries_leaves_no_folder() -> None:
    main(["fit", "--config", "tiny.yaml", "--trainer.fast_dev_run=true"])
    assert not Path("lightning_logs").exists()


def test_a_home_in_a_path_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    main(["fit", "--config", "tiny.yaml", "--trainer.default_root_dir=~/runs"])
    run = tmp_path / "home" / "runs" / "lightning_logs" / "tiny" / "version_0"
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert (run / "config.yaml").is_file()
    assert not Path("~").exists()
    main(["test", "--trainer.default_root_dir=~/runs"])


def test_runs_behind_a_link_are_found_and_broken_links_are_not(tmp_path: Path) -> None:
    Path("elsewhere").mkdir()
    Path("lightning_logs/older/version_0/checkpoints").mkdir(parents=True)
    Path("lightning_logs/older/version_0/checkpoints/best-gone.ckpt").symlink_to("nowhere.ckpt")
    Path("lightning_logs/tiny").symlink_to(tmp_path / "elsewhere")
    Path("elsewhere/round").symlink_to(tmp_path / "lightning_logs")
    main(["fit", "--config", "tiny.yaml"])
    Path("elsewhere/version_0/a_link").symlink_to(tmp_path / "elsewhere" / "version_0" / "checkpoints")
    Path("lightning_logs/latest").symlink_to(tmp_path / "lightning_logs" / "older")
    assert "lightning_logs/tiny/version_0" in str(find_checkpoint("best", Path()))
    # Where there is a path without links it is that one.
    whole = Path("lightning_logs/older/version_0/checkpoints/last.ckpt")
    whole.touch()
    Path("lightning_logs/older/version_0/a_link").symlink_to(whole.parent.absolute())
    assert checkpoints("last", Path(), "older") == [whole]
    assert whole in checkpoints("last", Path())


def test_a_run_goes_on_in_its_folder_from_inside_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run = fit().absolute()
    monkeypatch.chdir(run / "checkpoints")
    main(["fit", "--config=../config.yaml", "--ckpt_path=last.ckpt", "--trainer.max_epochs=3"])
    assert not Path("lightning_logs").exists()
    assert torch.load("last.ckpt", weights_only=True)["epoch"] == 2


def test_a_callback_whose_default_is_an_enumeration_can_be_given() -> None:
    run = fit("--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:00:10:00")
    config = run / "config.yaml"
    timer = next(c for c in yaml.safe_load(config.read_text())["trainer"]["callbacks"] if "Timer" in c["class_path"])
    assert timer["init_args"]["interval"] == "step"
    main(["fit", f"--config={config}"])


def test_why_a_run_ended_early_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    capsys.readouterr()
    fit("--ckpt_path=last")
    assert "Nothing was left to do: the run had ended after epoch 2. A larger --trainer" in capsys.readouterr().out
    stopping = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    fit("--trainer.max_epochs=9", *stopping, "--trainer.callbacks.patience=1", "--trainer.callbacks.min_delta=99")
    said = capsys.readouterr().out
    assert re.search(r"EarlyStopping ended the run after step 6 \(of 9 epochs\): .*val/loss", said)
    timed = ["--trainer.max_epochs=999", "--trainer.max_time=00:00:00:01"]
    fit(*timed)
    over = r"time, --trainer.max_time, was over after step [\d,]+ \(of 999 epochs\)\."
    assert re.search(over, capsys.readouterr().out)
    fit(*timed, "--ckpt_path=last")
    assert re.search(over, capsys.readouterr().out)


def test_a_run_that_ends_before_it_is_validated_is_not_said_to_log_too_little(recwarn: pytest.WarningsRecorder) -> None:
    run = fit("--trainer.max_steps=2")
    assert not [warned for warned in recwarn if "logs no" in str(warned.message)]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_profile_that_is_asked_for_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    fit("--trainer.profiler=simple")
    assert "run_training_epoch" in caplog.text


def test_explain_with_a_config_takes_that_recipes_best_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit()
    main(["explain", "--config", "tiny.yaml", "--limit=3"])
    assert (run / "explain" / "report.html").is_file()


def test_explain_looks_at_the_whole_test_split(capsys: pytest.CaptureFixture[str]) -> None:
    # Also where its run was only tried out.
    run = fit("--trainer.limit_test_batches=1", "--trainer.limit_predict_batches=1")
    main(["explain", "--limit=3"])
    assert "of 359 images" in capsys.readouterr().out
    report = (run / "explain" / "report.html").read_bytes()
    for option in ("limit_predict_batches=0", "limit_predict_batches=1", "limit_test_batches=0.5", "fast_dev_run=true"):
        said = failure(capsys, "explain", f"--trainer.{option}")
        assert "about the whole test split: leave limit_test_batches and limit_predict_batches out" in said
    assert (run / "explain" / "report.html").read_bytes() == report


def test_options_of_pictures_are_refused_without_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    for option in ("--overlays", "--output_dir=out", "--method=HiResCAM"):
        assert "are for one's own pictures: give --images" in failure(capsys, "predict", option)
    said = failure(capsys, "predict", "--images=.", "--method=HiResCAM")
    assert "HiResCAM is drawn on overlays: give --overlays, or leave --method out" in said


def test_a_run_that_stopped_by_the_wrong_mode_can_be_tested() -> None:
    run = fit()
    config = yaml.safe_load((run / "config.yaml").read_text())
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/accuracy"}}
    config["trainer"]["callbacks"] = [stopping]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    main(["test"])


def test_a_summary_is_of_images_of_the_runs_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("wide.py").write_text(
        "import numpy as np\n"
        "from cifar_lit.data import ImageDataModule\n"
        "from cifar_lit.data.images import Images\n"
        "class Wide(ImageDataModule):\n"
        "    class_names = ('a', 'b')\n"
        "    def load(self, split):\n"
        "        pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 24, 3), dtype=np.uint8)\n"
        "        return Images(pixels, np.arange(40) % 2)\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    fit("--data=wide.Wide", "--data.val_size=4")
    capsys.readouterr()
    main(["summary"])
    assert "3×16×24" in capsys.readouterr().out
    Path("pictures").mkdir()
    Image.new("RGB", (30, 30)).save("pictures/a.png")
    main(["predict", "--images=pictures", "--overlays"])
    with Image.open(next(Path().rglob("a.png.png"))) as overlay:
        assert overlay.width == 2 * overlay.height * 24 / 16


def test_pictures_from_python_are_as_large_as_those_that_were_learnt() -> None:
    run = fit("--data.val_size=4", "--data=DigitsDataModule")
    Path("pictures").mkdir()
    Image.new("RGB", (30, 30)).save("pictures/a.png")
    trainer = CifarTrainer(logger=False)
    seen: list[tuple[int, ...]] = []
    content = load_checkpoint(run / "checkpoints" / "last.ckpt")
    data_in(content)["image_size"] = 16  # type: ignore[index]
    torch.save(content, "of16.ckpt")
    model = ResNetV1(depth=8)
    model.net.register_forward_pre_hook(lambda net, images: seen.append((*images[0].shape[2:],)))
    trainer.predict(model, images=Path("pictures"), ckpt_path="of16.ckpt", output_dir=Path("out"))
    assert seen == [(16, 16)]


OWN = """
import torch, pytorch_lightning as pl
class Net(pl.LightningModule):
    def __init__(self, kind: str = "logits"):
        super().__init__()
        self.kind = kind
        self.net, self.unused = torch.nn.Conv2d(3, 10, 3, stride=4), torch.nn.Conv2d(3, 3, 3)
    @property
    def cam_layer(self):
        if self.kind == "fails":
            return self.nett
        return self.unused if self.kind == "unused" else self.net
    def forward(self, images):
        logits = 1000 * self.net(images).mean((2, 3))
        if self.kind == "softmax":
            return logits.softmax(1)
        return (logits,) if self.kind == "tuple" else logits
    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch[0]).mean((2, 3)), batch[1])
    def configure_optimizers(self):
        return None if self.kind == "no optimizer" else torch.optim.SGD(self.parameters(), lr=0.1)
"""


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A run of a plain LightningModule of some kind."""
    Path("own.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(Path.cwd()))

    def trained(kind: str) -> Path:
        common = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"]
        off = [f"--{panel}.every_n_epochs=0" for panel in ("gradcam", "misclassified", "confusion")]
        with warnings.catch_warnings():
            # It validates nothing.
            warnings.simplefilter("ignore")
            main(["fit", "--model=own.Net", f"--model.kind={kind}", "--data=DigitsDataModule", *common, *off])
        return Path("lightning_logs/Net/version_0")

    return trained


@pytest.mark.parametrize("kind", ["logits", "softmax"])
def test_a_module_without_a_predict_step_has_a_table_of_probabilities(
    own: Callable[[str], Path], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = own(kind)
    main(["predict", "--ckpt_path=last"])
    with (run / "predictions.csv").open(newline="") as file:
        rows = [[float(share) for share in row[3:]] for row in csv.reader(file) if row[0] != "index"]
    assert len(rows) == 359
    assert all(sum(row) == pytest.approx(1, abs=0.02) for row in rows)
    # Not softened once more.
    main(["explain", "--ckpt_path=last"])
    capsys.readouterr()
    with (run / "explain" / "predictions.csv").open(newline="") as file:
        explained = [[float(share) for share in row[4:]] for row in csv.reader(file) if row[0] != "index"]
    for row, other in zip(rows, explained, strict=True):
        assert row == pytest.approx(other, abs=0.02)
    # Softened once more none would be above 0.24.
    assert max(map(max, rows)) > 0.5


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            "unused",
            "No Grad-CAM: The logits do not depend on cam_layer, of type Conv2d: name a layer that forward runs",
        ),
        ("fails", "No Grad-CAM: cam_layer of Net fails (AttributeError: 'Net' object has no attribute 'nett'): mend"),
    ],
)
def test_a_report_does_without_maps_where_there_can_be_none(
    own: Callable[[str], Path], kind: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = own(kind)
    main(["explain", "--ckpt_path=last"])
    assert said in capsys.readouterr().out
    assert (run / "explain" / "report.html").is_file()


def test_commands_say_what_a_forward_has_to_give(
    own: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    own("tuple")
    for command in ("explain", "export"):
        said = failure(capsys, command, "--ckpt_path=last", *(["--format=torch"] if command == "export" else []))
        assert "The forward of Net gives a tuple for " in said
        assert "this command needs logits, a tensor (n, classes)." in said


def test_a_module_without_an_optimizer_runs(own: Callable[[str], Path]) -> None:
    run = own("no optimizer")
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert "run/learning_rate" not in scalars(run)


def test_number_of_classes_flows_from_the_data() -> None:
    write_images(32)
    run = fit("--data=ImageFolderDataModule", "--data.root=images", "--data.val_size=3")
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["state_dict"]["net.fc.weight"].shape == (3, 64)
    assert state["ImageFolderDataModule"]["class_names"] == ["cat", "dog", "eel"]
    assert ResNetV1.load_from_checkpoint(run / "checkpoints" / "last.ckpt").num_classes == 3


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            "--trainer.callbacks+=MisclassifiedPanel",
            "Every run has MisclassifiedPanel: give its settings as --misclass",
        ),
        (
            "--trainer.callbacks+=cifar_lit.callbacks.curves.Curves",
            "Every run has Curves: give its settings as --curves.",
        ),
        (
            "--trainer.callbacks+=LastCheckpoint",
            "LastCheckpoint: give its settings as --checkpoint.every_n_minutes, and",
        ),
        ("--trainer.accumulate_grad_batches=0", "--trainer.accumulate_grad_batches is 0: give a number of at least 1."),
        (
            "--trainer.check_val_every_n_epoch=-2",
            "--trainer.check_val_every_n_epoch is -2: give a number of at least 1.",
        ),
        ("--trainer.gradient_clip_val=-0.5", "--trainer.gradient_clip_val is -0.5: give a number of at least 0."),
        ("--trainer.val_check_interval=0", "--trainer.val_check_interval is 0: give a share of an epoch, or a number"),
        (
            "--checkpoint.filename=last-{epoch}",
            "checkpoint.filename is of the best one, and last of the other: begin",
        ),
        ("--model.optimizer=LBFGS", "The optimizer cannot be made (LBFGS doesn't support per-parameter options"),
        ("--model.optimizer.lr=-1", "The optimizer cannot be made (Invalid learning rate: -1"),
    ],
)
def test_what_does_not_go_with_a_run_is_told_of(args: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in failure(capsys, "fit", "--config", "tiny.yaml", args)


def test_a_run_that_had_what_is_refused_now_can_be_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--trainer.max_epochs=1")
    text = (run / "config.yaml").read_text()
    assert "gradient_clip_val: null" in text
    (run / "config.yaml").write_text(text.replace("gradient_clip_val: null", "gradient_clip_val: -1.0"))
    main(["test"])
    assert "test/accuracy" in capsys.readouterr().out
    said = failure(capsys, "fit", f"--ckpt_path={run}", "--trainer.max_epochs=2")
    assert "--trainer.gradient_clip_val is -1.0: give a number of at least 0." in said


def test_a_run_without_time_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    fit("--trainer.max_time=00:00:00:00")
    said = capsys.readouterr().out
    assert "--trainer.max_time, was over" in said
    assert "Nothing was learnt" not in said


@pytest.mark.parametrize("schedule", ["Triangular", "OneCycle"])
@pytest.mark.parametrize("none", ["--trainer.max_steps=0", "--trainer.limit_train_batches=0"])
def test_a_run_of_no_steps_ends_well(schedule: str, none: str, capsys: pytest.CaptureFixture[str]) -> None:
    fit(f"--model.schedule={schedule}", none)
    assert "Nothing was learnt: --trainer.max_epochs, max_steps or limit_train_batches left" in capsys.readouterr().out


def test_another_progress_bar_takes_the_place_of_ours() -> None:
    cli = CifarCLI(["fit", "--config=tiny.yaml", "--trainer.max_epochs=0", "--trainer.callbacks+=TQDMProgressBar"])
    assert type(cli.trainer.progress_bar_callback).__name__ == "TQDMProgressBar"


def test_a_run_with_averaged_weights_of_lightnings_repeats_by_its_settings() -> None:
    run = fit("--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01")
    settings = (run / "config.yaml").read_text()
    assert "Unable to serialize" not in settings
    main(["fit", f"--config={run / 'config.yaml'}"])


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("--model=own.Plain", "--model wants a class derived from LightningModule, and own.Plain is none."),
        ("--model=own.Nett", "--model is own.Nett, and there is no 'Nett' in own: "),
        ("--model=owm.Net", "--model is owm.Net, and there is no module 'owm': start where its file is"),
        ("--model=own.py", "--model wants a class by its import path, such as my_package.MyClass, not 'own.py'."),
        ("--model=needy.Net", "--model is needy.Net, which cannot be imported: No module named 'absent' (CIFAR_LIT_"),
        ("--model=slip.Net", "--model is slip.Net, which cannot be imported: name 'torhc' is not defined (CIFAR_LIT_"),
        ("--model=typo.Net", "--model is typo.Net, which cannot be imported: module 'torch' has no attribute 'nnn' ("),
        ("--model=rude.Net", "--model is rude.Net, which cannot be imported (CIFAR_LIT_TRACEBACK=1 shows where)."),
        ("--model=open.Net", "--model is open.Net, which is abstract: define what it leaves open, or "),
        ("--model=torch.nn.Nope.Net", "--model is torch.nn.Nope.Net, and there is no 'Nope' in torch.nn: "),
        ("--model=cut.yaml", "--model is the file cut.yaml, which is no valid YAML: mend it, or give a class by its"),
        ("--model.schedule=slip.Net", "--model.schedule is slip.Net, which cannot be imported: name 'torhc' is not "),
        ("--model.optimizer=slip.Net", " is slip.Net, which cannot be imported: name 'torhc' is not defined "),
        ("--data.transforms+=slip.Net", "--data.transforms is slip.Net, which cannot be imported: name 'torhc' is "),
        ("--config=list.yaml", "--trainer.callbacks is slip.Net, which cannot be imported: name 'torhc' is not "),
        ("--config=flips.yaml", "--data.transforms wants a class derived from BasicTransform, and own.Plain is none."),
        ("--checkpoint.train_time_interval=one.hour", 'train_time_interval wants a string with form "h:m:s" or "d '),
        ("--config=slip.yaml", "--model is slip.Net, which cannot be imported: name 'torhc' is not defined (CIFAR_"),
        ("--config=plain.yaml", "--model wants a class derived from LightningModule, and own.Plain is none."),
        ("--model.optimizer=own.Plain", "--model.optimizer wants a class derived from Optimizer, and own.Plain is"),
        ("--model.schedule=owm.Slope", "--model.schedule is owm.Slope, and there is no module 'owm': "),
        ("--trainer.callbacks+=owm.Tea", "--trainer.callbacks is owm.Tea, and there is no module 'owm': "),
        ("--trainer.logger=owm.Log", "--trainer.logger is owm.Log, and there is no module 'owm': "),
        ("--data.transforms+=own.Plain", "--data.transforms wants a class derived from BasicTransform, and own.Plain"),
        ("--trainer.callbacks+=own.Plain", "--trainer.callbacks wants a class derived from Callback, and own.Plain"),
    ],
)
def test_a_class_of_ones_own_that_cannot_be_had_is_told_of(
    args: str, expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("own.py").write_text("import torch\nclass Plain:\n    width: int = 3\n")
    Path("needy.py").write_text("import absent\n")
    Path("slip.py").write_text("import torch\nNet = torhc.nn.Module\n")
    Path("typo.py").write_text("import torch\nNet = torch.nnn.Module\n")
    Path("rude.py").write_text("raise ValueError('Expected a better machine')\n")
    Path("open.py").write_text(
        "import abc\nfrom pytorch_lightning import LightningModule\n"
        "class Net(LightningModule, abc.ABC):\n    @abc.abstractmethod\n    def missing(self): ...\n"
    )
    Path("cut.yaml").write_text("a: [1\n")
    Path("list.yaml").write_text("trainer: {callbacks: [{class_path: EMA}, {class_path: slip.Net}]}\n")
    Path("flips.yaml").write_text(
        "data: {class_path: DigitsDataModule, init_args: {transforms: [VerticalFlip, own.Plain]}}\n"
    )
    Path("slip.yaml").write_text("model: {class_path: slip.Net}\n")
    Path("plain.yaml").write_text("model: {class_path: own.Plain}\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    assert expected in failure(capsys, "fit", "--config", "tiny.yaml", args)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--model.depth=21"], r"depth 21 is not 6n\+2. The nearest depths are 20 and 26"),
        (["--data.batch_size=0"], "batch_size is 0: give a whole number of at least 1"),
        (["--data.batch_size=many"], "--data.batch_size wants an int, not 'many'"),
        (["--data.val_size=5000"], "val_size 5000 does not fit 1438 training images"),
        (
            ["--model=ResNetV9"],
            "--model knows no class 'ResNetV9': give ResNetV2, ResNetV1 or ResNet18, or module.Class",
        ),
        (["--data=cifar10"], "knows no class 'cifar10': give CIFAR10DataModule or CIFAR100DataModule, or module.Class"),
        (
            ["--model=Perceiver"],
            "'Perceiver': give DepthwiseNet, DilatedSeparableNet, PlainCNN, .* or SpeedNet, or mod",
        ),
        (
            ["--trainer.callbacks+=Xyzzy"],
            "'Xyzzy': give a class of cifar_lit.callbacks or pytorch_lightning.callbacks,",
        ),
        (["--model.depht=20"], "ResNetV1 has no option 'depht': did you mean depth. Or see --model.help ResNetV1"),
        (["--model.label_smothing=0.1"], "did you mean label_smoothing"),
        (["--model.nets=x"], "ResNetV1 has no option 'nets': see --model.help"),
        (["--model.qqqq=20"], "ResNetV1 has no option 'qqqq': see --model.help ResNetV1"),
        (["--trainer.max_epoch=3"], "there is no option --trainer.max_epoch=3: did you mean --trainer.max_epochs. Or"),
        (["--trainer.qqqq=3"], "there is no option --trainer.qqqq=3: see --help"),
        (["--model.schedule=Cosin"], "'Cosin': give CosineAnnealingLR or CosineAnnealingWarmRestarts, or module.Class"),
        (["--modle.optimizer.help=SGD"], "there is no option --modle.optimizer.help=SGD: name before it whose help it"),
        (["--model.optimizer.lr=fast"], "--model.optimizer.lr wants a float, not 'fast'"),
        (["--model.schedule=ExponentialLR"], "ExponentialLR does not take the run's number of steps: give OneCycle"),
        (["--data.val_size=some"], "--data.val_size wants an int or float, not 'some'"),
        (["--model.optimizer=SGDD"], "--model.optimizer knows no class 'SGDD': give SGD or ASGD, or module.Class"),
        (["--data.transforms=[RandomResizedCrop]"], "--data.transforms: RandomResizedCrop lacks size: give it"),
        (["--trainer.logger=CSVLogger"], "--trainer.logger: CSVLogger lacks save_dir: give it"),
        (["--trainer.callbacks=EarlyStopping"], "--trainer.callbacks: EarlyStopping lacks monitor: give it"),
        (["--trainer.logger=WandbLogger"], "WandbLogger: Requirement 'wandb.*' not met"),
        (
            ["--data.transforms=[{class_path: RandomResizedCrop, init_args: {size: [32,32], scale: [0.9,1.1]}}]"],
            r"RandomResizedCrop: scale: All values in \(0.9, 1.1\) must be >= 0 and <= 1$",
        ),
        (
            ["--data.transforms=[{class_path: HorizontalFlip, p: 0.5}]"],
            "as {class_path: NAME, init_args: {SETTING: VAL",
        ),
        (["--data.transforms=[{HorizontalFlip: {p: 0.5}}]"], "as {class_path: NAME, init_args: {SETTING: VALUE}}"),
        (["--model.optimizer={SGD: {lr: 0.5}}"], "--model.optimizer wants a class and its settings as {class_path: NA"),
        (["--data.transforms=[{class_path: HorizontalFlip, init_args: {P: 0.5}}]"], "HorizontalFlip has no option 'P'"),
        (["--data.transforms={class_path: HorizontalFlip}"], "--data.transforms wants a list, not "),
        (["--model.schedule=ReduceLROnPlateau"], "--model.schedule: give Plateau, which is ReduceLROnPlateau with"),
        (
            ["--model.schedule=MultiStepLR"],
            r"torch's schedule cannot be made \('int' object.*\): give OneCycle, ",
        ),
        (
            ["--model.schedule=StepLR", "--model.schedule.step_size=3"],
            "StepLR wants step_size where a run tells its nu",
        ),
        (
            ["--model.schedule=CosineAnnealingLR", "--model.schedule.T_max=3"],
            "T_max of .* is the run's number of steps",
        ),
        (["--data.val_size=1.5"], "val_size 1.5 does not fit"),
        (
            ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/accuracy"],
            "would end a run whose val/accuracy improves: give --trainer.callbacks.mode=max",
        ),
        (["--trainer.callbacks+=BatchSizeFinder"], "changes the steps of a run .*: give --data.batch_size in"),
        (["--trainer.precision=12"], "--trainer.precision wants one of .*bf16-mixed.*, not '12'"),
        (["--data.transforms=[{class_path: HorizontalFlip, init_args: {pp: 1}}]"], "HorizontalFlip has no option 'pp'"),
        (["--data=ImageFolderDataModule", "--data.root=nowhere"], "There is no folder /.*/nowhere: name"),
        (["--data=CIFAR10DataModule", "--data.root=empty"], "empty holds neither .*quickstart.yaml"),
        (["--ckpt_path=nothing.ckpt"], "There is no checkpoint nothing.ckpt: give"),
        (["--ckpt_path=last"], "holds no run with a last checkpoint"),
        (["--config=absent.yaml"], "there is no file .*absent.yaml"),
        (["--config=broken.yaml", "--config", "tiny.yaml"], r": broken.yaml is no valid YAML: .* line 1"),
        (["--config", "utf16.yaml"], "utf16.yaml is no UTF-8 text"),
        (["--config", "wrong.yaml"], "there is no setting modell.class_path: did you mean model. Or see --help"),
        (["--checkpoint", "best.ckpt"], "give a run or file with --ckpt_path"),
        (["--config=nothing.yaml"], "the --config file has no settings: give a recipe"),
        (["--config=remark.yaml"], "the --config file has no settings, but '# later': give a recipe"),
        (["--trainer.logger=Foo"], "--trainer.logger wants true, false, or a class such as CSVLogger, not 'Foo'"),
        (["--config=no.yaml"], "monitor wants a text, not 'False': put it in quotes where YAML takes it for that"),
        (["--model.schedule=none"], "--model.schedule knows no class 'none': give null for none, or "),
        (["--config=."], r"\. is no file: give the path of a recipe"),
        pytest.param(
            ["--trainer.accelerator=gpu"],
            "There is no such GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_bad_input_ends_in_one_line(
    args: list[str], expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody listens there: the same as no network, without asking for one.
    unreachable = replace(CIFAR10DataModule.ARCHIVE, urls=("http://127.0.0.1:9/cifar-10-python.tar.gz",))
    monkeypatch.setattr(CIFAR10DataModule, "ARCHIVE", unreachable)
    Path("broken.yaml").write_text("a: [1, 2")
    Path("nothing.yaml").write_text("")
    Path("remark.yaml").write_text("# later")
    Path("no.yaml").write_text("checkpoint: {monitor: no}")
    Path("wrong.yaml").write_text("modell: {class_path: ResNetV1}")
    Path("utf16.yaml").write_text("trainer: {max_epochs: 1}", encoding="utf-16")
    assert re.search(expected, failure(capsys, "fit", "--config", "tiny.yaml", *args))


@pytest.mark.parametrize(
    ("given", "before", "after"),
    [
        # Not the rate and decay of the SGD of before.
        (["--model.optimizer=Adam"], "Adam", {"lr": 0.001, "weight_decay": 0.0}),
        (["--model.optimizer=Adam", "--model.optimizer.lr=0.02"], "Adam", {"lr": 0.02, "weight_decay": 0.0}),
        (["--model.optimizer.lr", "0.02", "--model.optimizer", "Adam"], "Adam", {"lr": 0.02, "weight_decay": 0.0}),
        (["--config=adam.yaml"], "Adam", {"lr": 0.03, "weight_decay": 0.0}),
        # Of the same class all others stay.
        (["--model.optimizer=SGD", "--model.optimizer.lr=0.02"], "SGD", {"lr": 0.02, "weight_decay": 0.25}),
        (["--model.optimizer=torch.optim.SGD"], "SGD", {"lr": 0.5, "weight_decay": 0.25}),
        (["--model.optimizer.lr=0.02"], "SGD", {"lr": 0.02, "weight_decay": 0.25}),
        # So do those of a model or of data in another's place.
        (["--model=ResNetV2", "--model.depth=11"], "SGD", {"lr": 0.5, "weight_decay": 0.25}),
        (["--model=within.Outer.Net"], "SGD", {"lr": 0.5, "weight_decay": 0.25}),
    ],
)
def test_a_class_that_replaces_another_begins_with_its_own_defaults(
    given: list[str],
    before: str,
    after: dict[str, float],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("within.py").write_text(
        "from cifar_lit.models import ResNetV1\nclass Outer:\n    class Net(ResNetV1):\n        pass\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("sgd.yaml").write_text(
        "model: {init_args: {optimizer: {class_path: SGD, init_args: {lr: 0.5, weight_decay: 0.25}}}}"
    )
    Path("adam.yaml").write_text("model: {init_args: {optimizer: {class_path: Adam, init_args: {lr: 0.03}}}}")
    with pytest.raises(SystemExit):
        main(["fit", "--config=tiny.yaml", "--config=sgd.yaml", "--data.batch_size=48", *given, "--print_config"])
    settings = yaml.safe_load(capsys.readouterr().out)
    optimizer = settings["model"]["init_args"]["optimizer"]
    assert optimizer["class_path"] == f"torch.optim.{before}"
    assert {name: optimizer["init_args"][name] for name in after} == after
    assert settings["data"]["init_args"]["batch_size"] == 48


def test_files_of_settings_come_first_and_classes_before_their_settings() -> None:
    given = ["fit", "--m.lr", "-1", "-c", "a.yaml", "--m.x=2", "--n=3", "--m", "A", "--m.y", "--config=b.yaml", "--n=4"]
    expected = ["-c", "a.yaml", "--config=b.yaml", "--m", "A", "--m.lr", "-1", "--m.x=2", "--n=3", "--m.y", "--n=4"]
    assert in_order(given) == ["fit", *expected]
    joined = ["fit", "--n", "3", "-c=a.yaml", "-cb.yaml"]
    assert in_order(joined) == ["fit", "-c=a.yaml", "-cb.yaml", "--n", "3"]
    # Of the command line as a whole, before any command.
    assert in_order(["--n=3", "--config=b.yaml", "fit"]) == ["--n=3", "--config=b.yaml", "fit"]
    appended = ["--m+=A", "--m.x=1", "--m+=B", "--m.x=2"]
    assert in_order(["fit", "fit", *appended]) == ["fit", "fit", *appended]


@pytest.mark.parametrize("setting", ["--m.o.lr=3", "--m.init_args.o.lr=3", "--m.init_args.o.init_args.lr=3"])
@pytest.mark.parametrize("named", ["--m.o=A", "--m.o.class_path=A", "--m.init_args.o.class_path=A"])
def test_a_class_comes_before_its_settings_however_both_are_written(setting: str, named: str) -> None:
    assert in_order(["fit", setting, named]) == ["fit", named, setting]


def test_what_is_said_beside_a_file_beats_it_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--trainer.max_epochs=7", "--model.depth=14", "--config", "tiny.yaml", "--print_config"])
    settings = yaml.safe_load(capsys.readouterr().out)
    assert (settings["trainer"]["max_epochs"], settings["model"]["init_args"]["depth"]) == (7, 14)


def test_runs_are_called_after_the_recipe_and_not_after_a_file_beside_it(tmp_path: Path) -> None:
    for name, text in {"a": "model: X", "b": "model: Y", "laptop": "trainer: {devices: 1}", "empty": ""}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    for given, expected in {
        "a,laptop": "a",
        "laptop,a": "a",
        "a,b": "b",
        "laptop,empty": "empty",
        "empty": "empty",
    }.items():
        named = of_recipe([tmp_path / f"{name}.yaml" for name in given.split(",")])
        assert named == tmp_path / f"{expected}.yaml"
    assert of_recipe([]) is None


def test_pictures_are_one_file_or_one_folder(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--config=tiny.yaml", "--images", "first.png", "my second.png"]
    said = failure(capsys, "predict", *given)
    assert "my stands without an option: one takes one value, in quotes where it has spaces, as --images takes" in said
    for option, value in (("--config", "tiny.yaml"), ("--ckpt_path", "best.ckpt")):
        said = failure(capsys, "fit", "--model=ResNetV1", value)
        assert said.endswith(f"{value} stands without an option: give {option} {value}.")


def test_what_only_the_parser_can_judge_is_left_to_it(tmp_path: Path) -> None:
    # Such as a text that others take for a day.
    (tmp_path / "own.yaml").write_text("data: 2024-13-45")
    check_files_of_settings([f"--config={tmp_path / 'own.yaml'}", "--config", "x" * 5000, "-c", "absent", "--config"])


def test_weights_of_other_sizes_are_told_of_with_these() -> None:
    with pytest.raises(RuntimeError) as caught:
        ResNetV1(depth=8, num_classes=5).load_state_dict(ResNetV1(depth=8, num_classes=4).state_dict())
    sizes = r"\(net\.\S+ has the sizes \[4, 64\] there, \[5, 64\] here\): leave"
    assert re.search(f"another architecture or number of classes than the settings {sizes}", one_line(caught.value))


def test_full_memory_says_what_needs_less() -> None:
    def said(error: BaseException) -> str:
        line = one_line(error)
        assert line.startswith("cifar-lit: Memory is full")
        assert "a fit needs less with a smaller --data.batch_size" in line
        return line

    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    of_cpu = said(caught.value)
    assert re.search(r" at \S+:\d+ \(4000000000000000 bytes more were asked for\): ", of_cpu)
    assert "workers" not in of_cpu
    of_gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has")
    assert "(20.00 MiB more were asked for)" in said(of_gpu)
    assert "--data.executor=workers" in said(of_gpu)
    assert "more were" not in said(MemoryError())
    said(OSError(errno.ENOMEM, "Cannot allocate memory"))
    # What compiling makes of it.
    outer = RuntimeError("backend='inductor' raised:")
    outer.__cause__ = of_gpu
    said(outer)


def test_a_list_of_transforms_has_nothing_of_the_classes_that_it_replaces(capsys: pytest.CaptureFixture[str]) -> None:
    zoom, turn = "{class_path: Affine, init_args: {scale: [0.9, 1.1]}}", "{class_path: Rotate, init_args: {limit: 5}}"
    Path("zoom.yaml").write_text(f"data: {{init_args: {{transforms: [{zoom}, {zoom}, RandomRotate90]}}}}")
    given = ["--config=zoom.yaml", f"--data.transforms=[Perspective, Affine, {turn}]"]
    with pytest.raises(SystemExit):
        main(["fit", "--config=tiny.yaml", *given, "--data=ImageFolderDataModule", "--print_config"])
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    assert data["class_path"] == "cifar_lit.data.ImageFolderDataModule"
    assert data["init_args"]["batch_size"] == 16
    perspective, affine, rotate = data["init_args"]["transforms"]
    assert perspective["init_args"]["scale"] == [0.05, 0.1]
    # Nor of another one of the same class.
    assert affine["init_args"]["scale"] == [1.0, 1.0]
    assert rotate["init_args"]["limit"] == 5


def test_a_resumed_run_that_names_no_config_goes_on_with_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--model.depth=14", "--trainer.max_epochs=1")
    main(["fit", f"--ckpt_path={run}", "--trainer.max_epochs=2"])
    main(["fit", "--ckpt_path", "last", "--trainer.max_epochs=3"])
    assert f"Settings of {run}" in capsys.readouterr().out
    assert [*Path("lightning_logs").rglob("version_*")] == [run]
    content = load_checkpoint(run / "checkpoints" / "last.ckpt")
    assert content["epoch"] == 2
    assert content["hyper_parameters"]["depth"] == 14


def test_a_fit_that_resumes_nothing_of_ones_own_wants_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--trainer.max_steps=1")
    for arguments in (["fit"], ["fit", "--ckpt_path=null"]):
        assert "model missing: give a recipe" in failure(capsys, *arguments)
    own = ["fit", "--model.class_path=ResNetV1", "--ckpt_path=last"]
    assert with_own_config(own, ["fit"]) == own
    shutil.copy(run / "checkpoints" / "last.ckpt", "away.ckpt")
    assert "give its settings, too, with --config=FILE" in failure(capsys, "fit", "--ckpt_path=away.ckpt")
    elsewhere = ["fit", f"--ckpt_path={run}", "--trainer.default_root_dir=elsewhere"]
    assert f"give its settings, too, with --config={run / 'config.yaml'}" in failure(capsys, *elsewhere)


def test_a_run_does_not_go_on_with_other_classes(capsys: pytest.CaptureFixture[str]) -> None:
    folders = [Path("images", split, str(name)) for split in ("train", "test") for name in range(10)]
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        for image in range(3):
            Image.new("RGB", (32, 32), (number, image, 0)).save(folder / f"{image}.png")
    fit()
    data = ["--data=ImageFolderDataModule", "--data.root=images", "--data.val_size=10"]
    # Of another class of Python's; digits are called 0 to 9, too.
    fit("--ckpt_path=last", "--trainer.max_epochs=3", *data)
    assert "Not as before the run was resumed: data." in capsys.readouterr().out
    for split in ("train", "test"):
        Path("images", split, "9").rename(Path("images", split, "nine"))
    said = failure(capsys, "fit", "--config=tiny.yaml", "--ckpt_path=last", "--trainer.max_epochs=4", *data)
    assert "The checkpoint has learnt other classes than those of the data (9 where they have nine)" in said


def test_a_number_of_classes_is_said_not_to_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--model.num_classes=5", "--trainer.max_steps=1")
    assert "--model.num_classes is not used" in capsys.readouterr().out
    assert load_checkpoint(run / "checkpoints" / "last.ckpt")["hyper_parameters"]["num_classes"] == 10


def test_without_a_logger_the_best_checkpoint_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config=tiny.yaml", "--trainer.logger=false", "--trainer.max_epochs=1"])
    *_, last = capsys.readouterr().out.splitlines()
    assert Path(last.removeprefix("Best checkpoint: ")).is_file()


def test_what_is_to_be_copied_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config=tiny.yaml", "--trainer.default_root_dir=my runs", "--trainer.max_steps=1"])
    *_, watch = capsys.readouterr().out.splitlines()
    assert watch == "Watch: tensorboard --logdir 'my runs/lightning_logs'"


def test_names_of_data_are_those_that_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    said = failure(capsys, "fit", "--config=tiny.yaml", "--data=NoData")
    assert "give CIFAR100DataModule, CIFAR10DataModule, DigitsDataModule or ImageFolderDataModule" in said
    assert "is abstract" in failure(capsys, "fit", "--config=tiny.yaml", "--data=ImageDataModule")


def test_the_installed_command_finds_ones_own_classes(tmp_path: Path) -> None:
    Path("mine.py").write_text("from cifar_lit.models import ResNetV1\n\n\nclass Mine(ResNetV1):\n    pass\n")
    # As the command that is installed starts it: without the working directory among the paths.
    start = "import sys; sys.path.remove(''); from cifar_lit.__main__ import run; run()"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", start, "summary", "--model=mine.Mine", "--data=DigitsDataModule"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "272,282" in done.stdout


def test_a_switch_may_stand_alone() -> None:
    arguments = ["predict", "--model=X", "--overlays", "--images", "pictures"]
    assert with_own_config(arguments, ["predict"])[2] == "--overlays=true"
    assert with_own_config(["fit", "--trainer.fast_dev_run"], ["predict"]) == ["fit", "--trainer.fast_dev_run=true"]
    assert with_own_config([*arguments[:2], "--overlays", "false"], ["predict"])[2:] == ["--overlays", "false"]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"no zip", lambda b: flip_a_byte(b)])
def test_damaged_checkpoint_is_named(damage: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = fit("--trainer.max_epochs=1") / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    assert re.search(
        r"last.ckpt is (cut short|damaged)", failure(capsys, "test", "--config", "tiny.yaml", "--ckpt_path=last")
    )


def flip_a_byte(content: bytes) -> bytes:
    """One bit of the largest tensor."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    # Behind a header of its own, which ends in the lengths of the name and of what aligns the data.
    name, extra = struct.unpack_from("<HH", content, largest.header_offset + 26)
    place = largest.header_offset + 30 + name + extra + largest.file_size // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_missing_settings_point_to_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert "configs/quickstart.yaml" in failure(capsys, "fit")
    assert "train one with `fit`" in failure(capsys, "test")


def test_traceback_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_LIT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="depth 21"):
        main(["fit", "--config", "tiny.yaml", "--model.depth=21"])


def test_as_a_process_it_exits_with_one_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cifar_lit", "fit", "--config", "tiny.yaml", "--model.depth=21"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "cifar-lit: No such ResNet: depth 21 is not 6n+2. The nearest depths are 20 and 26."
    ]


@pytest.mark.skipif(not hasattr(select, "poll"), reason="pipes cannot be asked here")
@pytest.mark.parametrize("option", ["--model.depth=20", "--help"])
def test_a_reader_may_leave_early(option: str) -> None:
    """As ``head`` does, and nobody wants to hear of it."""
    command = [sys.executable, "-m", "cifar_lit", "summary", "--config", "tiny.yaml", option]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        # argparse holds its help for told, read or not.
        assert process.wait(60) == (0 if option == "--help" else 128 + signal.SIGPIPE)


@pytest.mark.parametrize("command", ["fit", "test", "summary"])
def test_help_needs_no_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--model.help", "DepthwiseNet"])
    assert caught.value.code == 0
    assert "Channels of the blocks of each stage" in capsys.readouterr().out


def test_version_is_all_that_a_report_of_a_problem_wants(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"cifar-lit {cifar_lit.__version__} ")
    assert f"torch {torch.__version__}," in line


def test_help_says_what_a_command_does_to_the_end_of_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for command in CifarCLI.subcommands():
        with pytest.raises(SystemExit):
            main([command, "--help"])
        _, description, _ = capsys.readouterr().out.split("\n\n", 2)
        assert description.endswith(".")


def test_help_of_a_model_lists_its_own_and_shared_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--model.help", "ResNetV1"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for argument in ("depth", "conv_bias", "optimizer", "schedule", "label_smoothing", "tta", "weight_decay_on"):
        assert f".{argument}" in text
    assert "Number of layers, 6n+2" in text


def test_no_logger_and_no_checkpoints() -> None:
    main(["fit", "--config", "tiny.yaml", "--trainer.logger=false", "--trainer.enable_checkpointing=false"])
    assert [path.name for path in Path.cwd().iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--model.depth=14", "of another architecture"),
        ("--trainer.max_epochs=1", "has gone beyond epoch 1, which is --trainer.max_epochs: give more"),
        ("--model.weight_decay_on=all", "weight_decay_on that its config.yaml names"),
        ("--model.optimizer=AdamW", "has the optimizer .*SGD, of whose state AdamW can make nothing"),
    ],
)
def test_a_resume_that_is_refused_leaves_the_run_as_it_was(option: str, words: str) -> None:
    config = fit("--trainer.max_epochs=3") / "config.yaml"
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match=words):
        fit("--trainer.max_epochs=4", option, "--ckpt_path=last")
    assert config in before
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("command", ["validate", "summary"])
def test_ctrl_c_ends_with_130_whatever_runs(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    fit()
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("cifar_lit.classifier.Classifier.validation_step", interrupt)
    monkeypatch.setattr("cifar_lit.trainer.summarize", interrupt)
    try:
        with pytest.raises(SystemExit) as caught:
            main([command])
    finally:
        signal.signal(signal.SIGINT, handler)
    assert caught.value.code == 130


def test_paths_may_begin_with_a_tilde_or_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PLACE", str(tmp_path / "place"))
    checkpoint = fit("--trainer.max_epochs=1") / "checkpoints" / "last.ckpt"
    (tmp_path / "home").mkdir()
    kept = shutil.copy(checkpoint, tmp_path / "home" / "mine.ckpt")
    pictures = tmp_path / "home" / "pictures"
    pictures.mkdir()
    Image.new("RGB", (8, 8)).save(pictures / "a.png")
    main(["summary", "--ckpt_path=~/mine.ckpt", "--output=~/table.txt"])
    assert (tmp_path / "home" / "table.txt").is_file()
    main(["predict", "--ckpt_path=~/mine.ckpt", "--images=~/pictures", "--output_dir=$PLACE/out"])
    assert (tmp_path / "place" / "out" / "predictions.csv").is_file()
    taught = ["--trainer.callbacks+=Distillation", "--trainer.callbacks.teacher=~/mine.ckpt", "--trainer.max_epochs=1"]
    fit(*taught)
    assert f"Teacher: ResNetV1 of {kept}" in capsys.readouterr().out
    assert not Path("~").exists()


def test_a_disk_that_fills_while_curves_are_written_ends_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.flush", full)
    said = failure(capsys, "fit", "--config=tiny.yaml", "--checkpoint.monitor=val/none")
    assert re.search(r"Cannot write \S+version_0 \(No space left on device\): make room", said)


def test_only_the_thread_that_writes_curves_dies_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    for _ in range(2):
        # Once, however often.
        hush_libraries()

    class _AsyncWriterThread(threading.Thread):
        """Named as TensorBoard's."""

    def ended(thread: threading.Thread) -> Any:
        return SimpleNamespace(thread=thread, exc_type=OSError, exc_value=OSError(), exc_traceback=None)

    threading.excepthook(ended(_AsyncWriterThread()))
    assert told == []
    threading.excepthook(other := ended(threading.Thread()))
    assert told == [other]
