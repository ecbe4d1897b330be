"""The first epochs of the reference recipes, to be laid beside the published logs.

    python -m benchmarks.reference_epochs --data_root FOLDER [--epochs 2] [--at_once 1] [RECIPE …]

A recipe is a name such as r1; without one all are run. What is there, of as many epochs of the same recipe, is not run
again. `python -m benchmarks.accuracy_table` puts the figures into the recipes' headers.
"""

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.accuracy import QUIET, by_epoch
from benchmarks.commands import ADDING, command, run_jobs
from benchmarks.measure import (
    REPOSITORY,
    images_of,
    kind_of,
    origin,
    positive,
    read,
    save,
    settings_of,
    training_parser,
)
from cifar_lit.console import hush_libraries

CONFIGS = REPOSITORY / "configs" / "reference"
NAME = "reference_epochs"


def figures(folder: Path) -> dict[str, list[float]]:
    """Loss, and accuracy as a share, on training and validation images of each epoch of the run in a folder."""
    return {
        f"{split}_{chart}": [round(value, 4) for value in by_epoch(folder, split, chart)]
        for split in ("train", "val")
        for chart in ("loss", "accuracy")
    }


def main(args: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and writes ``results/reference_epochs.json`` after each."""
    options = training_parser(__doc__)
    options.add_argument("recipes", nargs="*", metavar="RECIPE")
    options.add_argument("--epochs", type=positive, default=2)
    options.add_argument("--at_once", type=positive, default=1, help="runs that share the cores")
    given, further = options.parse_known_args(args)
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    if unknown := [recipe for recipe in given.recipes if recipe not in known]:
        options.error(f"there is no {unknown[0]} in configs/reference/, but {', '.join(known)}")
    hush_libraries()
    file = given.output / f"{NAME}.json"
    found: dict[str, Any] = read(file)["recipes"] if file.is_file() else {}

    def run(recipe: str) -> None:
        path = CONFIGS / f"{recipe}.yaml"
        same = {"settings": settings_of(path), "data": kind_of(given.data_root), "options": list(further)}
        kept = found.get(recipe, {})
        if {key: kept.get(key) for key in same} == same and len(kept["train_loss"]) == given.epochs:
            print(f"{recipe}: there already")
            return
        if kept.get("data", same["data"]) != same["data"]:
            sys.exit(f"{file} holds figures of {kept['data']} images: give another folder with --output.")
        with tempfile.TemporaryDirectory() as folder:
            place = [f"--trainer.default_root_dir={folder}", f"--trainer.max_epochs={given.epochs}"]
            command("fit", f"--config={path}", *images_of(given.data_root), *QUIET, *place, *further)
            new = {**figures(Path(folder)), **same, **origin()}
        what = "loss and accuracy of each of the first epochs of the reference recipes"
        with ADDING:
            found[recipe] = new
            print(recipe, new, flush=True)
            save(NAME, {"what": what, "recipes": dict(sorted(found.items()))}, given.output)

    run_jobs((partial(run, recipe) for recipe in given.recipes or known), given.at_once)


if __name__ == "__main__":
    main()
