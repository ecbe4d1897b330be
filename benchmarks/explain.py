"""Time, memory and size of `explain` for a checkpoint: the whole command, as a user starts it.

    python -m benchmarks.explain [--images FOLDER] [--ckpt_path CKPT] [--rounds 3]

Without a checkpoint a ResNet-20 is trained for 300 steps: bad enough that the page shows as many errors as it may.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import REPOSITORY, images_of, images_parser, positive, read, save

RECIPE = str(REPOSITORY / "configs" / "resnet20.yaml")
QUICK = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=300", "--trainer.limit_val_batches=1"]
# A process's peak is at least that of the one that began it, so that this one must not.
MEASURED = (
    "import resource, subprocess, sys; status = subprocess.call(sys.argv[1:]); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(status)"
)


def command(*arguments: str) -> tuple[float, float]:
    """Seconds that a command of the command line takes as a process, and its peak memory in GB.

    Raises:
        RuntimeError: It fails.
    """
    begun = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    asked = [sys.executable, "-c", MEASURED, sys.executable, "-m", "cifar_lit", *arguments]
    done = subprocess.run(asked, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments[0]} ended with status {done.returncode}.")
    # On Linux in KiB.
    return time.perf_counter() - begun, int(done.stdout.split()[-1]) / 2**20


def main(args: Sequence[str] | None = None) -> None:
    """Measures and writes ``results/explain.json``."""
    options = images_parser(__doc__)
    options.add_argument("--ckpt_path", type=Path)
    options.add_argument("--rounds", type=positive, default=3)
    given = options.parse_args(args)
    common = [f"--config={RECIPE}", *images_of(given.images)]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = given.ckpt_path
        if checkpoint is None:
            command("fit", *common, *QUICK, f"--trainer.default_root_dir={folder}")
            checkpoint = next(Path(folder).rglob("last.ckpt"))
        out = Path(folder, "out")
        asked = ["explain", *common, f"--ckpt_path={checkpoint}", f"--output_dir={out}"]
        seconds, peaks = zip(*(command(*asked) for _ in range(given.rounds)), strict=True)
        metrics = read(out / "metrics.json")
        figures = {
            "what": "explain of a ResNet-20 on the test split: the whole command",
            "seconds": [round(value, 1) for value in seconds],
            "median_seconds": round(statistics.median(seconds), 1),
            "peak_memory_gb": round(max(peaks), 2),
            "report_megabytes": round((out / "report.html").stat().st_size / 1e6, 2),
            "images": metrics["images"],
            "accuracy": metrics["accuracy"],
            "errors": metrics["errors"],
        }
    print(figures)
    save("explain", figures, given.output)


if __name__ == "__main__":
    main()
