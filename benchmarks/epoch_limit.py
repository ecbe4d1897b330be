"""Seconds that `fit` takes for an epoch of 50,000 images, beside the least that this machine could take.

    python -m benchmarks.epoch_limit [RECIPE …] [--all] [--steps 24] [--epochs 6] [--slow_day]
                                     [--data.batch_size=2048 …]

Options that are not its own go to `fit`. The images are noise. On a CPU an epoch is extrapolated from a few dozen
steps. The first epoch warms up and does not count. It is an epoch of whole images also where a recipe trains on smaller
ones at first (`ProgressiveResizing`).

The least is the larger of two times: multiply-adds at the machine's own speed of multiplying matrices, and bytes at its
own speed of copying memory, both measured. Forwards a network does the multiply-adds of `summary`, backwards twice as
many. The bytes are those of a network whose layers run one after another, each as one pass over its maps, the
activation functions for nothing (`traffic`). Where caches hold a whole batch, less is possible.
"""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import all_settings_of, file_of, teacher_of
from benchmarks.measure import (
    DTYPES,
    REPOSITORY,
    median_seconds,
    noise,
    on_this,
    operations_a_second,
    origin,
    parser,
    positive,
    read,
    recipe_name,
    run,
    save,
)
from benchmarks.recipes import on_whole_images
from cifar_lit.console import hush_libraries
from cifar_lit.explain.layers import LayerTable, network_table
from cifar_lit.precision import choose_precision

CONFIGS = REPOSITORY / "configs"
DEFAULT = ("resnet20", "resnet18", "dilated_separable", "depthwise", "speed")
EPOCH = 50_000
# A matrix's side and a copy's bytes: large enough for the device's full speed, and beyond its caches.
SIDE = {"cpu": 2048, "cuda": 8192}
COPY = {"cpu": 2**28, "cuda": 2**31}
# Forwards twice the multiply-adds of a layer; backwards the same for its input and again for its weights.
FORWARDS = 2
OPERATIONS_A_MULTIPLY_ADD = FORWARDS * 3
# A weight is read forwards and backwards; its gradient is written; SGD reads gradient, weight and momentum, and writes
# weight and momentum. All in float32.
BYTES_A_PARAMETER = 4 * 8


def traffic(table: LayerTable) -> int:
    """How many numbers of feature maps a training step moves for an image, between memory and processor.

    - A convolution or a linear layer reads its input forwards, and again for the gradient of its weights, and writes
      the gradient of its input. It writes its output, and reads that one's gradient for weights and for input.
    - BatchNorm reads its input for the statistics and again to normalise, and writes. Backwards it reads input and
      gradient for the sums, and both again for the gradient that it writes.
    - A sum, joined to what comes before it, reads the other summand forwards and the other gradient backwards.
    - Pooling reads and writes, in both directions.
    """
    numbers, last = 0, _numel(table.input_size)
    for row in table.rows:
        size = _numel(row.output_size)
        if "Conv" in row.kind or "Linear" in row.kind:
            numbers += 3 * last + 3 * size
        elif "Norm" in row.kind:
            numbers += 8 * size
        elif "Pool" in row.kind:
            numbers += 2 * last + 2 * size
        elif row.kind == "Add":
            numbers += 2 * size
        last = size
    return numbers


def _numel(size: Sequence[int]) -> int:
    return torch.Size(size).numel()


def bytes_a_second(device: torch.device) -> float:
    """The machine's speed of copying memory: bytes read and bytes written."""
    source = torch.randint(256, (COPY[device.type],), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / median_seconds(lambda: target.copy_(source))


def measure(recipe: str, further: Sequence[str], steps: int | None, epochs: int, images: int) -> dict[str, Any]:
    """What an epoch of a recipe takes, and the least that it could.

    Args:
        recipe: Its name in configs/.
        further: Options for `fit`.
        steps: Steps of a measured epoch; None for all.
        epochs: Including the first, which does not count.
        images: In the data set.
    """
    data = [*noise(images), "--data.val_size=0"]
    length = [f"--trainer.max_epochs={epochs}", "--trainer.limit_val_batches=0"]
    length += [f"--trainer.limit_train_batches={steps}"] if steps is not None else []
    teacher, answers = teacher_of(file_of(recipe)), 0
    with tempfile.TemporaryDirectory() as folder:
        root = f"--trainer.default_root_dir={folder}"
        if teacher is not None:
            # One that has learnt nothing takes as long to answer.
            step = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0"]
            taught, _ = run("fit", f"--config={file_of(teacher)}", *data, *step, root)
            # Forwards only, and its bytes for nothing.
            answers = FORWARDS * network_table(taught.model, 32).macs
        file = on_whole_images(file_of(recipe), Path(folder))
        cli, clock = run("fit", f"--config={file}", *data, *length, root, *further)
    rates = [seconds / seen for seconds, seen in zip(clock.epochs[1:], clock.images[1:], strict=True)]
    device, dtype = cli.trainer.strategy.root_device, DTYPES[cli.trainer.precision]
    table, batch_size = network_table(cli.model, 32), cli.datamodule.batch_size
    operations, copied = operations_a_second(device, dtype, SIDE[device.type]), bytes_a_second(device)
    parameters = EPOCH / batch_size * BYTES_A_PARAMETER * table.trainable_parameters
    needed = {
        "compute": EPOCH * (OPERATIONS_A_MULTIPLY_ADD * table.macs + answers) / operations,
        "memory": (EPOCH * traffic(table) * dtype.itemsize + parameters) / copied,
    }
    bound = max(needed, key=lambda name: needed[name])
    seconds = EPOCH * statistics.median(rates)
    return {
        "seconds": round(seconds, 3),
        "limit": round(needed[bound], 4),
        "ratio": round(seconds / needed[bound], 2),
        "bound": bound,
        # Checkpoints and metrics; without validation.
        "pause_between_epochs": round(statistics.median(clock.pauses), 3),
        "compute_seconds": round(needed["compute"], 4),
        "memory_seconds": round(needed["memory"], 4),
        "machine_tflops": round(operations / 1e12, 3),
        "machine_gb_a_second": round(copied / 1e9, 1),
        "batch_size": batch_size,
        "precision": cli.trainer.precision,
        "further_options": list(further),
        **({"smaller_images": "left out"} if file != file_of(recipe) else {}),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measures, and adds each to ``results/epoch_limit-<device>.json``.

    Of what computes in float32 it is ``…-float32.json``, of a slow day ``…-slow_day.json``.
    """
    on_gpu = torch.cuda.is_available()
    options = parser(__doc__)
    options.add_argument("recipes", type=recipe_name, nargs="*", default=DEFAULT, help="names in configs/")
    options.add_argument("--all", action="store_true", help="all recipes but the reference ones")
    options.add_argument(
        "--steps", type=positive, default=None if on_gpu else 24, help="steps of an epoch; on a GPU all"
    )
    options.add_argument("--epochs", type=positive, default=6, help="including one that warms up")
    options.add_argument("--images", type=positive, default=EPOCH, help="in the data set")
    options.add_argument(
        "--slow_day",
        action="store_true",
        help="keep it apart: this shared machine is often faster than now",
    )
    given, further = options.parse_known_args(args)
    if given.epochs < 2:
        options.error("--epochs has to be at least 2: the first one does not count")
    hush_libraries()
    if given.slow_day and on_this("epoch_limit", choose_precision("auto")[0]) != "epoch_limit-cpu":
        options.error("--slow_day is for CPUs that compute in bfloat16: others have but one file")
    recipes = sorted(path.stem for path in CONFIGS.glob("*.yaml")) if given.all else given.recipes
    for recipe in recipes:
        row = measure(recipe, further, given.steps, given.epochs, given.images)
        print(
            f"{recipe}: {row['seconds']} s, limit {row['limit']} s ({row['bound']}), {row['ratio']} times", flush=True
        )
        name = on_this("epoch_limit", row["precision"]) + ("-slow_day" if given.slow_day else "")
        kept = given.output / f"{name}.json"
        # What was measured of other recipes stays; it may be of another day, machine or command.
        figures: dict[str, Any] = read(kept)["recipes"] if kept.is_file() else {}
        figures[recipe] = {**row, **origin(), **all_settings_of(recipe)}
        what = f"seconds an epoch of {EPOCH:,} images in `fit`, and the least by compute or memory"
        save(name, {"what": what, "recipes": figures}, given.output)


if __name__ == "__main__":
    main()
