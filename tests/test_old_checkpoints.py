"""Checkpoints of every architecture, written once, keep loading and keep saying what they said."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from keep_checkpoint import ARCHITECTURES, FOLDER, probe

from benchmarks.accuracy import QUIET
from cifar_lit import models
from cifar_lit.checkpoint_content import load_checkpoint
from cifar_lit.classifier import Classifier
from cifar_lit.cli import CifarCLI, main

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@pytest.fixture(params=NAMES)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name: str = request.param
    path = tmp_path / f"{name}.ckpt"
    path.write_bytes(lzma.decompress((FOLDER / f"{name}.ckpt.xz").read_bytes()))
    return path


def test_there_is_one_of_every_architecture() -> None:
    shipped = {value for value in vars(models).values() if isinstance(value, type) and issubclass(value, Classifier)}
    assert {options[0].removeprefix("--model=") for options in ARCHITECTURES.values()} == {
        architecture.__name__ for architecture in shipped
    }
    assert sorted(ARCHITECTURES) == NAMES


def test_logits_are_those_that_were_written_down(kept: Path) -> None:
    class_path = load_checkpoint(kept)["hyper_parameters"]["_class_path"]
    model = getattr(models, class_path.rpartition(".")[2]).load_from_checkpoint(kept).eval()
    with torch.no_grad():
        logits = model(probe()).numpy()
    expected = np.array(json.loads((FOLDER / f"{kept.stem}.json").read_text(encoding="utf-8")))
    assert np.abs(expected).max() > 0.01
    assert np.ptp(expected, axis=1).min() > 1e-3
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max(), rtol=1e-4)


@pytest.mark.usefixtures("small_evaluations")
def test_the_command_line_takes_it(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To test it, with its own settings, and to train on, with its optimizer's state."""
    monkeypatch.chdir(tmp_path)
    limits = ["--trainer.limit_test_batches=1", "--trainer.accelerator=cpu", *QUIET]
    main(["test", f"--ckpt_path={kept}", *limits])
    cli = CifarCLI(
        [
            *["fit", *ARCHITECTURES[kept.stem], "--data=DigitsDataModule", "--data.batch_size=8"],
            *["--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--trainer.limit_train_batches=1"],
            *["--trainer.limit_val_batches=1", f"--ckpt_path={kept}", *QUIET],
        ]
    )
    assert cli.trainer.global_step == load_checkpoint(kept)["global_step"] + 1
