"""What the README promises a newcomer: seconds and accuracy of ``configs/quickstart.yaml``, over seeds.

python -m benchmarks.quickstart [--seeds 3]
"""

import re
import statistics
import tempfile
from collections.abc import Sequence

from benchmarks.commands import command
from benchmarks.measure import REPOSITORY, parser, positive, save, settings_of
from benchmarks.time_to_accuracy import accuracies

CONFIG = REPOSITORY / "configs" / "quickstart.yaml"


def main(args: Sequence[str] | None = None) -> None:
    """Measures and writes ``results/quickstart.json``."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=positive, default=3)
    given = options.parse_args(args)
    seconds, last, test = [], [], []
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            root = f"--trainer.default_root_dir={folder}"
            fit_seconds, fitted = command("fit", f"--config={CONFIG}", f"--seed_everything={seed}", root)
            _, tested = command("test", "--ckpt_path=last", root)
            seconds.append(round(fit_seconds, 1))
            last.append(float(re.findall(r"val loss [\d.]+, accuracy +([\d.]+)%", fitted)[-1]))
            test.append(accuracies(tested)["accuracy"])
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
