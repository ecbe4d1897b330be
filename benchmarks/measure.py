"""What the benchmarks share: data, clocks, alternation, and results that say where and of what they are."""

import argparse
import hashlib
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from benchmarks import jpeg_images
from cifar_lit.cli import CifarCLI
from cifar_lit.data import ImageDataModule
from cifar_lit.data.images import Images
from cifar_lit.files import write_atomically
from cifar_lit.precision import choose_precision

REPOSITORY = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("results")
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "32-true": torch.float32}
# Times a piece of work is timed, after once that does not count; and side of a matrix that takes a moment of that.
REPEATS, SHORT_SIDE = 10, 1024
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "albumentations", "numpy")
# Names the commit where what is measured is a copy without git.
COMMIT_VARIABLE = "CIFAR_LIT_COMMIT"


class NoiseDataModule(ImageDataModule):
    """Random images of CIFAR-10's size and classes: speed does not depend on what an image shows.

    Args:
        images: Number of training images; there are a fifth as many for testing.
        **kwargs: Those of `ImageDataModule`.
    """

    def __init__(self, images: int = 50_000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.images = images

    @property
    def class_names(self) -> tuple[str, ...]:
        """Ten digits."""
        return tuple("0123456789")

    def load(self, split: Literal["train", "test"]) -> Images:
        """The same noise every time."""
        count = self.images if split == "train" else self.images // 5
        rng = np.random.default_rng(count)
        return Images(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 10)


class Clock(Callback):
    """Times a run: its epochs, each from its start to the end of its last step, the whole of `fit`, and a test.

    Attributes:
        images: Of each epoch.
        epochs: Seconds of each epoch, without what follows its last step.
        pauses: Seconds between the last step of an epoch and the next epoch: validation, checkpoints, metrics.
        fit: Seconds of training with all of that, from when data and model are there; without what the command line's
            own callbacks take down at the start.
        test: Seconds of testing, to the end of its last step: before what panels draw.
    """

    def __init__(self) -> None:
        self.images: list[int] = []
        self.epochs: list[float] = []
        self.pauses: list[float] = []
        self.fit = self.test = 0.0
        self._begun = self._prepared = self._epoch_begun = self._epoch_ended = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts."""
        self._begun = now()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pauses: callbacks that were given come before the command line's own."""
        self._prepared = now() - self._begun

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts an epoch."""
        self._epoch_begun = now()
        if self.images:
            self.pauses.append(self._epoch_begun - self._epoch_ended)
        else:
            self._begun = self._epoch_begun - self._prepared
        self.images.append(0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts images, and stops behind the last step."""
        self.images[-1] += len(batch[0])
        if trainer.is_last_batch:
            self._epoch_ended = now()
            self.epochs.append(self._epoch_ended - self._epoch_begun)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops."""
        self.fit = now() - self._begun

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts."""
        self._begun = now()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, of: int = 0
    ) -> None:
        """Stops behind the last step: waiting for the GPU behind each would cost it time."""
        if batch_idx + 1 == trainer.num_test_batches[of]:
            self.test = now() - self._begun


def now() -> float:
    """Seconds, read when the GPU has done what it was given to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def run(*arguments: str) -> tuple[CifarCLI, Clock]:
    """Runs a command of the command line in this process, with a clock."""
    cli = CifarCLI([*arguments, "--trainer.callbacks+=benchmarks.measure.Clock"])
    return cli, next(c for c in cli.trainer.callbacks if isinstance(c, Clock))  # type: ignore[attr-defined]


def images_of(folder: str | None) -> list[str]:
    """The options that put the images of a folder in the place of a recipe's data; none without a folder."""
    return ["--data=ImageFolderDataModule", f"--data.root={Path(folder).resolve()}"] if folder else []


@cache
def kind_of(data_root: str | None) -> str:
    """What the images are called in a result: original, jpeg for those of `benchmarks.jpeg_images`, or their folder.

    Of folders of one name the end of theirs, a digest of the whole path, tells one from another.
    """
    if data_root is None:
        return "original"
    folder = Path(data_root).resolve()
    if jpeg_images.are_those(folder):
        return "jpeg"
    return f"other-{folder.name}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:6]}"


def settings_of(file: Path) -> str:
    """A recipe without its comments: what it measured may be written into these."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def noise(images: int) -> list[str]:
    """The options that put so many random images in the place of a recipe's data."""
    return ["--data=benchmarks.measure.NoiseDataModule", f"--data.images={images}"]


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the option that all share."""
    # Abbreviations would take options away from `fit`.
    new = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    new.add_argument("--output", type=Path, default=RESULTS, help="folder for the result")
    return new


def positive(text: str) -> int:
    """A number of seeds, rounds and the like: at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def existing_folder(text: str) -> str:
    """One that exists."""
    if not Path(text).is_dir():
        how = f": python -m benchmarks.jpeg_images makes {text}" if Path(text) == jpeg_images.PLACE else ""
        raise argparse.ArgumentTypeError(f"there is no folder {text}{how}")
    return text


def recipe_name(text: str) -> str:
    """The name of a recipe in configs/."""
    configs = REPOSITORY / "configs"
    name = Path(text.removeprefix(f"{configs}/").removeprefix("configs/").removesuffix(".yaml")).as_posix()
    if name.startswith(("/", "..")) or not (configs / f"{name}.yaml").is_file():
        names = sorted(file.relative_to(configs).with_suffix("").as_posix() for file in configs.rglob("*.yaml"))
        raise argparse.ArgumentTypeError(f"there is no {name} in configs/, but {', '.join(names)}")
    return name


def training_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser for what trains recipes: with the option that puts a folder's images in the place of their data."""
    new = parser(description)
    new.add_argument(
        "--data_root",
        type=existing_folder,
        help="folder with train/<class>/ and test/<class>/ instead of the recipe's data",
    )
    return new


def images_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser for what wants real images, by default those of `benchmarks.jpeg_images`."""
    new = parser(description)
    new.add_argument(
        "--images",
        type=existing_folder,
        default=str(jpeg_images.PLACE),
        help="folder with train/<class>/ and test/<class>/",
    )
    return new


def alternate(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measures A, B, …, A, B, …: what disturbs the machine for a while then disturbs all of them.

    Args:
        contenders: Each returns a speed; by name.
        rounds: How often each is measured, after one round that warms up and does not count.

    Returns:
        The speeds of each, in order.
    """
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(rounds + 1):
        for name, measure in contenders.items():
            speed = measure()
            print(f"{'warm-up' if i == 0 else f'round {i}'}: {name} {speed:,.0f}/s", flush=True)
            if i:
                speeds[name].append(speed)
    return speeds


def ratio(speeds: Mapping[str, list[float]], a: str, b: str) -> float:
    """Median over rounds of how many times as fast ``a`` was as ``b`` in the same round."""
    return statistics.median(x / y for x, y in zip(speeds[a], speeds[b], strict=True))


def median_seconds(work: Callable[[], torch.Tensor]) -> float:
    """Of a piece of work, done again and again."""
    seconds = []
    for _ in range(REPEATS + 1):
        begun = now()
        work()
        seconds.append(now() - begun)
    return statistics.median(seconds[1:])


def operations_a_second(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """The machine's speed of multiplying matrices of random numbers, in floating-point operations a second.

    Args:
        device: Of the machine.
        dtype: Of the numbers.
        side: Of the matrices.
    """
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: a @ b)


def machine() -> dict[str, Any]:
    """The machine, in words."""
    cpu: dict[str, Any] = {"cpu": platform.processor() or platform.machine()}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        # Several generations may have one name; then it is numbers that tell them apart.
        named = {"cpu": "model name", "cpu_family": "cpu family", "cpu_model": "model", "cpu_stepping": "stepping"}
        parts = (line.partition(":") for line in info.read_text().splitlines())
        told = {key.strip(): value.strip() for key, _, value in parts}
        cpu.update({name: told[key] for name, key in named.items() if key in told})
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        **cpu,
        "threads": torch.get_num_threads(),
        # What `fit` computes in unless told otherwise. A CPU without bfloat16 takes three times as long.
        "precision": choose_precision("auto")[0],
        "gpu": gpu,
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit that was measured, with ``+`` behind it where anything but results had changed."""
    if COMMIT_VARIABLE in os.environ:
        return os.environ[COMMIT_VARIABLE]

    def git(*args: str) -> str:
        done = subprocess.run(["git", *args], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
        return git("rev-parse", "--short", "HEAD") + ("+" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        # No git, or a copy without its history: hours of measuring must not end here.
        return f"unknown ({COMMIT_VARIABLE} would tell)"


def on_this(name: str, precision: str = "") -> str:
    """What a result of this machine is called: by its device, and by float32 where that is what it computes in.

    Args:
        name: Of the benchmark.
        precision: Lightning's name for it, where the result depends on it.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return f"{name}-{device}{'-float32' if precision == '32-true' else ''}"


def read(file: Path) -> Any:
    """What a file of JSON holds."""
    return json.loads(file.read_text(encoding="utf-8"))


def origin() -> dict[str, Any]:
    """Where a figure comes from: command, date, commit, machine and versions."""
    cpu_dtype = DTYPES[choose_precision("cpu")[0]]
    return {
        # As a shell takes it: an option may hold spaces.
        "command": shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine(),
        # How fast its CPU is at this moment: on a shared one, days differ by more than a factor of 2.
        "cpu_tflops": round(operations_a_second(torch.device("cpu"), cpu_dtype, SHORT_SIDE) / 1e12, 3),
        "versions": {package: version(package) for package in PACKAGES},
    }


def save(name: str, figures: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Writes ``<name>.json``: the figures, and where they come from."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_atomically(path, json.dumps({**origin(), **figures}, indent=2) + "\n")
    print(f"Wrote {path}")
    return path
