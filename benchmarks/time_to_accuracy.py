"""Seconds of the whole commands that train and test a recipe, and the accuracy that they end in, over seeds.

    python -m benchmarks.time_to_accuracy [--config configs/speed.yaml] [--data_root FOLDER] [--seeds 5] [FIT OPTIONS]

Options that are not its own go to `fit`, such as `--trainer.max_epochs=10`. All training images are trained on, and
nothing is validated in between: what is reported is the last epoch, and the test split chooses nothing. A seed that
was run before with the same recipe and options is not run again.
"""

import json
import re
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.commands import command, run_jobs
from benchmarks.measure import (
    REPOSITORY,
    commit,
    images_of,
    kind_of,
    on_this,
    positive,
    read,
    save,
    settings_of,
    training_parser,
)
from cifar_lit.console import hush_libraries
from cifar_lit.precision import choose_precision

# Of a run that is trained to its end and then tested once.
WITHOUT_VALIDATION = ("--data.val_size=0", "--trainer.limit_val_batches=0")
# A line of the table that `test` prints; its frame depends on what is installed.
METRIC = re.compile(r"test/(\w+)\W+(\d+\.\d+(?:e-\d+)?)")


def accuracies(printed: str) -> dict[str, float]:
    """The accuracies in what `test` printed, in percent, by name, such as ``accuracy_flip``."""
    found = {name: float(value) for name, value in METRIC.findall(printed)}
    return {name: round(100 * value, 2) for name, value in found.items() if name.startswith("accuracy")}


def train_and_test(fit: Sequence[str], seed: int, folder: Path) -> dict[str, Any]:
    """Runs both commands with a seed.

    Args:
        fit: Options for `fit`.
        seed: For everything that is random.
        folder: For the run.

    Returns:
        Their seconds, and accuracies in percent.
    """
    root = f"--trainer.default_root_dir={folder}"
    fit_seconds, _ = command("fit", *fit, f"--seed_everything={seed}", root)
    test_seconds, printed = command("test", "--ckpt_path=last", root)
    return {"fit_seconds": round(fit_seconds, 1), "test_seconds": round(test_seconds, 1), **accuracies(printed)}


def once(fit: Sequence[str], recipe: Path, seed: int, folder: Path) -> dict[str, Any]:
    """The figures of a seed, with the commit that they are of: from an earlier run of the same, or from a new one."""
    same = {"fit": list(fit), "recipe": settings_of(recipe)}
    file = folder / f"seed-{seed}.json"
    if file.is_file():
        kept = read(file)
        if {key: kept[key] for key in same} == same:
            return dict(kept["figures"])
    figures = {**train_and_test(fit, seed, folder / f"seed-{seed}"), "commit": commit()}
    file.write_text(json.dumps({**same, "figures": figures}, indent=2) + "\n", encoding="utf-8")
    return figures


def main(args: Sequence[str] | None = None) -> None:
    """Measures and writes ``results/time_to_accuracy-<recipe>-<device>.json``."""
    options = training_parser(__doc__)
    options.add_argument("--config", type=Path, default=REPOSITORY / "configs" / "speed.yaml")
    options.add_argument("--seeds", type=positive, default=5)
    options.add_argument(
        "--runs", type=Path, default=Path("lightning_logs", "time_to_accuracy"), help="where runs land"
    )
    given, further = options.parse_known_args(args)
    if not given.config.is_file():
        options.error(f"there is no file {given.config}")
    hush_libraries()
    fit = [f"--config={given.config}", *images_of(given.data_root), *WITHOUT_VALIDATION, *further]
    folder = given.runs / given.config.stem
    folder.mkdir(parents=True, exist_ok=True)
    by_seed = list[dict[str, Any]]()

    def run(seed: int) -> None:
        by_seed.append(once(fit, given.config, seed, folder))
        print(f"seed {seed}: {by_seed[-1]}", flush=True)

    run_jobs(partial(run, seed) for seed in range(given.seeds))
    figures = {name: [seeds_own[name] for seeds_own in by_seed] for name in by_seed[0]}
    figures["commits"] = figures.pop("commit")
    save(
        # With options of its own it is something else.
        on_this(f"time_to_accuracy-{given.config.stem}", choose_precision("auto")[0]) + ("-other" if further else ""),
        {
            "what": "by seed: whole commands in seconds; accuracy on the test split after the last epoch, in percent",
            "recipe": given.config.stem,
            "settings": settings_of(given.config),
            "options": further,
            "data": kind_of(given.data_root),
            "seeds": list(range(given.seeds)),
            **figures,
            "median_fit_seconds": statistics.median(figures["fit_seconds"]),
            **{f"mean_{name}": round(statistics.mean(figures[name]), 2) for name in figures if "accuracy" in name},
        },
        given.output,
    )


if __name__ == "__main__":
    main()
