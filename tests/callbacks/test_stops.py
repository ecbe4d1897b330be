"""A run that is told to stop ends in good order, and goes on as if it had not been."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from forks import COMMAND_LINE, run_on_ranks
from pytorch_lightning import Callback, Trainer

from benchmarks.accuracy import QUIET
from cifar_lit.callbacks.stops import Stops
from cifar_lit.cli import main

FIT = [
    "fit",
    "--model=DepthwiseNet",
    "--model.widths=[[8],[8]]",
    "--model.dropout=[0.2,0.2]",
    "--data=DigitsDataModule",
]
FIT += ["--data.batch_size=16", "--trainer.max_epochs=3", "--trainer.precision=32-true", "--trainer.accelerator=cpu"]
FIT += QUIET


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cifar_lit", *FIT, *args],
        cwd=folder,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    last = next(folder.rglob("last.ckpt"))
    state: dict[str, torch.Tensor] = torch.load(last, weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], dict[str, torch.Tensor]]:
    """The weights in which a run ends that nobody stops, with options of its own."""

    @cache
    def run(*options: str) -> dict[str, torch.Tensor]:
        folder = tmp_path_factory.mktemp("whole")
        run_on_ranks(COMMAND_LINE, 1, folder, *FIT, *options)
        return weights(folder)

    return lambda options: run(*options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "code", "executor"),
    [
        (signal.SIGTERM, 143, ["--data.executor=workers", "--data.num_workers=2"]),
        (signal.SIGINT, 130, ["--data.executor=workers", "--data.num_workers=2"]),
    ],
)
def test_a_signal_saves_says_how_to_go_on_and_ends_with_its_code(
    tmp_path: Path,
    kind: signal.Signals,
    code: int,
    executor: list[str],
    undisturbed: Callable[[list[str]], dict[str, torch.Tensor]],
) -> None:
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    process = start(
        stopped, *executor, "--trainer.callbacks+=test_stops.GroupSignal", f"--trainer.callbacks.kind={kind}"
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    said = re.search(rf"Stopped by {kind.name} in epoch (\d), after step (\d+)\. Give (--ckpt_path=\S+) to go on", out)
    assert said, out
    assert int(said[2]) == 100
    run_on_ranks(COMMAND_LINE, 1, stopped, *FIT, *executor, said[3])
    assert len(list(stopped.rglob("last.ckpt"))) == 1, "it goes on in its own folder"
    expected, found = undisturbed(executor), weights(stopped)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


class GroupSignal(Callback):
    """Sends a signal as a terminal and a batch system do, to the workers, too; in the middle of the second epoch."""

    def __init__(self, kind: int) -> None:
        self.kind = kind

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        if trainer.global_step == 100:
            os.killpg(os.getpgrp(), self.kind)


class Signal(Callback):
    """Sends this process a signal at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


# In the middle of the first epoch, which has 3 steps, in its last step, and in an epoch of one step.
@pytest.mark.parametrize(("step", "batches", "stopped_at"), [(2, 3, 2), (3, 3, 3), (1, 1, 1)])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_line_names_the_file_to_go_on_from(
    step: int,
    batches: int,
    stopped_at: int,
    elsewhere: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    limits = ["--trainer.max_epochs=4", f"--trainer.limit_train_batches={batches}"]
    given = []
    if elsewhere:
        main([*FIT, *limits, "--trainer.max_epochs=1"])
        shutil.copy(next(tmp_path.rglob("last.ckpt")), "copy.ckpt")
        given, stopped_at = ["--ckpt_path=copy.ckpt"], stopped_at + batches
    with pytest.raises(SystemExit) as caught:
        main(
            [*FIT, *limits, *given, "--trainer.callbacks+=test_stops.Signal", f"--trainer.callbacks.step={stopped_at}"]
        )
    assert caught.value.code == 143
    said = re.search(r"Stopped by SIGTERM .*after step (\d+)\. Give --ckpt_path=(\S+) to", capsys.readouterr().out)
    assert said
    assert int(said[1]) == stopped_at
    newest = max(tmp_path.rglob("last.ckpt"), key=lambda file: file.stat().st_mtime)
    assert Path(said[2]).resolve() == newest
    assert torch.load(newest, weights_only=True)["global_step"] == stopped_at
    main([*FIT, *limits, f"--ckpt_path={said[2]}"])
    assert torch.load(newest, weights_only=True)["global_step"] == 4 * batches


def test_going_on_from_the_best_checkpoint_leaves_a_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    limits = ["--trainer.limit_train_batches=2", "--checkpoint.save_top_k=-1"]
    main([*FIT, *limits, "--trainer.max_epochs=2"])
    best = sorted(tmp_path.rglob("best-*.ckpt"))[-1]
    main([*FIT, *limits, "--trainer.max_epochs=3", f"--ckpt_path={best}"])
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 6


def test_the_second_signal_is_taken_at_its_word() -> None:
    stops = Stops()
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        trainer = Trainer(logger=False, enable_checkpointing=False)
        stops.on_fit_start(trainer, None)  # type: ignore[arg-type]
        stops.on_train_start(trainer, None)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGINT)
        assert seen == []
        os.kill(os.getpid(), signal.SIGINT)
        assert seen == [signal.SIGINT]
        stops.teardown(None, None, "fit")  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGINT) is not stops._note
    finally:
        signal.signal(signal.SIGINT, before)
