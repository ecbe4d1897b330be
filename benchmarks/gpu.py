"""All that concerns a GPU, in one command of a few minutes and one result.

    python -m benchmarks.gpu --data_root FOLDER [--airbench airbench94_muon.py] [--minutes 8.5] [--seeds 5] [--jobs 2]
                             [--parts PART …] [--output FOLDER] [FIT OPTIONS]
    python -m benchmarks.gpu --tiny        tries it out, on any machine

Each part is a process of its own: what fails or takes too long is noted, and the next one begins. The result is
written after each. FIT OPTIONS go to the runs of `accuracy`.

- input_pipeline, training_loop: as the benchmarks of these names, the latter with `benchmarks.loop_overhead`.
- epochs: seconds an epoch of 50,000 images in steady state, as `benchmarks.epoch_limit`.
- steps: where the time of a step goes, as `benchmarks.step_parts`.
- race: configs/speed_gpu.yaml and the program airbench94_muon.py (https://github.com/KellerJordan/cifar10-airbench),
  unchanged, on the same images and in turn, each in one network that it has compiled and trained once before. Their
  clocks run from the whitening of the first layer to the last view at test time. Ours has airbench's batches, epochs
  and rates (but for the biases behind the whitening, whose rate is gone when they are frozen; ours falls as the
  others'), is compiled, and writes no log and no checkpoints, as airbench does not; airbench's clock stands still while
  it evaluates after each epoch, where ours does not evaluate. How far apart their accuracies are, with the standard
  error, is in the result, too: who is faster and less right has not won. It compiles for minutes (beside an H200, on
  16 cores, for more than 200 s): a part that is asked for alone, as with `--parts race`, has all the time.
- accuracy: `benchmarks.accuracy` of the recipes that others are compared with, compiled, two at a time, for as long as
  there is time, which the other parts as a rule leave none of: `--parts accuracy`. What was cut off goes on in the next
  call. More at a time only take turns.

On a machine without git or the history, CIFAR_LIT_COMMIT names the commit.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts import (
    TINY,
    Part,
    Settings,
    Sizes,
    of_accuracy,
    of_epochs,
    of_input_pipeline,
    of_steps,
    of_training_loop,
)
from benchmarks.gpu_speed import of_race
from benchmarks.measure import existing_folder, origin, parser, positive, read, save
from cifar_lit.console import hush_libraries

# What a part does, and how many seconds it may take: together those of `--minutes`, without `accuracy`.
PARTS: dict[str, tuple[Callable[[Settings], Part], float]] = {
    "epochs": (of_epochs, 170),
    "training_loop": (of_training_loop, 90),
    "input_pipeline": (of_input_pipeline, 60),
    "steps": (of_steps, 60),
    # Enough for ours; theirs compiles for longer than that.
    "race": (of_race, 130),
    "accuracy": (of_accuracy, float("inf")),
}
# Parts whose rows are each a figure of its own: one is worth keeping without the others.
BY_ROW = ("epochs", "steps", "training_loop")
# What such a part holds beside rows.
ORIGIN = ("machine", "versions")
# With less than that a part is not begun: it would end before it has measured anything.
LEAST_SECONDS = 20
# Characters of an error that are kept.
ERROR_LENGTH = 2000


def start(part: str, arguments: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """Starts a part, which writes its figures and its errors to files in the folder."""
    with (folder / f"{part}.err").open("wb") as errors:
        # A session of its own, so that all that it starts can be ended with it.
        command = [sys.executable, "-m", "benchmarks.gpu", *arguments, "--part", part]
        command += ["--figures", str(folder / f"{part}.json")]
        return subprocess.Popen(command, stderr=errors, start_new_session=True)


def outcome(process: subprocess.Popen[bytes], part: str, seconds: float, folder: Path) -> dict[str, Any]:
    """The figures of a part when it has ended or its time is up, with what went wrong."""
    error = None
    try:
        if process.wait(max(seconds, 0)):
            said = (folder / f"{part}.err").read_text(encoding="utf-8", errors="replace")[-ERROR_LENGTH:]
            # One that was killed does not say so.
            error = said if said and process.returncode > 0 else f"{said}it ended with {process.returncode}"
    except subprocess.TimeoutExpired:
        error = "its time was up"
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    written = folder / f"{part}.json"
    figures: dict[str, Any] = read(written) if written.is_file() else {}
    return {**figures, "error": error} if error else figures


def run_part(part: str, arguments: Sequence[str], seconds: float) -> dict[str, Any]:
    """Runs a part in a process of its own.

    Args:
        part: Its name.
        arguments: Of this program.
        seconds: That it may take.

    Returns:
        Its figures.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        figures = outcome(start(part, arguments, Path(name)), part, seconds, Path(name))
    return {**figures, "seconds_for_this_part": round(time.monotonic() - begun, 1)}


def failed(figures: dict[str, Any]) -> bool:
    """Whether a part of what was to be measured is missing."""
    return not {"error", "race_error"}.isdisjoint(figures)


def better(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether a part's figures are to take the place of those that were measured before."""

    def size(figures: Any) -> int:
        if isinstance(figures, dict):
            # What was asked for is no figure.
            figures = [value for name, value in figures.items() if name not in ("settings", "options")]
        values = figures if isinstance(figures, list) else None
        return 1 if values is None else sum(map(size, values))

    return not failed(new) or (failed(old) and size(new) >= size(old))


def with_rows(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """A part's figures with the rows of before that it lacks, each with the day and the commit that it is of."""
    of = {name: old[name] for name in ("date", "commit") if name in old}
    rows = {name: {**of, **row} for name, row in old.items() if isinstance(row, dict) and name not in ORIGIN}
    return {**rows, **new}


def main(args: Sequence[str] | None = None) -> None:
    """Measures and writes ``gpu-<name of the GPU>.json``."""
    options = parser(__doc__)
    options.add_argument("--data_root", type=existing_folder, help="folder with train/<class>/ and test/<class>/")
    options.add_argument("--airbench", type=Path, help="airbench94_muon.py")
    options.add_argument("--minutes", type=float, default=8.5, help="for everything")
    options.add_argument("--seeds", type=positive, default=5, help="of what is trained to its end")
    options.add_argument("--jobs", type=positive, default=2, help="runs at a time where time is not measured")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--tiny", action="store_true", help="only try it out")
    for name in ("--part", "--figures"):
        options.add_argument(name, help="for this program itself, which starts a process for each part")
    given, further = options.parse_known_args(args)
    if given.data_root is None and not given.tiny:
        options.error("give --data_root, or --tiny")
    if given.airbench is not None and not given.airbench.is_file():
        options.error(f"there is no file {given.airbench}")
    hush_libraries()
    sizes = TINY if given.tiny else Sizes()
    settings = Settings(given.data_root, given.airbench, given.seeds, given.jobs, sizes, tuple(further), given.output)
    if given.part is not None:
        measure, _ = PARTS[given.part]
        for figures in measure(settings):
            whole = Path(f"{given.figures}.new")
            whole.write_text(json.dumps(figures), encoding="utf-8")
            # The process may be ended at any moment.
            whole.replace(given.figures)
        return
    arguments, end = sys.argv[1:] if args is None else args, time.monotonic() + 60 * given.minutes
    device = torch.cuda.get_device_name().lower().replace(" ", "-") if torch.cuda.is_available() else "cpu"
    file = given.output / f"gpu-{device}.json"
    # What other parts measured before stays.
    before = read(file) if file.is_file() else {}
    names = origin().keys()
    where = {name: value for name, value in before.items() if name in names}
    result: dict[str, Any] = {part: {**where, **figures} for part, figures in before.items() if part in PARTS}
    result["what"] = "speeds, seconds and accuracies by part; see benchmarks/gpu.py"
    for part in given.parts:
        share = PARTS[part][1] if len(given.parts) > 1 else float("inf")
        seconds = min(share, end - time.monotonic())
        if seconds < LEAST_SECONDS:
            print(f"{part}: no time is left; --parts {part} measures it alone", flush=True)
            continue
        print(f"{part}: {seconds:.0f} s at most", flush=True)
        figures = {**run_part(part, arguments, seconds), **origin()}
        before_it = result.get(part, {})
        if failed(figures) and part in BY_ROW:
            figures = with_rows(figures, before_it)
        elif before_it and not better(figures, before_it):
            print(f"{part}: {figures.get('error', 'a part of it failed')}; what it measured before stays", flush=True)
            continue
        result[part] = figures
        save(f"gpu-{device}", result, given.output)


if __name__ == "__main__":
    main()
