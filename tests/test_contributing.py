"""CONTRIBUTING.md's example, followed word for word as the package of a user would."""

import json
import re
import shlex
from pathlib import Path

import pytest

from cifar_lit.cli import main

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_an_architecture_is_one_file_and_one_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code, (recipe,) = blocks("python")[0], blocks("yaml")
    Path("patchnet.py").write_text(code, encoding="utf-8")
    Path("patchnet.yaml").write_text(recipe, encoding="utf-8")
    commands = [shlex.split(line) for line in blocks("bash")[0].splitlines()]
    assert [command[:4] for command in commands] == [["python", "-m", "cifar_lit", c] for c in ("summary", "fit")]
    main(commands[0][3:])
    assert "depthwise Conv2d" in capsys.readouterr().out
    main([*commands[1][3:], "--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--trainer.accelerator=cpu"])
    main(["test", "--trainer.limit_test_batches=1"])
    assert "test/accuracy" in capsys.readouterr().out


def test_a_data_set_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    _, code = blocks("python")
    Path("stripes.py").write_text(code, encoding="utf-8")
    Path("configs").symlink_to(PAGE.parent / "configs")
    fit, explain = (shlex.split(line)[3:] for line in blocks("bash")[1].splitlines())
    main([*fit, "--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--gradcam.every_n_epochs=0"])
    main([*explain, "--limit=2"])
    (metrics,) = Path("lightning_logs").rglob("explain/metrics.json")
    # By chance half would be right.
    assert json.loads(metrics.read_text(encoding="utf-8"))["accuracy"] > 0.9


def test_each_example_fits_on_a_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    examples = page[: page.index("## Check a change")].split("## Add a data set")
    assert len(examples) == 2
    assert all(len(example.splitlines()) <= 70 for example in examples)
