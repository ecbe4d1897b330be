"""What TensorBoard's panels cost: seconds of a drawing, and their share of a run of ResNet-20.

    python -m benchmarks.panels [--images FOLDER] [--rounds 3] [--steps 20] [--data.batch_size=512 …]

Runs of `fit` with panels at their defaults and without take turns. Validation is on 5,000 of 50,000 images, noise where
no folder is given. What an epoch's validation takes longer with panels is their cost, drawn or not; an epoch of
training is extrapolated from a few steps. Options that are not its own go to `fit`.
"""

import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from benchmarks.measure import REPOSITORY, existing_folder, images_of, now, parser, positive, run, save
from cifar_lit.console import hush_libraries

RECIPE = str(REPOSITORY / "configs" / "resnet20.yaml")
OFF = [f"--{panel}.every_n_epochs=0" for panel in ("gradcam", "misclassified", "confusion")]
# Epochs from one drawing to the next, by default; epochs of a measured run, and of the run that is reckoned with.
EVERY, EPOCHS, RUN = 5, 10, 50
TRAINING_IMAGES = 45_000


class ValidationClock(Callback):
    """Times each validation, from its start to the end of what is drawn."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts."""
        self._begun = now()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops."""
        self.seconds.append(now() - self._begun)


def fit(arguments: Sequence[str]) -> tuple[list[float], float]:
    """Seconds of the validation of each epoch but the first, which warms up, and of training on one image."""
    with tempfile.TemporaryDirectory() as folder:
        clock = ["--trainer.callbacks+=benchmarks.panels.ValidationClock", f"--trainer.default_root_dir={folder}"]
        cli, training = run("fit", f"--config={RECIPE}", f"--trainer.max_epochs={EPOCHS}", *arguments, *clock)
    # By name: run as a script, this module is there twice.
    callbacks: list[Any] = cli.trainer.callbacks  # type: ignore[attr-defined]
    validation = next(c for c in callbacks if type(c).__name__ == ValidationClock.__name__)
    rates = [seconds / seen for seconds, seen in zip(training.epochs, training.images, strict=True)]
    return validation.seconds[1:], statistics.median(rates[1:])


def measure(arguments: Sequence[str], rounds: int) -> dict[str, Any]:
    """Seconds of a drawing and of an epoch without one, and the panels' share of a whole run."""
    with_panels, without, rates = [], [], []
    for _ in range(rounds):
        with_panels.append(fit(arguments)[0])
        seconds, rate = fit([*arguments, *OFF])
        without.append(seconds)
        rates.append(rate)
    plain = statistics.median(s for of_run in without for s in of_run)
    extra: dict[bool, list[float]] = {True: [], False: []}
    for of_run in with_panels:
        for epoch, seconds_of_epoch in enumerate(of_run, start=2):
            extra[epoch % EVERY == 0].append(seconds_of_epoch - plain)
    # The very first one finds fonts.
    first, later, undrawn = extra[True][0], statistics.median(extra[True][1:]), statistics.median(extra[False])
    drawings, whole_epoch = RUN // EVERY, TRAINING_IMAGES * statistics.median(rates) + plain
    cost = first + (drawings - 1) * later + (RUN - drawings) * undrawn
    return {
        "what": f"seconds that panels at their defaults add, and their share of {RUN} epochs of ResNet-20",
        "first_drawing": round(first, 3),
        "later_drawing": round(later, 3),
        "epoch_without_drawing": round(undrawn, 4),
        "epoch": round(whole_epoch, 2),
        "percent_of_the_run": round(100 * cost / (RUN * whole_epoch), 3),
        "validation_with_panels": with_panels,
        "validation_without": without,
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measures and writes ``results/panels.json``."""
    options = parser(__doc__)
    options.add_argument(
        "--images", type=existing_folder, help="folder with train/<class>/ and test/<class>/; without one, noise"
    )
    options.add_argument("--rounds", type=positive, default=3)
    options.add_argument("--steps", type=positive, default=20, help="of a measured epoch of training")
    given, further = options.parse_known_args(args)
    hush_libraries()
    data = images_of(given.images) or ["--data=benchmarks.measure.NoiseDataModule"]
    figures = measure([*data, f"--trainer.limit_train_batches={given.steps}", *further], given.rounds)
    print({key: value for key, value in figures.items() if not key.startswith("validation")})
    save("panels", figures, given.output)


if __name__ == "__main__":
    main()
