"""What runs of a recipe reached and cost, in words: the figures of `benchmarks.accuracy_table`."""

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import t as student

from benchmarks.accuracy import all_settings_of, file_of, teacher_of
from benchmarks.measure import read

RESULTS = Path("benchmarks", "results", "accuracy")
# Results of recipes as they were before whose names are taken: they still say how far apart runs come out.
FORMER = RESULTS / "former"
# Of a CPU that computes in bfloat16, on a fast day and on a slow one; and of one that does not, which takes several
# times as long.
EPOCHS = tuple(Path("benchmarks", "results", f"epoch_limit-cpu{of}.json") for of in ("", "-slow_day", "-float32"))
# What tells CPUs of one name apart.
GENERATION = ("cpu_family", "cpu_model", "cpu_stepping")
# TFLOPS in bfloat16 of two cores of the machine of most results: 0.4 on a slow day, 0.9 on a fast one.
SLOW = 0.6
VIEWS = {"accuracy_flip": "with flips", "accuracy_multi_view": "with six views"}
UNKNOWN = "not measured yet"
# What makes runs alike but for their seed, their machine, and the version of this project.
ALIKE = ("recipe", "settings", "teacher_settings", "data")
# Options that change how fast a recipe is, and not what it computes.
SAME_RECIPE = ("--model.compile_mode=",)


def results_of(recipe: str, repository: Path, data: str | None = None) -> list[dict[str, Any]]:
    """What runs of a recipe reached that trained on all images: of the largest group alike in data and device.

    Args:
        recipe: Such as resnet20.
        repository: Where recipes and results are.
        data: Only of these images, such as jpeg.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for found in plain_results(f"{recipe.replace('/', '-')}-*-seed*.json", repository):
        if found["recipe"] == recipe and data in (None, found["data"]) and is_of_now(found, repository):
            groups.setdefault(found["file"].rpartition("-seed")[0], []).append(found)
    return max(groups.values(), key=len, default=[])


def spread(repository: Path) -> tuple[float, float, list[tuple[str, bool, int]]] | None:
    """How far apart runs of the same settings and images come out, on whatever machines; of recipes as they were, too.

    Returns:
        The standard deviation of the last epoch's plain accuracy, pooled over recipes; how far from a run another one
        comes out in 19 cases of 20, by Student's distribution; both in points. And which recipes these runs are of,
        whether it is the recipe as it was before, and how many runs. None where no recipe has two.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in plain_results("**/*-seed*.json", repository):
        groups.setdefault(json.dumps([run.get(key) for key in ALIKE]), []).append(run)
    several = [runs for runs in groups.values() if len(runs) > 1]
    freedom = sum(len(runs) - 1 for runs in several)
    if not freedom:
        return None
    squares = sum((len(runs) - 1) * statistics.variance(run["accuracy"] for run in runs) for runs in several)
    deviation = math.sqrt(squares / freedom)
    # A run and another one: both deviate.
    apart = float(student.ppf(0.975, freedom)) * math.sqrt(2) * deviation
    return deviation, apart, [(runs[0]["recipe"], not is_of_now(runs[0], repository), len(runs)) for runs in several]


def is_of_now(result: dict[str, Any], repository: Path) -> bool:
    """Whether a result is of its recipe as it is now."""
    recipe = result["recipe"]
    if not file_of(recipe, repository).is_file():
        return False
    now = all_settings_of(recipe, repository)
    return {key: result.get(key) for key in now} == now


def plain_results(pattern: str, repository: Path) -> Iterator[dict[str, Any]]:
    """Results of runs that computed what their recipe says, on all images: with no options but for speed alone.

    Args:
        pattern: Of their files, below the results'.
        repository: Where results are.

    Yields:
        Each with the name of its ``file``.
    """
    for path in sorted((repository / RESULTS).glob(pattern)):
        result = read(path)
        changed = [option for option in result["options"] if not option.startswith(SAME_RECIPE)]
        if "hold-out" not in path.name and not changed:
            yield {**result, "file": path.name}


def cost(recipe: str, results: Sequence[dict[str, Any]], repository: Path) -> str:
    """Median time of `fit`, on what, and what its teacher costs before it."""
    own = own_cost(recipe, results, repository)
    teacher = teacher_of(file_of(recipe, repository))
    if teacher is None or own == UNKNOWN:
        return own
    # On the same images, if there is a result of the student that tells.
    results = results_of(teacher, repository, results[0]["data"] if results else None)
    teachers = cost(teacher, results, repository)
    return f"{own}, after its teacher {teacher}" + (f"'s {teachers}" if teachers != UNKNOWN else "")


def own_cost(recipe: str, results: Sequence[dict[str, Any]], repository: Path) -> str:
    """Median time of `fit`, and on what; about what timed epochs on a CPU say where no run had its machine alone."""
    alone = [result for result in results if result.get("at_once", 1) == 1]
    if alone:
        # That of most runs, and of the first among equals.
        machines = [result["machine"] for result in alone]
        about, machine, day = "", max(machines, key=machines.count), ""
        there = [result for result in alone if result["machine"] == machine]
        seconds = [statistics.median(result["fit_seconds"] for result in there)]
        if is_known(machine) and all(was_slow(result) for result in there):
            day = " on a slow day"
    else:
        fast, slow, without_bfloat16 = (timed_epoch(recipe, repository, file) for file in EPOCHS)
        timed = [row for row in (fast, slow) if row] or [row for row in (without_bfloat16,) if row]
        # Two days are of one machine.
        timed = [row for row in timed if is_alike(row["machine"], timed[0]["machine"])]
        if not timed:
            return UNKNOWN
        settings = yaml.safe_load(file_of(recipe, repository).read_text(encoding="utf-8"))
        about, machine, day = "about ", timed[0]["machine"], " on a slow day" if timed == [slow] else ""
        seconds = sorted(settings["trainer"]["max_epochs"] * row["seconds"] for row in timed)
    where = machine["gpu"] or ("1 CPU core" if machine["threads"] == 1 else f"{machine['threads']} CPU cores")
    where += " in float32" if in_float32(machine) else ""
    longest = max(seconds)
    unit, name, digits = (1, "s", 0) if longest < 120 else (60, "min", 0) if longest < 120 * 60 else (3600, "h", 1)
    # Once, where both are the same.
    amount = " to ".join(dict.fromkeys(f"{one / unit:.{digits}f}" for one in seconds))
    return f"{about}{amount} {name} on {where}{day}"


def is_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two machines may be one, on two days."""
    same = all(one.get(key) == other.get(key) for key in ("cpu", "threads", "gpu"))
    # Of earlier measurements these are not known.
    return same and all(one.get(key, other.get(key)) == other.get(key, one.get(key)) for key in GENERATION)


def is_known(machine: dict[str, Any]) -> bool:
    """Whether it computes as the machine does of which `SLOW` is known."""
    return machine["gpu"] is None and machine.get("precision") == "bf16-mixed" and machine["threads"] == 2


def was_slow(result: dict[str, Any]) -> bool:
    """Whether the machine was slow behind a run and, where that was noted, before it; of some runs nobody knows."""
    speeds = [result[key] for key in ("cpu_tflops_before", "cpu_tflops") if key in result]
    return bool(speeds) and max(speeds) < SLOW


def timed_epoch(recipe: str, repository: Path, file: Path) -> dict[str, Any] | None:
    """An epoch on a CPU as `benchmarks.epoch_limit` timed it, of the recipe as it is now; None where it has not."""
    # Where smaller images were left out, epochs take less than was timed.
    now = {**all_settings_of(recipe, repository), "further_options": [], "smaller_images": None}
    measured: dict[str, Any] = read(repository / file)["recipes"].get(recipe, {})
    return measured if {key: measured.get(key) for key in now} == now else None


def in_float32(machine: dict[str, Any]) -> bool:
    """Whether it is a CPU without bfloat16; the others compute in it."""
    return machine.get("precision") == "32-true"


def accuracy(results: Sequence[dict[str, Any]], trained: str = "") -> str:
    """Mean test accuracy after the last epoch and its spread over seeds, with several views, and of the best epoch."""

    def mean(name: str) -> str:
        return f"{statistics.mean(result[name] for result in results):.2f} %"

    plain = [result["accuracy"] for result in results]
    between = f" ({min(plain):.2f} to {max(plain):.2f})" if len(plain) > 1 else ""
    parts = [f"{mean('accuracy')} test{between}"]
    parts += [f"{mean(name)} {words}" for name, words in VIEWS.items() if name in results[0]]
    if "best_epoch_accuracy" in results[0]:
        parts.append(f"{mean('best_epoch_accuracy')} in the best epoch")
    return f"{', '.join(parts)}; {trained}{images_of(results[0])}"


def images_of(result: dict[str, Any]) -> str:
    """What a run trained on, in words."""
    return {"jpeg": "JPEG images", "original": "CIFAR-10 images"}.get(result["data"], f"images of {result['data']}")


def seeds(results: Sequence[dict[str, Any]]) -> str:
    """How many, in words, and how many of them were begun elsewhere than they were ended, or computed in float32."""
    ways = Counter(f"begun on {result['begun_on']}" for result in results if "begun_on" in result)
    ways.update("in float32" for result in results if in_float32(result["machine"]))
    words = f"{len(results)} seed{'s' if len(results) > 1 else ''}"
    for way, count in sorted(ways.items()):
        words += f", {f'{count} of them ' if count < len(results) else ''}{way}"
    return words
