"""What the README promises a newcomer: seconds and accuracy of ``configs/quickstart.yaml``, over seeds.

python -m benchmarks.quickstart [--seeds 3]
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import parser, positive, save, settings_of

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.yaml"


def run(folder: str, *command: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "cifar_lit", *command],
        cwd=folder,
        env=os.environ,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def main(args: Sequence[str] | None = None) -> None:
    """Measures and writes ``results/quickstart.json``."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=positive, default=3)
    given = options.parse_args(args)
    seconds, last, test = [], [], []
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            fit = run(folder, "fit", "--config", str(CONFIG), f"--seed_everything={seed}")
            seconds.append(round(time.perf_counter() - begun, 1))
            last.append(float(re.findall(r"val loss [\d.]+, accuracy +([\d.]+)%", fit)[-1]))
            tested = run(folder, "test", "--ckpt_path=last")
            test.append(round(100 * float(re.findall(r"test/accuracy +([\d.]+)", tested)[0]), 2))
        print(f"seed {seed}: {seconds[-1]} s, val {last[-1]} %, test {test[-1]} %", flush=True)
    save(
        "quickstart",
        {
            "what": "whole command in seconds; accuracy of the last epoch in percent",
            "seconds": seconds,
            "val_accuracy": last,
            "test_accuracy": test,
            "median_seconds": statistics.median(seconds),
            "mean_test_accuracy": round(statistics.mean(test), 2),
            "settings": settings_of(CONFIG),
        },
        given.output,
    )


if __name__ == "__main__":
    main()
