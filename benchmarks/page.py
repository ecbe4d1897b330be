"""What the page of `explain` says of a run of `benchmarks.accuracy`: its figures, as a result.

    python -m benchmarks.page RECIPE [--seed 0] [--runs lightning_logs/accuracy]

The page itself, ``report.html``, shows images; it stays in the run's folder, which the command names.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy import RUNS
from benchmarks.commands import command
from benchmarks.measure import parser, read, recipe_name, save
from cifar_lit.console import hush_libraries

# Of the rest, paths are this machine's.
PROVENANCE = ("seed", "epoch", "commit", "trained with", "test data SHA-256")


def figures(metrics: dict[str, Any], recipe: str) -> dict[str, Any]:
    """The content of a ``metrics.json``, without what only this machine knows."""
    kept = {name.replace(" ", "_").replace("-", "").lower(): metrics["provenance"].get(name) for name in PROVENANCE}
    # The result's own is the one that explained.
    kept["trained_at_commit"] = kept.pop("commit")
    numbers = {name: value for name, value in metrics.items() if name != "provenance"}
    return {"what": f"metrics.json of the page of a run of {recipe} after its last epoch", **kept, **numbers}


def main(args: Sequence[str] | None = None) -> None:
    """Explains the run's last checkpoint, and writes ``results/page-<recipe>.json``."""
    options = parser(__doc__)
    options.add_argument("recipe", type=recipe_name, help="such as resnet20")
    options.add_argument("--seed", type=int, default=0, help="of the run")
    options.add_argument("--runs", type=Path, default=RUNS, help="where runs are")
    given = options.parse_args(args)
    hush_libraries()
    run = given.runs / given.recipe.replace("/", "-") / f"seed-{given.seed}"
    if (run / "begun.json").is_file() or not (run / "asked.json").is_file():
        train = f"python -m benchmarks.accuracy {given.recipe} --seeds 1 --first_seed {given.seed} --output again"
        sys.exit(
            f"{run} holds no run that was trained to its end: `{train}`, with the --data_root of its images, trains "
            "it for --runs again/runs."
        )
    page = run / "page"
    command("explain", "--ckpt_path=last", f"--trainer.default_root_dir={run}", f"--output_dir={page}")
    save(f"page-{given.recipe}", figures(read(page / "metrics.json"), given.recipe), given.output)
    print(f"The page: {page / 'report.html'}")


if __name__ == "__main__":
    main()
