"""CONTRIBUTING.md's example, followed word for word as the package of a user would."""

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
    (code,), (recipe,) = blocks("python"), blocks("yaml")
    Path("patchnet.py").write_text(code, encoding="utf-8")
    Path("patchnet.yaml").write_text(recipe, encoding="utf-8")
    commands = [shlex.split(line) for line in blocks("bash")[0].splitlines()]
    assert [command[:4] for command in commands] == [["python", "-m", "cifar_lit", c] for c in ("summary", "fit")]
    main(commands[0][3:])
    assert "depthwise Conv2d" in capsys.readouterr().out
    main([*commands[1][3:], "--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--trainer.accelerator=cpu"])
    main(["test", "--trainer.limit_test_batches=1"])
    assert "test/accuracy" in capsys.readouterr().out


def test_the_example_fits_on_a_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert len(page[: page.index("## Check a change")].splitlines()) <= 70
