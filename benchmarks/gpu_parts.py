"""The parts of `benchmarks.gpu`."""

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import accuracy, epoch_limit, input_pipeline, loop_overhead, step_parts, training_loop
from benchmarks.measure import REPOSITORY, images_of, noise, origin, run
from benchmarks.time_to_accuracy import WITHOUT_VALIDATION
from cifar_lit.compiling import CompileMode

CONFIGS = REPOSITORY / "configs"
ACCURACY_OF = ("resnet20", "resnet18", "dilated_separable", "depthwise")
# Batches of one size only: then a compiled network is one CUDA graph.
ALIKE = ("--data.drop_last=true", "--trainer.benchmark=true")
# What is compared with a program that writes none.
WITHOUT_FILES = ("--trainer.logger=false", "--trainer.enable_checkpointing=false")
GRAPHS = "--model.compile_mode=reduce-overhead"
# The README's rows first: a slower GPU has no time for all.
EPOCHS_OF: dict[str, tuple[str, tuple[str, ...]]] = {
    "resnet20, batch 1024, compiled": ("resnet20", ("--data.batch_size=1024", GRAPHS, *ALIKE)),
    # Fewer steps, in each of which a GPU as fast as an H200 waits for the host.
    "resnet20, batch 2048, compiled": ("resnet20", ("--data.batch_size=2048", GRAPHS, *ALIKE)),
    "resnet18, batch 512, compiled": ("resnet18", ("--data.batch_size=512", GRAPHS, *ALIKE)),
    "speed": ("speed", ()),
    "resnet18, batch 512": ("resnet18", ("--data.batch_size=512", *ALIKE)),
    "resnet20, batch 128, compiled": ("resnet20", (GRAPHS,)),
    "resnet20, batch 128": ("resnet20", ()),
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        pipeline: Images, rounds and least seconds of `input_pipeline`.
        loops: Batch sizes, steps and ways to compile of `training_loop`.
        overhead: Batch size, steps and images of `loop_overhead`.
        rounds: Of both.
        steps: Of an epoch of `step_parts`.
        epochs: Steps (None for all) and number of epochs of `epochs`.
        images: Of noise, where no folder is given.
        every: Options for every run.
        whole: Further ones for a run to its end.
    """

    pipeline: tuple[int, int, float] = (8_192, 2, 0.5)
    # Whole multiples of the 8,192 images that a GPU makes at a time: `fit` and the bare loop then make as many.
    loops: tuple[tuple[int, int, CompileMode], ...] = (
        (1024, 32, "none"),
        (1024, 32, "reduce-overhead"),
        (128, 128, "none"),
    )
    overhead: tuple[int, int, int] = (loop_overhead.BATCH_SIZE, 512, loop_overhead.IMAGES)
    rounds: int = 3
    steps: int = 90
    epochs: tuple[int | None, int] = (None, 5)
    images: int = 50_000
    every: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()


TINY = Sizes(
    pipeline=(16, 1, 0.01),
    loops=((4, 2, "none"),),
    overhead=(4, 2, 40),
    rounds=1,
    steps=16,
    epochs=(1, 2),
    images=100,
    every=("--data.batch_size=4", "--model.compile_mode=none"),
    whole=("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_test_batches=1"),
)


@dataclass(frozen=True)
class Settings:
    """What `benchmarks.gpu` was asked for.

    Attributes:
        data_root: A folder of images; None for noise.
        airbench: The program; None to leave it out.
        seeds: Of everything that is run to its end.
        jobs: How many runs of `accuracy` share the GPU.
        sizes: How much is measured.
        further: Options for the runs of `accuracy`.
        output: Folder of results.
    """

    data_root: str | None
    airbench: Path | None
    seeds: int
    jobs: int
    sizes: Sizes
    further: tuple[str, ...]
    output: Path

    @property
    def data(self) -> list[str]:
        """Options for the data."""
        return images_of(self.data_root) or noise(self.sizes.images)


# A part gives its figures again and again, each time with more in them.
Part = Iterator[dict[str, Any]]


def _where() -> dict[str, Any]:
    # The command is the whole part's, without what it passes to itself.
    return {name: value for name, value in origin().items() if name != "command"}


def of_input_pipeline(given: Settings) -> Part:
    """`benchmarks.input_pipeline`."""
    images, rounds, seconds = given.sizes.pipeline
    yield input_pipeline.measure(images, 128, rounds, seconds)


def of_training_loop(given: Settings) -> Part:
    """`benchmarks.training_loop` at several batch sizes and, behind the first, `benchmarks.loop_overhead`."""
    figures: dict[str, Any] = {}
    data, rounds = [*given.data, *ALIKE], given.sizes.rounds
    for batch_size, steps, mode in given.sizes.loops:
        name = f"batch {batch_size}{'' if mode == 'none' else ', compiled'}"
        figures[name] = {**training_loop.measure(data, rounds, batch_size, steps, mode), **_where()}
        yield figures
        if "overhead" not in figures:
            figures["overhead"] = {**loop_overhead.measure(rounds, *given.sizes.overhead), **_where()}
            yield figures


def of_epochs(given: Settings) -> Part:
    """`benchmarks.epoch_limit` of several ways to run a recipe."""
    sizes = given.sizes
    return _of_recipes(
        EPOCHS_OF, given, lambda recipe, further: epoch_limit.measure(recipe, further, *sizes.epochs, sizes.images)
    )


def of_steps(given: Settings) -> Part:
    """`benchmarks.step_parts` of the README's rows: what would have to be faster."""
    sizes = given.sizes
    return _of_recipes(
        [*EPOCHS_OF][:2],
        given,
        lambda recipe, further: step_parts.measure(recipe, further, sizes.steps, sizes.images),
    )


def _of_recipes(names: Iterable[str], given: Settings, measure: Callable[[str, Sequence[str]], dict[str, Any]]) -> Part:
    """Measures ways to run a recipe, one after another."""
    figures = {}
    for name in names:
        recipe, options = EPOCHS_OF[name]
        figures[name] = {**measure(recipe, [*options, *given.sizes.every]), **_where()}
        print(name, figures[name], flush=True)
        yield figures


def summary(**values: Sequence[float]) -> dict[str, Any]:
    """Values by seed, with their mean, and the median of seconds."""
    figures: dict[str, Any] = {name: [round(value, 3) for value in listed] for name, listed in values.items()}
    for name, listed in values.items():
        if listed:
            middle = ("median", statistics.median) if "seconds" in name else ("mean", statistics.mean)
            figures[f"{middle[0]}_{name}"] = round(middle[1](listed), 3)
    return figures


def train_and_test(given: Settings, recipe: str, seed: int, *further: str) -> dict[str, float]:
    """Seconds of training and of testing, and accuracies in percent after the last epoch."""
    options = [*given.data, *WITHOUT_VALIDATION, *WITHOUT_FILES, *given.sizes.every, *given.sizes.whole, *further]
    with tempfile.TemporaryDirectory() as folder:
        place = f"--trainer.default_root_dir={folder}"
        cli, clock = run("fit", f"--config={CONFIGS / recipe}.yaml", f"--seed_everything={seed}", place, *options)
    (metrics,) = cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    shown = {name.removeprefix("test/"): 100 * value for name, value in metrics.items() if "accuracy" in name}
    return {"seconds": clock.fit + clock.test, "fit_seconds": clock.fit, "test_seconds": clock.test, **shown}


def of_accuracy(given: Settings) -> Part:
    """`benchmarks.accuracy` of several recipes, which writes a result a run and goes on where it was stopped."""
    yield {"results": "accuracy/"}
    source = [f"--data_root={given.data_root}"] if given.data_root else given.data
    own = [f"--seeds={given.seeds}", f"--at_once={given.jobs}", f"--output={given.output / 'accuracy'}"]
    options = [*source, GRAPHS, *given.sizes.every, *given.sizes.whole, *given.further]
    with tempfile.TemporaryDirectory() as folder:
        # No whole run goes on from what only tried it out.
        place = [f"--runs={folder}"] if given.sizes.whole else []
        arguments = [*ACCURACY_OF, *own, *place, *options]
        # What a result calls the command that gives it.
        with mock.patch.object(sys, "argv", ["accuracy", *arguments]):
            accuracy.main(arguments)
