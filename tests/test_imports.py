"""Which room may look into which, and that nobody looks out of the house."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cifar_lit"
# Rooms that every room may use: they import none of the others.
FOUNDATIONS = {
    "errors",
    "console",
    "runs",
    "checkpoint_content",
    "precision",
    "identity",
    "files",
    "monitor",
    "plain",
    "classes",
    "parser_reports",
    "near_names",
}
MAY_IMPORT = {
    "errors": set(),
    "classes": {"console", "errors"},
    "console": {"errors", "parser_reports"},
    "parser_reports": {"errors", "near_names"},
    "near_names": set(),
    "checkpoint_content": {"errors", "monitor"},
    "best_checkpoints": {"checkpoint_content", "errors"},
    "runs": {"best_checkpoints", "checkpoint_content", "errors", "console", "files"},
    "precision": set(),
    "identity": {"errors", "console"},
    "files": {"errors"},
    "monitor": {"errors"},
    "plain": set(),
    "ranks": set(),
    "schedules": {"errors", "monitor"},
    "logger": {"errors", "files", "runs"},
    "scores": set(),
    "hooks": set(),
    "compiling": {"errors"},
    "views": set(),
    "parameter_kinds": set(),
    "newton_schulz": {"precision"},
    "optimizers": {"errors", "newton_schulz", "parameter_kinds"},
    "weight_decay": {"errors", "parameter_kinds"},
    "scheduling": {"errors", "monitor", "stepping"},
    "stepping": {"errors", "ranks"},
    "resumed_settings": {"plain", "schedules"},
    "resuming": {"console", "errors", "hooks", "monitor", "ranks", "resumed_settings", "scores", "stepping"},
    "classifier": {
        "classes",
        "compiling",
        "errors",
        "optimizers",
        "plain",
        "ranks",
        "resuming",
        "scheduling",
        "scores",
        "stepping",
        "views",
        "weight_decay",
    },
    "models": {"classifier", *FOUNDATIONS},
    "data": FOUNDATIONS,
    "explain": {"errors"},
    "callbacks": {"classifier", "explain", "logger", "ranks", "stepping", *FOUNDATIONS},
    "commands": {"explain", "logger", *FOUNDATIONS},
    "trainer": {"commands", "data", *FOUNDATIONS},
    "checkpoint_io": {"errors", "files"},
    "allocator": set(),
    "spared_imports": set(),
    "parsing": {"errors"},
    "cli": {
        "parsing",
        "trainer",
        "allocator",
        "checkpoint_io",
        "ranks",
        "commands",
        "callbacks",
        "models",
        "data",
        "optimizers",
        "schedules",
        "logger",
        "hooks",
        *FOUNDATIONS,
    },
    "__main__": {"cli", "spared_imports"},
    "__init__": set(),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_imported(path: Path) -> set[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room is meant"
            names.append(node.module or "")
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("cifar_lit.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    here = room(path)
    assert rooms_imported(path) - {here} <= MAY_IMPORT[here]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_grows_past_two_rooms(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250


def test_importing_and_a_run_at_hand_contact_nobody(tmp_path: Path) -> None:
    script = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise AssertionError(f'contacted {args}')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
        "from cifar_lit.cli import main\n"
        "main(['fit', '--model=ResNetV1', '--model.depth=8', '--data=DigitsDataModule', '--trainer.max_steps=1',\n"
        "      '--trainer.limit_val_batches=1', '--trainer.accelerator=cpu'])\n"
        "import os; assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "contacted" not in done.stderr
