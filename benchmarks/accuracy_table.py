"""Puts what `benchmarks.accuracy` measured into the README's table and into the recipes' headers.

    python -m benchmarks.accuracy_table [--check]

With `--check` it writes nothing, and fails where they say something else. A recipe without a result says "not measured
yet", and what it costs if `benchmarks.epoch_limit` timed an epoch; a result of a recipe as it was before is none. Two
recipes are measured elsewhere, and tests of README hold what is said of them against their files.
What `benchmarks.reference_epochs` measured goes into the headers of reference recipes, beside what was published. A
second table of the README lays ours beside the published systems, retrained on the same images; a paragraph says how
far apart runs come out.
"""

import argparse
import math
import re
import statistics
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy import file_of
from benchmarks.accuracy_figures import FORMER, RESULTS, UNKNOWN, accuracy, cost, images_of, results_of, seeds, spread
from benchmarks.measure import REPOSITORY, read, settings_of

FIRST_EPOCHS = Path("benchmarks", "results", "reference_epochs.json")
PUBLISHED = Path("benchmarks", "results", "published_logs.json")
# R5's log goes on from weights trained before; another one does not.
BEGUN_AFRESH = {"r5": "r5_afresh"}
# Recipes of ours with the network of a published system, in no more epochs.
RIVALS = {
    "r1": ("resnet20", "resnet20_distilled"),
    "r2": ("resnet20", "resnet20_distilled"),
    "r3": ("resnet18", "resnet18_short"),
    "r4": ("dilated_separable", "dilated_separable_distilled"),
    "r5": ("depthwise", "depthwise_distilled"),
}
# By `benchmarks.quickstart`, and by the race in `benchmarks.gpu`.
ELSEWHERE = ("quickstart", "speed_gpu")
# How the paragraph begins that says how far apart runs come out.
SPREAD = "Another seed, or another machine,"
WIDTH = 120


def with_row(readme: str, recipe: str, cost: str, results: Sequence[dict[str, Any]]) -> str:
    """The README with a recipe's row as measured."""
    pattern = rf"^(\| `{recipe}`[^|]*\|[^|]*\|[^|]*\|)[^|]*\|[^|]*\|$"

    def row(found: re.Match[str]) -> str:
        if not results:
            return f"{found[1]} {cost} | {UNKNOWN} |"
        files = [(RESULTS / result["file"]).as_posix() for result in results]
        links = f"[{seeds(results)}]({files[0]})"
        if len(results) > 1:
            by_seed = (f"[{result['seed']}]({file})" for result, file in zip(results, files, strict=True))
            links = f"{seeds(results)}: {', '.join(by_seed)}"
        return f"{found[1]} {cost} | {accuracy(results)} ({links}) |"

    return re.sub(pattern, row, readme, flags=re.MULTILINE)


def with_header(text: str, recipe: str, cost: str, results: Sequence[dict[str, Any]]) -> str:
    """A recipe with a header as measured."""
    files = f"benchmarks/results/accuracy/{recipe.replace('/', '-')}-*.json"
    is_reference = recipe.startswith("reference/")
    # A timed epoch's machine may not be theirs.
    alone = any(result.get("at_once", 1) == 1 for result in results)
    spent = f", {cost}" if is_reference and alone and cost != UNKNOWN else ""
    # The command above it holds some out.
    trained = "" if is_reference else "trained on all 50,000 "
    runs = f"{seeds(results)}{spent}; {command(recipe, results)}; {files}" if results else ""
    reached = f"{accuracy(results, trained)} ({runs})" if results else UNKNOWN
    sentences = [f"Measured here: {reached}."] if is_reference else [f"Cost: {cost}.", f"Accuracy: {reached}."]
    pattern = r"^# Measured here: .*?(?=^[^#])" if is_reference else r"^# Cost: .*?(?=^[^#])"
    return with_comment(text, pattern, *sentences)


def command(recipe: str, results: Sequence[dict[str, Any]]) -> str:
    """What measures the same once more, beside what is there."""
    found = [result["seed"] for result in results]
    first = min(found)
    seeded = f"--seeds {max(found) - first + 1}" + (f" --first_seed {first}" if first else "")
    images = {"jpeg": " --data_root data/cifar10-jpeg", "original": ""}.get(results[0]["data"], " --data_root FOLDER")
    return f"python -m benchmarks.accuracy {recipe} {seeded}{images} --output again"


def with_comment(text: str, pattern: str, *sentences: str) -> str:
    """A recipe with these sentences, each from the beginning of a line, in the place of what matches."""
    # A number and its sign stay on one line.
    lines = [line for sentence in sentences for line in textwrap.wrap(sentence.replace(" %", "\xa0%"), WIDTH - 2)]
    comment = "".join(f"# {line}\n" for line in lines).replace("\xa0", " ")
    return re.sub(pattern, lambda _: comment, text, count=1, flags=re.MULTILINE | re.DOTALL)


def with_first_epochs(text: str, name: str, repository: Path) -> str:
    """A reference recipe whose header lays its first epochs beside the published ones.

    Args:
        text: The recipe.
        name: Such as r1.
        repository: Where results are.
    """
    measured = read(repository / FIRST_EPOCHS)["recipes"].get(name, {})
    now = settings_of(file_of(f"reference/{name}", repository))
    if (measured.get("settings"), measured.get("options")) == (now, []):
        published = read(repository / PUBLISHED)
        ours = measured["train_accuracy"]
        theirs = published[BEGUN_AFRESH.get(name, name)]["train_accuracy"][: len(ours)]
        said = [" and ".join(f"{100 * share:.1f}" for share in shares) + " %" for shares in (ours, theirs)]
        afresh = ", begun afresh," if name in BEGUN_AFRESH else ""
        sentence = (
            f"In the first {len(ours)} epochs its training accuracy is {said[0]} on {images_of(measured)}, "
            f"published{afresh} {said[1]} ({FIRST_EPOCHS.as_posix()})."
        )
    else:
        sentence = f"In the first epochs: {UNKNOWN}."
    return with_comment(text, r"^# In the first .*?(?=^# Measured here)", sentence)


def with_spread(readme: str, repository: Path) -> str:
    """The README with the paragraph that says how far apart runs come out, if it has one."""
    measured = spread(repository)
    if measured is None:
        return readme
    deviation, apart, groups = measured
    apart = rounded_up(apart)
    as_it_was = f" [as it was before]({FORMER.as_posix()})"
    runs = [f"{count} of `{recipe}`{as_it_was if former else ''}" for recipe, former, count in groups]
    text = (
        f"{SPREAD} gives somewhat more or less: in runs of the same settings and images ({', '.join(runs)}) the "
        f"standard deviation of the plain accuracy is {deviation:.2f} points. So expect a run within "
        f"**{apart:.1f} points** of another: 19 of 20 are, by Student's distribution."
    )
    paragraph = "\n".join(textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False))
    return re.sub(rf"^{SPREAD}.*?(?=\n\n|\n*\Z)", lambda _: paragraph, readme, count=1, flags=re.MULTILINE | re.DOTALL)


def rounded_up(points: float) -> float:
    """To a tenth: what is called apart is so."""
    return math.ceil(round(10 * points, 6)) / 10


def with_comparison(readme: str, repository: Path) -> str:
    """The README with the table that lays ours beside the published systems, if it has one."""
    found = re.search(r"^(\| system [^\n]*\n\|[-:| ]*\n)(\|[^\n]*\n)*", readme, re.MULTILINE)
    if not found:
        return readme
    rows = [row for name in RIVALS for row in comparisons(name, repository)]
    return readme[: found.start()] + found[1] + "".join(f"{row}\n" for row in rows) + readme[found.end() :]


def comparisons(name: str, repository: Path) -> list[str]:
    """Rows of a table, one for each of our recipes that was measured: a published system, and ours in its last epoch.

    Args:
        name: Of the published system, such as r1.
        repository: Where recipes and results are.
    """
    log = read(repository / PUBLISHED)[name]
    published = 100 * max(log["val_accuracy"])
    minutes = len(log["val_accuracy"]) * log["seconds_an_epoch"] / 60
    theirs = results_of(f"reference/{name}", repository)
    best = round(statistics.mean(result["best_epoch_accuracy"] for result in theirs), 2) if theirs else None
    here = UNKNOWN if best is None else f"{best:.2f} % ({seeds(theirs)})"
    system = f"| [{name.upper()}](configs/reference/{name}.yaml) | {published:.2f} % | {here} | {minutes:.0f} min |"
    rows = []
    for recipe in RIVALS[name]:
        # On the same images, where the published system has been trained here.
        results = results_of(recipe, repository, theirs[0]["data"] if theirs else None)
        if results:
            # As it is shown: a reader subtracts.
            reached = round(statistics.mean(result["accuracy"] for result in results), 2)
            ahead = f"{reached - best:+.2f}" if best is not None else UNKNOWN
            ours = f"`{recipe}` | {reached:.2f} % ({seeds(results)}) | {reached - published:+.2f} | {ahead}"
            rows.append(f"{system} {ours} | {cost(recipe, results, repository)} |")
    return rows or [f"{system} `{RIVALS[name][0]}` | {' | '.join([UNKNOWN] * 4)} |"]


def generated(repository: Path) -> dict[Path, str]:
    """Every file that says what was measured, as it should be."""
    readme = repository / "README.md"
    texts = {readme: readme.read_text(encoding="utf-8")}
    for file in sorted((repository / "configs").rglob("*.yaml")):
        recipe = file.relative_to(repository / "configs").with_suffix("").as_posix()
        texts[file] = file.read_text(encoding="utf-8")
        if file.parent.name == "reference":
            texts[file] = with_first_epochs(texts[file], file.stem, repository)
        if recipe in ELSEWHERE:
            continue
        results = results_of(recipe, repository)
        spent = cost(recipe, results, repository)
        texts[readme] = with_row(texts[readme], recipe, spent, results)
        texts[file] = with_header(texts[file], recipe, spent, results)
    texts[readme] = with_spread(with_comparison(texts[readme], repository), repository)
    return texts


def main(args: Sequence[str] | None = None) -> None:
    """Writes, or checks."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="write nothing, and fail where something differs")
    given = options.parse_args(args)
    stale = [file for file, text in generated(REPOSITORY).items() if file.read_text(encoding="utf-8") != text]
    if given.check:
        if stale:
            names = ", ".join(file.relative_to(REPOSITORY).as_posix() for file in stale)
            sys.exit(f"{names} do not say what was measured: run python -m benchmarks.accuracy_table.")
        return
    for file in stale:
        file.write_text(generated(REPOSITORY)[file], encoding="utf-8")
        print(f"Wrote {file}")


if __name__ == "__main__":
    main()
