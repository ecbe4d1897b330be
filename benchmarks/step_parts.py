"""Where the time of a training step goes: what the host does in each part of it, and on a GPU what the GPU does.

    python -m benchmarks.step_parts [RECIPE …] [--steps 60] [--images 50000] [--model.compile_mode=default …]

Options that are not its own go to `fit`; the images are noise, and whole ones all along. A second epoch is looked at,
its last steps by torch's profiler, whose times do not count there. A GPU works beside the host: where it is busy for
less than a step takes (`gpu_ms` and `milliseconds`), the step waits for the host, and a faster network would not be a
faster step.
"""

import statistics
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch._dynamo.utils import counters

from benchmarks.accuracy import file_of
from benchmarks.measure import noise, on_this, parser, positive, recipe_name, run, save
from benchmarks.recipes import on_whole_images
from benchmarks.step_clock import WARM_UP, StepClock
from cifar_lit.console import hush_libraries

# Operations that are named.
SHOWN = 12
# How often these happen, by a part of their names, tells whether CUDA graphs are replayed: kernels launched one by one
# are the alternative.
LAUNCHES = ("GraphLaunch", "LaunchKernel", "MemcpyAsync", "MemsetAsync")


def milliseconds(clock: StepClock) -> dict[str, float]:
    """The median of each part, in ms, over the steps that are neither the first nor profiled.

    Of batches that are made several at a time it is the mean: most steps have none to make.
    """
    last, group = -clock.profiled_steps, clock.made_together
    found = {}
    for part, steps in clock.seconds.items():
        counted = steps[WARM_UP:last]
        # Whole groups of what is made together.
        counted = counted[: len(counted) // group * group]
        middle = statistics.mean if part == "batch" and group > 1 else statistics.median
        found[part] = round(1e3 * middle(counted), 3)
    return found


def of_profile(events: Iterable[Any], steps: int) -> dict[str, Any]:
    """What torch's profiler saw, for one step.

    Args:
        events: Its averages by name (``key_averages()``).
        steps: How many it watched.

    Returns:
        The costliest operations of the host, in ms of their own; on a GPU also the time of its kernels and copies, and
        how often the host gave it something to do.
    """
    listed = list(events)
    own = {event.key: event.self_cpu_time_total / 1e3 / steps for event in listed}
    costliest = sorted(own, key=lambda key: -own[key])[:SHOWN]
    figures: dict[str, Any] = {"host_ms_by_operation": {key: round(own[key], 3) for key in costliest}}
    # An operation of the host has the time of its kernels, too, which are listed by themselves.
    of_gpu = [event for event in listed if event.device_type != DeviceType.CPU and not event.is_user_annotation]
    if of_gpu:
        figures["gpu_ms"] = round(sum(event.self_device_time_total for event in of_gpu) / 1e3 / steps, 3)
        launches = (event for event in listed if any(name in event.key for name in LAUNCHES))
        figures["launches"] = {event.key: event.count / steps for event in launches}
    return figures


def of_compiler() -> dict[str, Any]:
    """What the compiler counted in this process that costs time: breaks of the graph, and graphs that do not replay."""
    skipped = {key: count for key, count in counters["inductor"].items() if "cudagraph" in key}
    breaks = Counter(counters["graph_break"])
    return {"graph_breaks": sum(breaks.values()), "reasons": [reason[:200] for reason in breaks], **skipped}


def measure(recipe: str, further: Sequence[str], steps: int, images: int) -> dict[str, Any]:
    """Where a recipe's step spends its time.

    Args:
        recipe: Its name in configs/.
        further: Options for `fit`.
        steps: Of an epoch.
        images: In the data set.
    """
    counters.clear()
    data = [*noise(images), "--data.val_size=0"]
    length = ["--trainer.max_epochs=2", f"--trainer.limit_train_batches={steps}", "--trainer.limit_val_batches=0"]
    watched = "--trainer.callbacks+=benchmarks.step_clock.StepClock"
    with tempfile.TemporaryDirectory() as folder:
        root = f"--trainer.default_root_dir={folder}"
        file = on_whole_images(file_of(recipe), Path(folder))
        cli, _ = run("fit", f"--config={file}", *data, *length, root, *further, watched)
    found = next(c for c in cli.trainer.callbacks if isinstance(c, StepClock))  # type: ignore[attr-defined]
    parts = milliseconds(found)
    return {
        "milliseconds": round(sum(parts.values()), 3),
        "host_ms_by_part": parts,
        **of_profile(found.profiled.key_averages(), found.profiled_steps),
        "compiler": of_compiler(),
        "batch_size": cli.datamodule.batch_size,
        "precision": cli.trainer.precision,
        "further_options": list(further),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measures and writes ``results/step_parts-<device>.json``, ``…-float32.json`` of what computes in it."""
    options = parser(__doc__)
    options.add_argument("recipes", type=recipe_name, nargs="*", default=("resnet20",), help="names in configs/")
    # A GPU makes 64 batches of 128 images together, and so many are timed, and profiled, at least.
    many = 160 if torch.cuda.is_available() else 60
    options.add_argument("--steps", type=positive, default=many, help="steps of an epoch; by default 160 on a GPU")
    options.add_argument("--images", type=positive, default=50_000, help="in the data set")
    given, further = options.parse_known_args(args)
    hush_libraries()
    figures = {}
    for recipe in given.recipes:
        figures[recipe] = measure(recipe, further, given.steps, given.images)
        print(recipe, figures[recipe], flush=True)
    what = "where a training step spends its time, medians"
    # The same of all, which have the same options.
    precision = figures[given.recipes[0]]["precision"]
    save(on_this("step_parts", precision), {"what": what, "recipes": figures}, given.output)


if __name__ == "__main__":
    main()
