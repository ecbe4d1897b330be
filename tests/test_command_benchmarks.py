"""Benchmarks of whole commands, at a tiny size: that they measure what they say, and write where they are told."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from forks import command

from benchmarks import explain, panels, quickstart, start_up
from benchmarks.measure import REPOSITORY, run
from cifar_lit.data import CIFAR10DataModule, ImageFolderDataModule

TEN = tuple("abcdefghij")
ON_A_CPU = "--trainer.accelerator=cpu"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs land there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


def result(folder: Path, name: str) -> dict[str, Any]:
    (file,) = folder.iterdir()
    assert file.name == f"{name}.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


@pytest.mark.slow
def test_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short, fits, asked = tmp_path / "short.yaml", [], list[str]()
    settings = yaml.safe_load(quickstart.CONFIG.read_text(encoding="utf-8"))
    settings["trainer"] |= {"max_epochs": 2, "limit_train_batches": 4, "accelerator": "cpu"}
    short.write_text(yaml.safe_dump(settings), encoding="utf-8")

    def noted(*arguments: str) -> tuple[float, str]:
        seconds, printed = command(*arguments)
        asked.extend(arguments)
        fits.extend([(seconds, printed)] if arguments[0] == "fit" else [])
        return seconds, printed

    monkeypatch.setattr(quickstart, "CONFIG", short)
    monkeypatch.setattr(quickstart, "command", noted)
    quickstart.main(["--seeds=2", f"--output={tmp_path / 'results'}"])
    found = result(tmp_path / "results", "quickstart")
    assert found["seconds"] == [round(seconds, 1) for seconds, _ in fits]
    # Of the last epoch, and of another seed each.
    assert all(
        f"accuracy {accuracy:.2f}%" in fit for accuracy, (_, fit) in zip(found["val_accuracy"], fits, strict=True)
    )
    assert [seed for seed in asked if seed.startswith("--seed")] == ["--seed_everything=0", "--seed_everything=1"]
    assert found["mean_test_accuracy"] == pytest.approx(sum(found["test_accuracy"]) / 2, abs=0.01)


@pytest.mark.slow
def test_start_up(
    tmp_path: Path,
    image_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configs = tmp_path / "configs"
    configs.mkdir()
    for recipe in ("resnet20", "resnet110_v2"):
        shutil.copy(REPOSITORY / "configs" / f"{recipe}.yaml", configs)
    asked: list[Sequence[str]] = []

    def tiny(*arguments: str) -> tuple[float, str]:
        asked.append(arguments)
        if arguments[0] == "fit":
            return command(*arguments, ON_A_CPU, "--data.batch_size=4", "--data.val_size=0.5")
        return (9.0 if "--model.depth=1001" in arguments else float(len(asked))), ""

    monkeypatch.setattr(start_up, "CONFIGS", configs)
    monkeypatch.setattr(start_up, "command", tiny)
    images = image_folder(TEN, train=4, test=2)
    start_up.main([f"--images={images}", "--rounds=1", f"--output={tmp_path / 'results'}"])
    found = result(tmp_path / "results", "start_up")
    # A process that is there already starts sooner than one that imports everything.
    assert 0 < found["first_training_step"] < 60
    assert found["summary"] == {"resnet110_v2.yaml": 2.0, "resnet20.yaml": 3.0, start_up.DEEPEST: 9.0}
    assert found["slowest_summary_of_a_recipe"] == 3.0


def test_batches_of_the_published_layout_are_the_folders_images(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    images = ImageFolderDataModule(str(image_folder(TEN, train=2, test=1)))
    layout = tmp_path / CIFAR10DataModule.ARCHIVE.folder
    layout.mkdir()
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    for split in splits:
        start_up.write_batches(images.load(split), layout, list(CIFAR10DataModule.FILES[split]))
    for split in splits:
        read, written = CIFAR10DataModule(str(tmp_path)).load(split), images.load(split)
        pairs = [
            {(label, pixels.tobytes()) for label, pixels in zip(of.labels.tolist(), of.pixels, strict=True)}
            for of in (read, written)
        ]
        assert pairs[0] == pairs[1]
        assert len(pairs[0]) == len(read) == len(written)


@pytest.mark.slow
def test_panels_are_timed_with_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "EPOCHS", 2)
    runs = []

    def noted(*arguments: str) -> Any:
        cli, clock = run(*arguments)
        runs.append((cli, clock))
        return cli, clock

    monkeypatch.setattr(panels, "run", noted)
    options = ["--data=benchmarks.measure.NoiseDataModule", "--data.images=60", "--data.val_size=10", ON_A_CPU]
    seconds, an_image = panels.fit([*options, *panels.OFF, "--trainer.limit_train_batches=1"])
    ((cli, clock),) = runs
    assert len(seconds) == 1
    assert 0 < seconds[0] < clock.fit
    assert an_image == clock.epochs[1] / clock.images[1]
    assert not any(tmp_path.iterdir())
    callbacks: list[Any] = cli.trainer.callbacks  # type: ignore[attr-defined]
    assert [getattr(callback, "every_n_epochs", None) for callback in callbacks].count(0) == 3


def test_what_panels_cost_is_told_for_a_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # Epochs 2 to 10: the 5th and the 10th draw, and the first drawing finds fonts.
    drawn = [1.1, 1.1, 1.1, 4.0, 1.1, 1.1, 1.1, 1.1, 3.0]
    runs = {True: (drawn, 0.001), False: ([1.0] * 9, 0.001)}
    monkeypatch.setattr(panels, "fit", lambda arguments: runs[panels.OFF[0] not in arguments])
    found = panels.measure([], 2)
    assert (found["first_drawing"], found["later_drawing"], found["epoch_without_drawing"]) == (3.0, 2.0, 0.1)
    assert found["epoch"] == 46.0
    # 3 s once, 2 s nine times, a tenth in each other of 50 epochs of 46 s.
    assert found["percent_of_the_run"] == pytest.approx(100 * (3 + 9 * 2 + 40 * 0.1) / (50 * 46), abs=0.001)


@pytest.mark.slow
def test_explain(tmp_path: Path, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    images, asked = image_folder(train=6, test=4), []

    def noted(*arguments: str) -> tuple[float, float]:
        asked.append(arguments[0])
        seconds, _ = command(*arguments, ON_A_CPU, "--data.val_size=2", "--data.batch_size=4")
        return seconds, 0.5 * len(asked)

    monkeypatch.setattr(explain, "command", noted)
    explain.main([f"--images={images}", "--rounds=2", f"--output={tmp_path / 'results'}"])
    found = result(tmp_path / "results", "explain")
    assert asked == ["fit", "explain", "explain"]
    # The most of them.
    assert found["peak_memory_gb"] == 1.5
    assert found["images"] == 8
    assert found["errors"] == round((1 - found["accuracy"]) * 8)
    assert 0.01 < found["report_megabytes"] < 2


@pytest.mark.slow
def test_a_commands_memory_is_its_peak(capfd: pytest.CaptureFixture[str]) -> None:
    held = bytearray(2**30)  # of this process, and not of the command
    seconds, gigabytes = explain.command("--version")
    assert 0 < seconds < 60
    # What is imported alone takes more than the interpreter.
    assert 0.1 < gigabytes < len(held) / 2**30
    with pytest.raises(RuntimeError, match="no-such ended with status 1"):
        explain.command("no-such")
