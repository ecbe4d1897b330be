"""An error that all ranks of a run meet is one line."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pytorch_lightning.utilities import rank_zero_only

from cifar_lit import console
from cifar_lit.console import exit_with
from cifar_lit.errors import UserError

QUICKSTART = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
TWO_RANKS = ["--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.devices=2"]


@pytest.mark.slow
def test_what_is_wrong_on_all_ranks_is_said_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cifar_lit", "fit", f"--config={QUICKSTART}", *TWO_RANKS, "--data.batch_size=17"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.count("batch_size 17 does not divide over 2 devices: give a multiple of 2") == 1, done.stdout
    assert "Traceback" not in done.stdout


def test_a_rank_leaves_its_line_to_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([10, 10, 10, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with pytest.raises(SystemExit) as end:
        exit_with(UserError("batch_size is 0."))
    assert end.value.code == 1  # and not a line


def test_an_error_of_one_rank_alone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "FIRST_RANK_SECONDS", 0.2)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with pytest.raises(SystemExit) as end:
        exit_with(UserError("batch_size is 0."))
    assert end.value.code == "cifar-lit: batch_size is 0."


def test_the_first_rank_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    begun = time.monotonic()
    with pytest.raises(SystemExit, match="batch_size is 0"):
        exit_with(UserError("batch_size is 0."))
    assert time.monotonic() - begun < 1
