"""Tries options of a recipe in short runs on its held-out images, and keeps a record of what each gave.

    python -m benchmarks.tuning RECIPE [--data_root FOLDER] [--epochs 10] [--at_once 1] --options "" "--model.X=…" …

A try is a string of options for `fit`; the empty one is the recipe as it is. Every try has the same seed, trains on
what the recipe does not hold out, and is judged by the held-out images after its last epoch: the test split has no say.
Tries are added to ``results/tuning-<recipe>.json``; one that is there, at the same number of epochs, of the same recipe
and images, is not run again. A recipe with a teacher wants `--trainer.callbacks.teacher=FILE` in every try: that of a
teacher that was not trained on the held-out images either.
"""

import argparse
import shlex
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.accuracy import QUIET, by_epoch, file_of
from benchmarks.commands import ADDING, command, run_jobs
from benchmarks.measure import (
    images_of,
    kind_of,
    origin,
    positive,
    read,
    recipe_name,
    save,
    settings_of,
    training_parser,
)
from cifar_lit.console import hush_libraries

SEED = 0


def attempt(recipe: str, options: str, epochs: int, data_root: str | None) -> dict[str, Any]:
    """Trains one try.

    Returns:
        Its options, the optimizer with all its settings and, of the last epoch, loss and accuracy (in percent) on
        training and held-out images.
    """
    with tempfile.TemporaryDirectory() as folder:
        seconds, _ = command(
            "fit",
            f"--config={file_of(recipe)}",
            *images_of(data_root),
            f"--seed_everything={SEED}",
            f"--trainer.max_epochs={epochs}",
            f"--trainer.default_root_dir={folder}",
            *QUIET,
            *shlex.split(options),
        )
        figures: dict[str, Any] = {"options": options or "none", "epochs": epochs, "seconds": round(seconds)}
        # With what the options leave to defaults, which may change.
        run = yaml.safe_load(next(Path(folder).rglob("config.yaml")).read_text(encoding="utf-8"))
        figures["optimizer"] = run["model"]["init_args"]["optimizer"]
        for split in ("train", "val"):
            figures[f"{split}_loss"] = round(by_epoch(Path(folder), split, "loss")[-1], 3)
            figures[f"{split}_accuracy"] = round(100 * by_epoch(Path(folder), split, "accuracy")[-1], 2)
    return figures


def main(args: Sequence[str] | None = None) -> None:
    """Runs the tries that are not there yet, and writes the record after each."""
    options = training_parser(__doc__)
    options.add_argument("recipe", type=recipe_name, help="such as resnet20")
    options.add_argument("--epochs", type=positive, default=10)
    options.add_argument("--at_once", type=positive, default=1, help="tries that share the cores")
    # The rest of the line: argparse would take a string that begins with -- for an option of its own.
    options.add_argument("--options", nargs=argparse.REMAINDER, required=True, help="one string a try, at the end")
    given = options.parse_args(args)
    hush_libraries()
    recipe = settings_of(file_of(given.recipe))
    name = f"tuning-{given.recipe.replace('/', '-')}"
    record = given.output / f"{name}.json"
    tries: list[dict[str, Any]] = read(record)["tries"] if record.is_file() else []

    def run(try_options: str) -> None:
        figures = attempt(given.recipe, try_options, given.epochs, given.data_root)
        what = "tries on the held-out training images after the last epoch, one seed"
        with ADDING:
            tries.append({**figures, **origin(), "recipe": recipe, "data": images})
            print(figures, flush=True)
            save(name, {"what": what, "tries": tries}, given.output)

    images = kind_of(given.data_root)
    known = {(one["options"], one.get("epochs"), one.get("recipe"), one.get("data")) for one in tries}
    new = [one for one in given.options if (one or "none", given.epochs, recipe, images) not in known]
    run_jobs((partial(run, one) for one in new), given.at_once)


if __name__ == "__main__":
    main()
