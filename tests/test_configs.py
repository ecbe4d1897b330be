"""Every recipe that is shipped: it is found by its place, never by a list."""

import os
import re
from pathlib import Path

import pytest
import torch
import yaml

from cifar_lit import optimizers
from cifar_lit.cli import CifarCLI, main

REPOSITORY = Path(__file__).parent.parent
RECIPES = sorted((REPOSITORY / "configs").rglob("*.yaml"))
NAMES = [str(path.relative_to(REPOSITORY)) for path in RECIPES]


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 15


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_recipe_trains_saves_and_loads(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = ["--data=DigitsDataModule", "--data.batch_size=4", "--trainer.accelerator=cpu"]
    few = ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1", "--trainer.max_epochs=1"]
    if path.parent.name != "reference" and path.stem != "quickstart":
        tiny.append("--data.val_size=100")
    main(["fit", "--config", str(path), *tiny, *few])
    checkpoint = tmp_path / "lightning_logs" / path.stem / "version_0" / "checkpoints" / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2
    capsys.readouterr()
    main(["test", f"--ckpt_path={checkpoint}", "--trainer.limit_test_batches=1"])
    assert "test/accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_recipe_opens_with_what_one_wants_to_know(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    header = text[: text.index("trainer:")]
    assert f"python -m cifar_lit fit --config {path.relative_to(REPOSITORY).as_posix()}" in header
    assert re.search(r"\b(Accuracy|Measured here): ", header)
    recipe = yaml.safe_load(text)
    epochs = recipe["trainer"]["max_epochs"]
    assert f"{epochs} epochs" in header
    # A schedule learns the run's length from the trainer.
    assert not re.search(rf"\b{epochs}\b", str(recipe["model"]["init_args"]["schedule"]))


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_header_states_the_parameters_there_are(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stated = re.search(r"([\d,]+) parameters", path.read_text(encoding="utf-8"))
    assert stated is not None
    main(["summary", "--config", str(path), "--format=json"])
    counted = yaml.safe_load(capsys.readouterr().out)["totals"]["trainable_parameters"]
    assert int(stated[1].replace(",", "")) == counted


@pytest.mark.parametrize("path", [p for p in RECIPES if p.parent.name == "reference"], ids=lambda p: p.stem)
def test_reference_recipes_validate_on_the_test_split(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["init_args"]["val_size"] == 0


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_optimizer_has_what_its_recipe_says_and_nothing_else(path: Path) -> None:
    """jsonargparse hands an argument's default settings on to whatever class a recipe puts in its place."""
    said = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["init_args"]["optimizer"]
    model = CifarCLI(["summary", "--config", str(path), f"--output={os.devnull}"]).model
    made = model.optimizer(model.parameter_groups())
    maker = {**vars(torch.optim), **vars(optimizers)}[said["class_path"].rpartition(".")[2]]
    expected = maker(model.parameter_groups(), **said["init_args"])
    assert type(made) is type(expected)
    for group, expected_group in zip(made.param_groups, expected.param_groups, strict=True):
        assert {**group, "params": None} == {**expected_group, "params": None}
