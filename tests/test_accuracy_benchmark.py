"""Runs that go on where they were stopped, and say what they reached."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from forks import command
from torch.utils.tensorboard import SummaryWriter

from benchmarks import accuracy, commands, page, reference_epochs, tuning
from benchmarks.measure import REPOSITORY
from benchmarks.time_to_accuracy import WITHOUT_VALIDATION

TINY = [
    *["--data=DigitsDataModule", "--data.batch_size=64", "--trainer.max_epochs=2", "--trainer.limit_train_batches=2"],
    "--trainer.accelerator=cpu",
]


@pytest.mark.slow
def test_a_run_writes_a_result_goes_on_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["quickstart", "--seeds=1", f"--runs={tmp_path / 'runs'}", f"--output={tmp_path / 'results'}", *TINY]
    calls, fits = [], list[float]()

    def stopped_once(*arguments: str) -> tuple[float, str]:
        calls.append(arguments)
        if len(calls) == 1:
            command(*[a for a in arguments if not a.startswith("--trainer.max_epochs")], "--trainer.max_epochs=1")
            raise KeyboardInterrupt
        seconds, said = command(*arguments)
        fits.extend([seconds] if arguments[0] == "fit" else [])
        return seconds, said

    monkeypatch.setattr(accuracy, "command", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        accuracy.main(asked)
    assert not (tmp_path / "results").exists()
    accuracy.main(asked)
    (file,) = (tmp_path / "results").iterdir()
    assert file.name == "quickstart-original-cpu-seed0.json"
    found = json.loads(file.read_text())
    assert any(argument.startswith("--ckpt_path=") for argument in calls[1])
    assert 0 < found["accuracy"] < 100
    (clock,) = tmp_path.rglob("seconds.json")
    # Of the stopped try, as far as its files tell, and of the other.
    stopped, other = json.loads(clock.read_text())
    assert stopped > 0
    assert [other] == fits
    assert found["fit_seconds"] == round(stopped + other, 1)
    assert len(list(tmp_path.rglob("last.ckpt"))) == 1
    capsys.readouterr()
    accuracy.main(asked)
    assert "there already" in capsys.readouterr().out


def test_the_seconds_of_all_stopped_tries_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = iter((1000.0, 2000.0, 3000.0))
    lasted = iter((10, 25))
    checkpoint = tmp_path / "lightning_logs" / "x" / "version_0" / "checkpoints" / "last.ckpt"

    def stopped_twice(*arguments: str) -> tuple[float, str]:
        assert (f"--ckpt_path={checkpoint}" in arguments) == checkpoint.is_file()
        seconds = next(lasted, None)
        if seconds is None:
            return 5.0, ""
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.touch()
        moment = (1000 if seconds == 10 else 2000) + seconds
        os.utime(checkpoint, (moment, moment))
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy, "command", stopped_twice)
    monkeypatch.setattr("time.time", lambda: next(begun))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            accuracy.train(["--x"], tmp_path, {})
    # The second time nothing is trained.
    for _ in range(2):
        assert accuracy.train(["--x"], tmp_path, {}) == 10 + 25 + 5


def test_a_teacher_is_trained_once_before_its_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = list[tuple[str, ...]]()

    def fit_or_test(*arguments: str) -> tuple[float, str]:
        if arguments[0] == "test":
            return 1.0, "test/accuracy 0.5"
        fits.append(arguments)
        (root,) = [a.partition("=")[2] for a in arguments if a.startswith("--trainer.default_root_dir=")]
        checkpoints = Path(root, "lightning_logs", "x", "version_0", "checkpoints")
        # As long as the other student may take to want the same.
        time.sleep(0.5)
        checkpoints.mkdir(parents=True)
        (checkpoints / "last.ckpt").touch()
        return 2.0, ""

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    monkeypatch.setattr(accuracy, "command", fit_or_test)
    own = ["--seeds=1", "--first_seed=4", f"--runs={tmp_path / 'runs'}", f"--output={tmp_path / 'results'}"]
    students = ["depthwise_distilled", "dilated_separable_distilled"]
    accuracy.main([*students, "--at_once=2", *own])
    accuracy.main(["resnet20", *own])
    assert Path(fits[0][1]).stem == "resnet20"
    assert sorted(Path(fit[1]).stem for fit in fits[1:]) == students
    (teacher,) = (tmp_path / "runs" / "resnet20" / "seed-4").rglob("last.ckpt")
    assert all(f"--trainer.callbacks.teacher={teacher}" in fit for fit in fits[1:])
    found = json.loads((tmp_path / "results" / "depthwise_distilled-original-cpu-seed4.json").read_text())
    assert (found["teacher"], found["accuracy"], found["options"]) == ("resnet20", 50.0, [])
    assert "ResNetV1" in found["teacher_settings"]
    # A folder's run goes on, or counts, only if it is the one that is asked for.
    with pytest.raises(SystemExit, match=r"resnet20.*holds a run with other settings"):
        accuracy.main(["depthwise_distilled", *own, "--trainer.max_epochs=1"])


@pytest.mark.slow
def test_tries_are_judged_by_held_out_images_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Which the program sets for what it starts, and later tests are to find as it was.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    monkeypatch.setattr(tuning, "command", command)
    tiny = "--data=DigitsDataModule --data.batch_size=64 --trainer.limit_train_batches=2 --trainer.accelerator=cpu"
    asked = ["quickstart", "--epochs=1", "--at_once=2", f"--output={tmp_path}", "--options"]
    slow, fast = f"{tiny} --model.optimizer.lr=1e-9", f"{tiny} --model.optimizer.lr=0.05"
    tuning.main([*asked, slow])
    tuning.main([*asked, slow, fast])
    (file,) = tmp_path.iterdir()
    tries = json.loads(file.read_text())["tries"]
    assert [one["options"] for one in tries] == [slow, fast]
    assert file.name == "tuning-quickstart.json"
    for one in tries:
        assert {"train_loss", "train_accuracy", "val_loss", "epochs", "recipe", "commit"} <= one.keys()
        assert 0 < one["val_accuracy"] < 100
        assert one["optimizer"]["init_args"]["momentum"] == 0.9, "as the recipe has it"
    assert [one["optimizer"]["init_args"]["lr"] for one in tries] == [1e-9, 0.05]
    assert tries[0]["val_loss"] != tries[1]["val_loss"]


def test_a_try_may_be_one_option_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(recipe: str, options: str, epochs: int, data_root: str | None) -> dict[str, Any]:
        return {"options": options}

    monkeypatch.setattr(tuning, "attempt", attempt)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tuning.main(["quickstart", f"--output={tmp_path}", "--options", "", "--model.tta=none"])
    tries = json.loads((tmp_path / "tuning-quickstart.json").read_text())["tries"]
    assert [one["options"] for one in tries] == ["", "--model.tta=none"]


def test_a_try_is_of_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list[str | None]()

    def attempt(recipe: str, options: str, epochs: int, data_root: str | None) -> dict[str, Any]:
        tried.append(data_root)
        return {"options": options, "epochs": epochs}

    monkeypatch.setattr(tuning, "attempt", attempt)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    for folder in ("here", "there", "here"):
        Path(folder).mkdir(exist_ok=True)
        tuning.main(["quickstart", f"--output={tmp_path}", f"--data_root={folder}", "--options", "--model.tta=none"])
    assert tried == ["here", "there"]


def test_first_epochs_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = list[str]()

    def fit(*arguments: str) -> tuple[float, str]:
        tiny = [*TINY[:2], *TINY[3:], "--data.val_size=0"]
        ran.append(Path(arguments[1].removeprefix("--config=")).stem)
        return command(*arguments, *tiny)

    monkeypatch.setattr(reference_epochs, "command", fit)
    for epochs in (1, 2, 2):
        reference_epochs.main([f"--epochs={epochs}", f"--output={tmp_path}", "r5_plain"])
    assert ran == ["r5_plain"] * 2
    found = json.loads((tmp_path / "reference_epochs.json").read_text())["recipes"]["r5_plain"]
    # Nor does what is of other images take their place.
    with pytest.raises(SystemExit, match="holds figures of original images"):
        reference_epochs.main(["--epochs=2", f"--output={tmp_path}", f"--data_root={tmp_path}", "r5_plain"])
    charts = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    assert [len(found[chart]) for chart in charts] == [2] * 4
    assert all(0 <= found[chart][0] <= 1 for chart in charts if "accuracy" in chart)


def test_runs_share_the_cores_and_go_on_where_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    threads = list[int]()
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    both = threading.Barrier(2, timeout=60)

    def measure(recipe: str, seed: int, *_: Any) -> dict[str, Any]:
        # Only together do they get past it.
        both.wait()
        if seed == 0:
            raise ValueError(recipe)
        return {"accuracy": 90.0 + seed}

    monkeypatch.setattr(accuracy, "measure", measure)
    with pytest.raises(ValueError, match="quickstart"):
        accuracy.main(["quickstart", "--seeds=4", "--at_once=2", f"--output={tmp_path}"])
    assert threads == [3]
    assert os.environ["OMP_NUM_THREADS"] == "3"
    found = [json.loads(file.read_text()) for file in sorted(tmp_path.iterdir())]
    assert [(one["seed"], one["accuracy"], one["at_once"]) for one in found] == [
        (1, 91.0, 2),
        (2, 92.0, 2),
        (3, 93.0, 2),
    ]


def test_a_reference_recipe_validates_as_published_and_its_best_epoch_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = fake_runs(monkeypatch, val_accuracy=[0.5, 0.75, 0.6])
    figures = accuracy.measure("reference/r1", 3, None, False, [], tmp_path)
    assert [figures[name] for name in ("best_epoch_accuracy", "best_epoch", "epochs")] == [75.0, 2, 3]
    fit, test = ran
    assert not set(WITHOUT_VALIDATION) & set(fit)
    assert f"--trainer.default_root_dir={tmp_path / 'reference-r1' / 'seed-3'}" in fit
    assert "--ckpt_path=last" in test
    fake_runs(monkeypatch, val_accuracy=[0.5])
    assert "best_epoch" not in accuracy.measure("resnet20", 3, None, False, [], tmp_path)


def test_what_held_out_images_choose_is_tested_beside_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = fake_runs(monkeypatch, val_accuracy=[0.5], accuracy={"last": 0.8, "best": 0.9})
    figures = accuracy.measure("resnet20", 3, None, True, [], tmp_path)
    assert (figures["accuracy"], figures["best_by_validation_accuracy"]) == (80.0, 90.0)
    assert not set(WITHOUT_VALIDATION) & set(ran[0])
    # A run on all images is another one.
    everything = fake_runs(monkeypatch, val_accuracy=[0.5])
    assert "best_by_validation_accuracy" not in accuracy.measure("resnet20", 3, None, False, [], tmp_path)
    assert set(WITHOUT_VALIDATION) <= set(everything[0])
    assert sorted(folder.name for folder in (tmp_path / "resnet20").iterdir()) == ["hold-out-seed-3", "seed-3"]


def test_a_folder_that_holds_a_run_of_other_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_runs(monkeypatch, val_accuracy=[0.5])
    accuracy.measure("resnet20", 3, None, False, [], tmp_path)
    with pytest.raises(SystemExit, match="holds a run with other settings"):
        accuracy.measure("resnet20", 3, "elsewhere", False, [], tmp_path)


def fake_runs(
    monkeypatch: pytest.MonkeyPatch, val_accuracy: list[float], accuracy: Mapping[str, float] | None = None
) -> list[tuple[str, ...]]:
    """Lets a run leave a checkpoint and a curve, and a test print an accuracy; returns the commands."""
    ran = list[tuple[str, ...]]()

    def run(*arguments: str) -> tuple[float, str]:
        ran.append(arguments)
        given = dict(argument.partition("=")[::2] for argument in arguments)
        if arguments[0] == "test":
            return 1.0, f"test/accuracy {(accuracy or {}).get(given['--ckpt_path'], 0.5)}"
        version = Path(given["--trainer.default_root_dir"], "lightning_logs", "x", "version_0")
        (version / "checkpoints").mkdir(parents=True)
        (version / "checkpoints" / "last.ckpt").touch()
        with SummaryWriter(str(version / "val")) as writer:
            for epoch, value in enumerate(val_accuracy):
                writer.add_scalar("accuracy", value, epoch)
        return 2.0, ""

    monkeypatch.setattr("benchmarks.accuracy.command", run)
    return ran


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_what_is_terminated_leaves_nothing_training(tmp_path: Path) -> None:
    asked = ["quickstart", "--seeds=1", f"--runs={tmp_path / 'runs'}", f"--output={tmp_path}", *TINY[:2], *TINY[4:]]
    endless = ["--trainer.max_epochs=100000", "--checkpoint.every_n_minutes=0.01"]
    command, pipe = [sys.executable, "-m", "benchmarks.accuracy", *asked, *endless], subprocess.PIPE
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=pipe, text=True) as process:
        deadline = time.monotonic() + 200
        try:
            while not list(tmp_path.rglob("last.ckpt")) and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.1)
            process.terminate()
            _, said = process.communicate(timeout=100)
            assert process.returncode == 130
        finally:
            left = [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if str(tmp_path) in started(folder)]
            for pid in left:
                os.kill(pid, signal.SIGKILL)
    assert left == []
    assert said.splitlines()[-1] == "Stopped: the same command does what is not done yet."
    assert "Traceback" not in said
    assert len(list(tmp_path.rglob("last.ckpt"))) == 1
    assert not list(tmp_path.glob("*.json"))


def started(process: Path) -> str:
    """The command line of a process, by its folder."""
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_who_waits_for_anothers_teacher_does_not_begin_when_told_to_stop(
    kind: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, start, threads, both = list[str](), threading.Thread.start, list[threading.Thread](), threading.Event()

    def start_slowly(thread: threading.Thread) -> None:
        start(thread)
        threads.append(thread)
        if len(threads) == 2:
            both.set()
            # Meanwhile the signal comes.
            time.sleep(0.5)

    def fit(*arguments: str) -> tuple[float, str]:
        if commands.STOPPED.is_set():
            raise InterruptedError
        begun.append(arguments[0])
        assert both.wait(60)
        os.kill(os.getpid(), kind)
        assert commands.STOPPED.wait(60)
        raise subprocess.CalledProcessError(1, "fit")

    monkeypatch.setattr(accuracy, "command", fit)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    monkeypatch.setattr(threading.Thread, "start", start_slowly)
    # A shell's background ignores Ctrl-C.
    outside = signal.signal(kind, signal.default_int_handler)
    asked = ["depthwise_distilled", "dilated_separable_distilled", "--at_once=2", f"--output={tmp_path}"]
    try:
        with pytest.raises(SystemExit) as end:
            accuracy.main(asked)
        assert signal.getsignal(kind) is signal.default_int_handler
    finally:
        signal.signal(kind, outside)
    assert not any(thread.is_alive() for thread in threads)
    assert begun == ["fit"]
    assert end.value.code == 130
    assert not commands.STOPPED.is_set(), "other programs may begin"
    assert not list(tmp_path.glob("*.json"))


def test_a_pages_figures_are_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explain(*arguments: str) -> tuple[float, str]:
        assert arguments[:2] == ("explain", "--ckpt_path=last")
        given = dict(argument.partition("=")[::2] for argument in arguments)
        assert given["--trainer.default_root_dir"] == str(tmp_path / "resnet20" / "seed-3")
        where = {"seed": "3", "epoch": "50", "commit": "abc", "trained with": "torch", "test data SHA-256": "0"}
        metrics = {"accuracy": 0.5, "confusion": [[1]], "provenance": {**where, "data root": "/here"}}
        folder = Path(given["--output_dir"])
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return 1.0, ""

    monkeypatch.setattr(page, "command", explain)
    with pytest.raises(SystemExit, match="holds no run that was trained to its end"):
        page.main(["resnet20", f"--runs={tmp_path}", f"--output={tmp_path}"])
    (tmp_path / "resnet20" / "seed-3").mkdir(parents=True)
    (tmp_path / "resnet20" / "seed-3" / "asked.json").touch()
    page.main(["resnet20", "--seed=3", f"--runs={tmp_path}", f"--output={tmp_path}"])
    text = (tmp_path / "page-resnet20.json").read_text()
    found = json.loads(text)
    assert (found["accuracy"], found["seed"], found["trained_at_commit"]) == (0.5, "3", "abc")
    assert found["commit"] != "abc"
    assert "/here" not in text
