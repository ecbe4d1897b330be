"""Trains recipes over seeds and writes what each run reached; stopped, it goes on where it was.

    python -m benchmarks.accuracy RECIPE … [--data_root FOLDER] [--seeds 3] [--first_seed 0] [--at_once 1] [--hold_out]
        [FIT OPTIONS]

A recipe is a file of `configs/` without its ending, such as `resnet20` or `reference/r1`. Options that are not its own
go to `fit`. All training images are trained on, nothing is validated in between, and what counts is the last epoch: the
test split chooses nothing. Reference recipes are the exception, as they were for their authors: they validate on the
test split, and their best epoch is noted beside their last one. With `--hold_out` the recipe's own validation images
are held out, and what counts besides is the epoch that they chose.

The teacher of a recipe whose last callback is `Distillation` is trained first, with the same seed, images and options;
a run that was made for itself serves, too.

Runs that are done several at once share the machine: their seconds are not what a run costs, and say so.

A run writes `results/accuracy/<recipe>-<data>-<device>-seed<n>.json`. `python -m benchmarks.accuracy_table` puts these
into the README and into the recipes.
"""

import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.commands import command, run_jobs
from benchmarks.measure import (
    REPOSITORY,
    RESULTS,
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
from benchmarks.recipes import callbacks_of, is_a
from benchmarks.time_to_accuracy import WITHOUT_VALIDATION, accuracies
from cifar_lit.console import hush_libraries
from cifar_lit.files import write_atomically
from cifar_lit.runs import LAST, checkpoints

# Where runs land.
RUNS = Path("lightning_logs", "accuracy")
QUIET = [f"--{panel}.every_n_epochs=0" for panel in ("gradcam", "misclassified", "confusion")]
# Enough that a stop costs little, and seldom enough to cost nothing.
MINUTES = 5


def file_of(recipe: str, repository: Path = REPOSITORY) -> Path:
    """Of a recipe by its name."""
    return repository / "configs" / f"{recipe}.yaml"


def all_settings_of(recipe: str, repository: Path = REPOSITORY) -> dict[str, Any]:
    """The settings that a result is of: the recipe's and, where it has one, its teacher's."""
    file = file_of(recipe, repository)
    settings: dict[str, Any] = {"settings": settings_of(file)}
    teacher = teacher_of(file)
    if teacher is not None:
        of_teacher = all_settings_of(teacher, repository)
        # Those of a teacher that has a teacher of its own are more than a text.
        settings["teacher"] = teacher
        settings["teacher_settings"] = of_teacher if "teacher" in of_teacher else of_teacher["settings"]
    return settings


def teacher_of(file: Path) -> str | None:
    """The recipe whose run teaches that of a file."""
    for callback in callbacks_of(yaml.safe_load(file.read_text(encoding="utf-8"))):
        if is_a(callback, "Distillation"):
            return str(callback["init_args"]["teacher"])
    return None


def train(fit: Sequence[str], folder: Path, asked: dict[str, Any]) -> float:
    """Trains to the end, from where an earlier try was stopped; what is there already is not trained again.

    Args:
        fit: Options for `fit`.
        folder: Of the run, which is one program's at a time: recipes may have the same teacher.
        asked: What makes the run what it is.

    Returns:
        Seconds of all tries together, each as long as it is known to have run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note, clock, begun = (folder / f"{name}.json" for name in ("asked", "seconds", "begun"))
    with FileLock(folder / "lock"):
        saved = checkpoints(LAST, folder)
        if saved and (not note.is_file() or read(note) != asked):
            sys.exit(f"{folder} holds a run with other settings: remove it, or give another folder with --runs.")
        save_atomically(note, asked)
        spent: list[float] = read(clock) if clock.is_file() else []
        if saved and begun.is_file():
            # A try that was stopped; it is known to have run until then.
            spent.append(max(saved[-1].stat().st_mtime - read(begun), 0.0))
        elif saved:
            return sum(spent)
        save_atomically(clock, spent)
        save_atomically(begun, time.time())
        root = f"--trainer.default_root_dir={folder}"
        keep = f"--checkpoint.every_n_minutes={MINUTES}"
        resume = [f"--ckpt_path={saved[-1]}"] if saved else []
        seconds, _ = command("fit", *fit, *QUIET, root, keep, *resume)
        save_atomically(clock, [*spent, seconds])
        begun.unlink()
        return sum(spent) + seconds


def save_atomically(file: Path, content: Any) -> None:
    """Writes JSON, all of it or nothing."""
    write_atomically(file, json.dumps(content) + "\n")


def by_epoch(folder: Path, split: str, chart: str) -> list[float]:
    """What a run logged on a chart, such as ``accuracy`` of ``val``, epoch after epoch."""
    events = EventAccumulator(str(next(folder.rglob(split))), size_guidance={"scalars": 0}).Reload()
    # A resumed run logs a step again.
    by_step = {event.step: event.value for event in events.Scalars(chart)}
    return [by_step[step] for step in sorted(by_step)]


def best_epoch(folder: Path) -> dict[str, Any]:
    """The best validation accuracy of a run, in percent, and its epoch, counted from 1."""
    values = by_epoch(folder, "val", "accuracy")
    best = max(range(len(values)), key=values.__getitem__)
    return {"best_epoch_accuracy": round(100 * values[best], 2), "best_epoch": best + 1, "epochs": len(values)}


def measure(
    recipe: str, seed: int, data_root: str | None, hold_out: bool, further: Sequence[str], runs: Path
) -> dict[str, Any]:
    """Trains and tests one recipe with one seed.

    Returns:
        Seconds, and accuracies in percent.
    """
    is_reference = recipe.startswith("reference/")
    validation = [] if is_reference or hold_out else [*WITHOUT_VALIDATION]
    run = Path(f"{'hold-out-' if hold_out else ''}seed-{seed}")

    def trained(name: str) -> tuple[Path, float]:
        folder, teacher, taught = runs / name.replace("/", "-") / run, teacher_of(file_of(name)), []
        if teacher is not None:
            (last,) = checkpoints(LAST, trained(teacher)[0])
            taught = [f"--trainer.callbacks.teacher={last}"]
        options = [*images_of(data_root), *validation, *taught, *further, f"--seed_everything={seed}"]
        asked = {**all_settings_of(name), "data": kind_of(data_root), "options": list(further)}
        return folder, train([f"--config={file_of(name)}", *options], folder, asked)

    folder, seconds = trained(recipe)
    root = f"--trainer.default_root_dir={folder}"
    # To compile takes longer than to test.
    plain = ["--model.compile_mode=none", *QUIET, root]
    test_seconds, printed = command("test", "--ckpt_path=last", *plain)
    figures: dict[str, Any] = {
        "fit_seconds": round(seconds, 1),
        "test_seconds": round(test_seconds, 1),
        **accuracies(printed),
    }
    if is_reference:
        figures.update(best_epoch(folder))
    if hold_out:
        _, printed = command("test", "--ckpt_path=best", *plain)
        chosen = accuracies(printed)
        figures.update({f"best_by_validation_{name}": value for name, value in chosen.items()})
    return figures


def main(args: Sequence[str] | None = None) -> None:
    """Trains what has no result yet, and writes a result for each run."""
    options = training_parser(__doc__)
    options.add_argument("recipes", type=recipe_name, nargs="+", help="such as resnet20 or reference/r1")
    options.add_argument("--seeds", type=positive, default=3, help="how many")
    options.add_argument("--first_seed", type=int, default=0, help="the others count on from it")
    options.add_argument("--at_once", type=positive, default=1, help="runs that share the machine")
    options.add_argument(
        "--hold_out", action="store_true", help="hold validation images out, and test their choice, too"
    )
    options.add_argument(
        "--runs", type=Path, help=f"where runs land: {RUNS}, or runs in the folder given with --output"
    )
    options.set_defaults(output=RESULTS / "accuracy")
    given, further = options.parse_known_args(args)
    # What is there of the same run would not be trained again.
    anew = given.output.resolve() != (RESULTS / "accuracy").resolve()
    runs_root = given.runs or (given.output / "runs" if anew else RUNS)
    hush_libraries()
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def run(recipe: str, seed: int) -> None:
        kind = f"{kind_of(given.data_root)}-{device}{'-hold-out' if given.hold_out else ''}"
        name = f"{recipe.replace('/', '-')}-{kind}-seed{seed}"
        same = {"recipe": recipe, "seed": seed, "options": list(further), **all_settings_of(recipe)}
        result = given.output / f"{name}.json"
        if result.is_file():
            kept = read(result)
            if {key: kept.get(key) for key in same} == same:
                print(f"{name}: there already (--output FOLDER trains it again, to compare)")
                return
        # Of the code that is run, and of a machine whose speed may be another one hours later.
        before = origin()
        figures = measure(recipe, seed, given.data_root, given.hold_out, further, runs_root)
        print(f"{name}: {figures}", flush=True)
        shared = {"at_once": given.at_once} if given.at_once > 1 else {}
        begun = {"commit": before["commit"], "cpu_tflops_before": before["cpu_tflops"]}
        save(name, {**begun, **same, "data": kind_of(given.data_root), **shared, **figures}, given.output)

    seeds = range(given.first_seed, given.first_seed + given.seeds)
    run_jobs((partial(run, recipe, seed) for seed in seeds for recipe in given.recipes), given.at_once)


if __name__ == "__main__":
    main()
