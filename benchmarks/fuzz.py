"""Gives the command line settings that nobody would, and looks whether each ends in a run or in one line.

    python -m benchmarks.fuzz [--tries 300] [--seed 0]

Every try changes one to three settings of a tiny run: on the command line or in a YAML file, known options with values
of other types, ranges and encodings, unknown ones, wrong classes, YAML that is none, and bytes in the place of files. A
try fails if it ends in a traceback, in more than one line, without saying anything, or after more than 10 seconds of
a refusal.
"""

import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import parser, positive, save
from cifar_lit.cli import main as command_line
from cifar_lit.console import hush_libraries

BASE: dict[str, Any] = {
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": 1,
    "trainer.limit_val_batches": 1,
    "trainer.precision": "32-true",
    "model": "DepthwiseNet",
    "model.widths": [[4], [4]],
    "model.dropout": [0, 0],
    "data": "DigitsDataModule",
    "data.batch_size": 8,
}
VALUES: tuple[Any, ...] = (
    *(-1, 0, 1, 2, 3, 7, 10**6, 2**31, 2**63, 2**64, -(2**70), 0.0, 0.5, -0.1, 1.5, 1e-300, 1e300, 1e999, -1e999),
    *("", " ", "nan", "none", "null", "None", "true", "False", "best", "last", "auto", "max", "16", "bf16", "0x10"),
    *(
        "é",
        "日本",
        "\u202e",
        "🙂",
        "a b",
        "a=b",
        "--x",
        "-1",
        "~",
        "/",
        "..",
        "/dev/null",
        "/proc/self/mem",
        "%s",
        "{}",
    ),
    *([], {}, [[]], [1], [0, 0], [[1, 2], [3]], {"a": 1}, [None], None, True, False, ["x"] * 50, "x" * 5000),
    *({"class_path": "os.system", "init_args": {"command": "touch owned"}}, {"class_path": 3}, {"init_args": {}}),
    *({"class_path": "torch.optim.SGD"}, {"class_path": "SGD", "init_args": {"lr": "fast"}}, "builtins.eval"),
    *({"class_path": "ResNetV1", "init_args": {"depth": 7}}, "subprocess.Popen", "torch.nn.Linear", "no.such.Thing"),
)
OPTIONS = (
    *("seed_everything", "ckpt_path", "trainer.max_epochs", "trainer.max_steps", "trainer.limit_train_batches"),
    *("trainer.limit_val_batches", "trainer.precision", "trainer.devices", "trainer.strategy", "trainer.accelerator"),
    *("trainer.num_nodes", "trainer.log_every_n_steps", "trainer.val_check_interval", "trainer.gradient_clip_val"),
    *("trainer.check_val_every_n_epoch", "trainer.accumulate_grad_batches", "trainer.default_root_dir"),
    *("trainer.callbacks", "trainer.logger", "trainer.benchmark", "trainer.deterministic", "trainer.overfit_batches"),
    *("model", "model.widths", "model.dropout", "model.optimizer", "model.optimizer.lr", "model.schedule"),
    *("model.label_smoothing", "model.weight_decay_on", "model.tta", "model.compile_mode", "model.num_classes"),
    *("data", "data.batch_size", "data.val_size", "data.num_workers", "data.executor", "data.transforms", "data.seed"),
    *("data.normalize", "data.drop_last", "data.split_seed", "data.root", "data.image_size"),
    *("checkpoint.every_n_minutes", "checkpoint.monitor", "checkpoint.save_top_k", "checkpoint.mode"),
    *("gradcam.every_n_epochs", "gradcam.groups", "gradcam.method", "misclassified.groups", "confusion.every_n_epochs"),
    *("finite_loss.stop", "config", "trainer", "nonsense", "trainer.nonsense", "model.nonsense", "data.nonsense"),
)
# Settings that start further processes, each of which would begin to fuzz: one process it stays.
PROCESSES = ("trainer.devices", "trainer.num_nodes")
# Values that ask for what would take long and is allowed: a user who wants 10 million epochs shall have them.
LONG = re.compile(r"max_epochs|max_steps|devices|num_nodes|num_workers|compile_mode|image_size|widths")
PLENTY = 1000
PATIENCE = 10.0


def draw_settings(draw: random.Random) -> dict[str, Any]:
    """The tiny run with one to three settings changed."""
    settings = dict(BASE)
    for option in draw.sample(OPTIONS, draw.randint(1, 3)):
        value = draw.choice(VALUES)
        if LONG.search(option) and isinstance(value, (int, float)) and value > 2:
            value = 2
        if option in PROCESSES and str(value).strip() in {"2", "3", "7", "16", "0x10", "1000000", "max"}:
            value = 1
        if option == "data.batch_size" and isinstance(value, int) and value > PLENTY:
            value = PLENTY
        settings[option] = value
    return settings


def as_arguments(settings: dict[str, Any]) -> list[str]:
    """On the command line."""

    def text(value: Any) -> str:
        # YAML ends a lone scalar with a line of its own.
        return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).partition("\n")[0]

    return [f"--{name}={text(value)}" for name, value in settings.items()]


def as_file(settings: dict[str, Any], draw: random.Random, path: Path) -> list[str]:
    """In a YAML file, which may be damaged."""
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        group, _, rest = name.partition(".")
        if group in ("model", "data"):
            place = nested.setdefault(group, {"init_args": {}})
            if not rest:
                place["class_path"] = value
            elif isinstance(place["init_args"], dict):
                place["init_args"][rest] = value
        elif rest and isinstance(nested.setdefault(group, {}), dict):
            nested[group][rest] = value
        else:
            nested[name] = value
    content = yaml.safe_dump(nested, allow_unicode=True).encode()
    if draw.random() < 0.2:
        place = draw.randrange(len(content))
        content = (
            content[:place]
            + draw.choice([b"", b":", b"\x00", b"\xff", b"\t", b"- [", b"&a *a"])
            + content[place + draw.randint(0, 3) :]
        )
    path.write_bytes(content)
    return ["--config", str(path)]


def attempt(arguments: list[str]) -> tuple[str, str]:
    """How a command line ended, as ``run``, ``line`` or what was wrong, and what it said."""
    out, errors = StringIO(), StringIO()
    begun = time.monotonic()
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            command_line(arguments)
    except SystemExit as end:
        said = str(end.code)
        if "Traceback" in errors.getvalue():
            return "traceback printed", errors.getvalue()[-800:]
        if end.code in (0, None):
            return "run", ""
        if not said.startswith("cifar-lit: ") or "\n" in said or len(said) < len("cifar-lit: 0123456789"):
            return "no line", said[:800]
        if time.monotonic() - begun > PATIENCE:
            return "slow refusal", said[:800]
        # A line that had to name the place in the code was not foreseen; it counts as one, and is told apart.
        return ("line" if "CIFAR_LIT_TRACEBACK=1 shows the whole" not in said else "unforeseen line"), said[:800]
    except BaseException as error:
        return "exception", f"{type(error).__name__}: {error}"[:800]
    return "run", ""


def main(args: Sequence[str] | None = None) -> None:
    """Tries, and writes ``results/fuzz.json``."""
    options = parser(__doc__)
    options.add_argument("--tries", type=positive, default=300)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args(args)
    hush_libraries()
    output = given.output.resolve()
    draw = random.Random(given.seed)
    ends: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    unforeseen: list[dict[str, Any]] = []
    before = Path.cwd()
    for number in range(given.tries):
        folder = Path(tempfile.mkdtemp())
        os.chdir(folder)
        try:
            settings = draw_settings(draw)
            in_file = draw.random() < 0.4
            arguments = as_file(settings, draw, Path("fuzzed.yaml")) if in_file else as_arguments(settings)
            end, said = attempt(["fit", *arguments])
            owned = Path("owned").exists()
        finally:
            os.chdir(before)
            shutil.rmtree(folder, ignore_errors=True)
        ends["executed" if owned else end] += 1
        changed = {name: value for name, value in settings.items() if BASE.get(name, ...) != value}
        if owned or end not in ("run", "line", "unforeseen line"):
            failures.append(
                {"try": number, "changed": repr(changed)[:500], "in_file": in_file, "end": end, "said": said}
            )
            print(failures[-1], flush=True)
        elif end == "unforeseen line":
            unforeseen.append({"try": number, "changed": repr(changed)[:300], "said": said})
    print(dict(ends))
    save(
        "fuzz",
        {
            "what": "ends of runs with random settings",
            "ends": dict(ends),
            "failures": failures,
            "unforeseen": unforeseen,
        },
        output,
    )
    if failures:
        sys.exit(f"{len(failures)} of {given.tries} tries ended in more than a line.")


if __name__ == "__main__":
    main()
