"""Seconds from a command to its first training step, and to the table of each recipe's layers.

    python -m benchmarks.start_up [--images FOLDER] [--rounds 3]

CIFAR-10 is read from disk in its published layout; where only an image folder is at hand, that layout is made of it.
"""

import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback, Trainer

from benchmarks.commands import command
from benchmarks.measure import REPOSITORY, images_parser, positive, save
from cifar_lit.data import ImageFolderDataModule
from cifar_lit.data.images import Images

CONFIGS = REPOSITORY / "configs"
DEEPEST = "ResNet-1001 v2"
BEGUN = "CIFAR_LIT_BENCHMARK_BEGUN"
SAID = "first step after"


class FirstStep(Callback):
    """Says how long the first training step took to come, and ends the run."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Behind the first step."""
        print(f"{SAID} {time.time() - float(os.environ[BEGUN]):.2f} s", flush=True)
        os._exit(0)


def first_step(*arguments: str) -> float:
    """Seconds from a command of the command line to its first training step."""
    os.environ[BEGUN] = str(time.time())
    _, printed = command("fit", *arguments, "--trainer.callbacks+=benchmarks.start_up.FirstStep")
    return float(printed.split(SAID)[1].split()[0])


def write_batches(images: Images, folder: Path, names: list[str]) -> None:
    """Writes images as CIFAR-10's batches: rows of a red, a green and a blue plane."""
    rows = images.pixels.transpose(0, 3, 1, 2).reshape(len(images), -1)
    shuffled = np.random.default_rng(0).permutation(len(images))
    for name, part in zip(names, np.array_split(shuffled, len(names)), strict=True):
        batch = {b"data": rows[part], b"labels": images.labels[part].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=4))


def main(args: Sequence[str] | None = None) -> None:
    """Measures and writes ``results/start_up.json``."""
    options = images_parser(__doc__)
    options.add_argument("--rounds", type=positive, default=3)
    given = options.parse_args(args)
    with tempfile.TemporaryDirectory() as name:
        batches = Path(name, "cifar-10-batches-py")
        batches.mkdir()
        data = ImageFolderDataModule(given.images)
        write_batches(data.load("train"), batches, [f"data_batch_{i}" for i in range(1, 6)])
        write_batches(data.load("test"), batches, ["test_batch"])
        fit = [f"--config={CONFIGS / 'resnet20.yaml'}", f"--data.root={name}", "--trainer.logger=false"]
        first_steps = [first_step(*fit) for _ in range(given.rounds)]
    print("first training step:", first_steps)
    recipes = {str(path.relative_to(CONFIGS)): [str(path)] for path in sorted(CONFIGS.rglob("*.yaml"))}
    deepest = {DEEPEST: [str(CONFIGS / "resnet110_v2.yaml"), "--model.depth=1001"]}
    summaries: dict[str, float] = {}
    for label, arguments in {**recipes, **deepest}.items():
        runs = [command("summary", "--config", *arguments)[0] for _ in range(given.rounds)]
        summaries[label] = round(statistics.median(runs), 2)
        print(f"summary {label}: {summaries[label]} s", flush=True)
    save(
        "start_up",
        {
            "what": "seconds, medians",
            "first_training_step": round(statistics.median(first_steps), 2),
            "summary": summaries,
            "slowest_summary_of_a_recipe": max(s for label, s in summaries.items() if label != DEEPEST),
        },
        given.output,
    )


if __name__ == "__main__":
    main()
