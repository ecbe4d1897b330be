"""Every run says what it was."""

import json
import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmarks.accuracy import QUIET
from cifar_lit.cli import main
from cifar_lit.data.images import Images
from cifar_lit.identity import fingerprint, git_commit

FIT = ["fit", "--model=DepthwiseNet", "--model.widths=[[4],[4]]", "--model.dropout=[0,0]", "--data=DigitsDataModule"]
FIT += ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1", "--trainer.accelerator=cpu", *QUIET]


def test_a_run_and_its_checkpoints_say_what_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main([*FIT, "--trainer.max_epochs=1", "--seed_everything=7"])
    run = tmp_path / "lightning_logs" / "DepthwiseNet" / "version_0"
    (start,) = json.loads((run / "provenance.json").read_text())
    assert (start["seed"], start["from_step"], start["machine"]["device"]) == (7, 0, "cpu")
    assert start["versions"]["torch"] == version("torch")
    assert start["command"] == "cifar-lit " + shlex.join([*FIT, "--trainer.max_epochs=1", "--seed_everything=7"])
    assert start["data"]["test"]["images"] == 359
    main([*FIT, "--trainer.max_epochs=2", "--seed_everything=7", "--ckpt_path=last"])
    first, second = json.loads((run / "provenance.json").read_text())
    assert first == start
    assert second["from_step"] == 2
    assert second["data"] == first["data"]
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert [entry["from_step"] for entry in checkpoint["provenance"]] == [0, 2]
    settings = yaml.safe_load(checkpoint["provenance"][1]["settings"])
    assert settings["seed_everything"] == 7
    assert settings["trainer"]["max_epochs"] == 2
    assert settings["model"]["init_args"]["widths"] == [[4], [4]]


def test_fingerprint_is_of_pixels_order_and_labels() -> None:
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    labels = np.array([0, 1])
    whole = fingerprint(Images(pixels, labels))
    assert whole == fingerprint(Images(np.asfortranarray(pixels), labels.copy()))
    changed = pixels.copy()
    changed[1, 3, 3, 2] ^= 1
    others = [Images(changed, labels), Images(pixels, labels[::-1]), Images(pixels[::-1], labels)]
    assert len({whole, *map(fingerprint, others)}) == 4


def test_commit_tells_changes(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("one")
    try:
        for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
            subprocess.run([*git, *command], check=True)
    except FileNotFoundError:
        pytest.skip("there is no git")
    clean = git_commit(tmp_path)
    assert clean is not None
    assert len(clean) == 40
    # What is installed below it is no part of it.
    installed = tmp_path / "venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert git_commit(installed) is None
    (tmp_path / "file").write_text("two")
    assert git_commit(tmp_path) == clean + "+"
