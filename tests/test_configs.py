"""Every recipe that is shipped: it is found by its place, never by a list."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks.accuracy import QUIET, teacher_of
from cifar_lit import optimizers, trainer
from cifar_lit.classifier import Classifier
from cifar_lit.cli import CifarCLI, main
from cifar_lit.models import resnet18

REPOSITORY = Path(__file__).parent.parent
RECIPES = sorted((REPOSITORY / "configs").rglob("*.yaml"))
SHALLOW = {"ResNetV1": 8, "ResNetV2": 11}
NAMES = [str(path.relative_to(REPOSITORY)) for path in RECIPES]


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 15


@pytest.mark.usefixtures("small_evaluations")
@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_recipe_trains_saves_and_loads(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = ["--data=DigitsDataModule", "--data.batch_size=4", "--trainer.accelerator=cpu"]
    few = ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1", "--trainer.max_epochs=1", *QUIET]
    if path.parent.name != "reference" and path.stem != "quickstart":
        tiny.append("--data.val_size=100")
    # As it is, each network is built by `test_header_states_the_parameters_there_are`.
    depth = SHALLOW.get(yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["class_path"])
    few += [f"--model.depth={depth}"] if depth else []
    monkeypatch.setattr(resnet18, "STAGE_WIDTHS", (8, 8, 16, 16))
    teacher = teacher_of(path)
    if teacher is not None:
        others = [option for option in few if "depth" not in option]
        main(["fit", "--config", str(REPOSITORY / "configs" / f"{teacher}.yaml"), *tiny, *others])
    main(["fit", "--config", str(path), *tiny, *few])
    checkpoint = tmp_path / "lightning_logs" / path.stem / "version_0" / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["global_step"] == 2
    capsys.readouterr()
    tested: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(Classifier, "on_test_start", lambda model: tested.update(model.state_dict()), raising=False)
    main(["test", f"--ckpt_path={checkpoint}", "--trainer.limit_test_batches=1", *QUIET])
    assert "test/accuracy" in capsys.readouterr().out
    torch.testing.assert_close(tested, dict(saved["state_dict"]), rtol=0, atol=0)


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_recipe_opens_with_what_one_wants_to_know(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    header = text[: text.index("trainer:")]
    assert f"python -m cifar_lit fit --config {path.relative_to(REPOSITORY).as_posix()}" in header
    assert re.search(r"\b(Accuracy|Measured here): ", header)
    recipe = yaml.safe_load(text)
    epochs = recipe["trainer"]["max_epochs"]
    assert f"{epochs} epochs" in header
    teacher = teacher_of(path)
    assert teacher is None or f"python -m cifar_lit fit --config configs/{teacher}.yaml" in header
    # A schedule learns the run's length from the trainer.
    assert not re.search(rf"\b{epochs}\b", str(recipe["model"]["init_args"]["schedule"]))


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_header_states_the_parameters_there_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the optimizer has what its recipe says and nothing else.

    jsonargparse hands an argument's default settings on to whatever class a recipe puts in its place.
    """
    text = path.read_text(encoding="utf-8")
    monkeypatch.setattr(trainer, "summarize", lambda *_: None)  # which runs the network for its table
    model = CifarCLI(["summary", "--config", str(path)]).model
    stated = re.search(r"([\d,]+) parameters", text)
    assert stated is not None
    assert int(stated[1].replace(",", "")) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    said = yaml.safe_load(text)["model"]["init_args"]["optimizer"]
    made = model.optimizer(model.parameter_groups())
    maker = {**vars(torch.optim), **vars(optimizers)}[said["class_path"].rpartition(".")[2]]
    expected = maker(model.parameter_groups(), **said["init_args"])
    assert type(made) is type(expected)
    for group, expected_group in zip(made.param_groups, expected.param_groups, strict=True):
        assert {**group, "params": None} == {**expected_group, "params": None}


@pytest.mark.parametrize("path", [p for p in RECIPES if p.parent.name == "reference"], ids=lambda p: p.stem)
def test_reference_recipes_validate_on_the_test_split(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["init_args"]["val_size"] == 0


# Of the reference recipes: epochs, batch size, optimizer with its settings, and transforms, as published.
RMSPROP = ("RMSprop", {"lr": 3e-3, "alpha": 0.9, "eps": 1e-7, "weight_decay": 2e-4})
CUTOUT = {"num_holes_range": [1, 1], "hole_height_range": [16, 16], "hole_width_range": [16, 16]}
HOLES = {"num_holes_range": [8, 8], "hole_height_range": [4, 4], "hole_width_range": [4, 4]}
FILL = {"fill": [125, 123, 114]}
PUBLISHED: dict[str, tuple[int, int, tuple[str, dict[str, float]], list[tuple[str, dict[str, Any]]]]] = {
    "r1": (
        *(50, 32, RMSPROP),
        [
            (
                "Affine",
                {
                    **{"translate_px": {"x": [-3, 3], "y": [0, 0]}, "scale": {"x": [0.9, 1.1], "y": [0.9, 1.1]}},
                    **{"keep_ratio": False, "rotate": [-10, 10], "border_mode": 1, "p": 1.0},
                },
            ),
            ("HorizontalFlip", {}),
            ("Erasing", {"scale": [0.02, 0.4], "ratio": [0.3, 3.3333], "fill": "random_uniform", "p": 0.1}),
        ],
    ),
    "r2": (
        *(50, 32, RMSPROP),
        [
            ("Affine", {"translate_px": {"x": [-3, 3], "y": [-3, 3]}, "border_mode": 1, "p": 1.0}),
            ("HorizontalFlip", {}),
        ],
    ),
    "r3": (
        *(50, 64, ("SGD", {"lr": 5.5e-3, "momentum": 0.9})),
        [
            ("CoarseDropout", HOLES | FILL),
            ("HorizontalFlip", {}),
            ("Rotate", {"limit": [-10, 10], "border_mode": 4}),
        ],
    ),
    "r4": (
        *(80, 64, ("SGD", {"lr": 0.07, "momentum": 0.9})),
        [
            ("CoarseDropout", CUTOUT | FILL),
            ("HorizontalFlip", {}),
            (
                "Affine",
                {
                    **{"translate_px": {"x": [-1, 1], "y": [-1, 1]}, "scale": [0.9, 1.1], "keep_ratio": True},
                    **{"rotate": [-10, 10], "border_mode": 0, "p": 0.5},
                },
            ),
        ],
    ),
    "r5": (50, 128, ("Adam", {"lr": 0.01, "eps": 1e-7}), []),
    "r5_wide": (50, 128, ("Adam", {"lr": 0.01, "eps": 1e-7}), []),
    "r5_separable": (50, 128, ("Adam", {"lr": 0.03, "eps": 1e-7}), []),
    "r5_plain": (50, 128, ("Adam", {"lr": 1e-3, "eps": 1e-7}), []),
}

# What else is said of the model, but for its schedule (see test_schedules.py), and of the data.
NOTHING_ELSE: dict[str, Any] = {}
KERAS_RESNET = {"depth": 20, "conv_bias": True, "weight_decay_on": "convolutions"}
WHOLE_BATCHES = {"val_size": 0, "normalize": "none", "drop_last": True}
FURTHER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "r1": (KERAS_RESNET, {"val_size": 0, "normalize": "pixel_mean"}),
    "r2": (KERAS_RESNET, {"val_size": 0, "normalize": "pixel_mean"}),
    "r3": ({"initialization": "torch", "l1_penalty": 0.0}, {"val_size": 0}),
    "r4": (NOTHING_ELSE, {"val_size": 0}),
    "r5": (NOTHING_ELSE, WHOLE_BATCHES),
    "r5_wide": (
        {
            "widths": [[32, 64, 128, 256], [32, 64, 128], []],
            "dropout": [[0.05, 0.05, 0.1, 0.1], [0.15, 0.15, 0.1], []],
            "padded_blocks": 2,
            "head": "separable",
        },
        WHOLE_BATCHES,
    ),
    "r5_separable": (
        {
            "widths": [[32, 64], [32, 64], [32]],
            "dropout": [0.05, 0.1, 0.15],
            "padded_blocks": 0,
            "head": "separable_relu",
        },
        WHOLE_BATCHES,
    ),
    "r5_plain": (NOTHING_ELSE, WHOLE_BATCHES),
}


def test_every_reference_recipe_is_as_published() -> None:
    for path in (REPOSITORY / "configs" / "reference").glob("*.yaml"):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        epochs, batch_size, (optimizer, settings), transforms = PUBLISHED[path.stem]
        assert recipe["trainer"] == {"max_epochs": epochs}, path.stem
        assert recipe.keys() == {"trainer", "model", "data"}, path.stem
        model, data = recipe["model"]["init_args"], recipe["data"]["init_args"]
        assert data.pop("batch_size") == batch_size, path.stem
        assert model.pop("optimizer") == {"class_path": optimizer, "init_args": settings}, path.stem
        listed = data.pop("transforms", [])
        del model["schedule"]
        assert (model, data) == FURTHER[path.stem], path.stem
        assert [(one["class_path"], one.get("init_args", {})) for one in listed] == transforms, path.stem
