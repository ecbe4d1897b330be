"""Speed of ``fit`` beside a bare PyTorch loop over the same network, data and augmentation, and a conventional script.

    python -m benchmarks.training_loop [--images FOLDER] [--rounds 5] [--batch_size 128] [--steps 40]

The conventional script is what tutorials write: float32, NCHW, a torchvision pipeline on PIL images in two DataLoader
workers, and the loss read at every step. All three train the same ResNet-20 on the same batches.
"""

import contextlib
import multiprocessing
import os
import pty
import resource
import statistics
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_lightning import Callback, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from benchmarks.measure import REPOSITORY, alternate, images_of, now, parser, ratio, save
from cifar_lit.callbacks.progress import EpochProgress
from cifar_lit.cli import CifarCLI
from cifar_lit.console import hush_libraries
from cifar_lit.data import ImageDataModule
from cifar_lit.data.images import Images
from cifar_lit.models.cifar_resnet import CifarResNetV1
from cifar_lit.precision import choose_precision

RECIPE = str(REPOSITORY / "configs" / "resnet20.yaml")
# Steps that only bring a loop to speed.
WARM_UP = 5
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "32-true": torch.float32}


class SteadyState(Callback):
    """Times what follows the first steps of an epoch of `fit`."""

    def __init__(self) -> None:
        self.images_per_second = 0.0
        self._images = 0
        self._begun = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Starts behind the warm-up, stops behind the last step."""
        self._images += len(batch[0])
        if batch_idx + 1 == WARM_UP:
            self._images, self._begun = 0, now()
        elif trainer.is_last_batch:
            self.images_per_second = self._images / (now() - self._begun)


def ours(arguments: Sequence[str], steps: int, folder: str) -> Callable[[], float]:
    """`fit` with everything that a run has on: metrics, curves, progress, checkpoints."""
    limits = ["--trainer.max_epochs=1", f"--trainer.limit_train_batches={WARM_UP + steps}"]
    more = ["--trainer.limit_val_batches=1", "--trainer.callbacks+=benchmarks.training_loop.SteadyState"]

    def measure() -> float:
        trainer = CifarCLI([*arguments, *limits, *more, f"--trainer.default_root_dir={folder}"]).trainer
        # By name: run as a script, this module is there twice.
        clocks = [c for c in trainer.callbacks if type(c).__name__ == "SteadyState"]  # type: ignore[attr-defined]
        return float(clocks[0].images_per_second)

    return measure


def bare(data: ImageDataModule, steps: int, device: torch.device) -> Callable[[], float]:
    """The same batches and network in a loop of a dozen lines."""
    dtype = DTYPES[choose_precision("auto")[0]]

    def measure() -> float:
        seed_everything(42)
        net = CifarResNetV1(20).to(device).to(memory_format=torch.channels_last)
        # Fused, as the recipe's.
        optimizer = torch.optim.SGD(
            net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10_000)
        begun, seen = 0.0, 0
        for step, batch in enumerate(data.train_dataloader()):
            if step == WARM_UP:
                begun, seen = now(), 0
            images, labels = data.on_after_batch_transfer([tensor.to(device) for tensor in batch], 0)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            seen += len(labels)
            if step == WARM_UP + steps - 1:
                break
        return seen / (now() - begun)

    return measure


class PilImages(Dataset[tuple[Tensor, int]]):
    """torchvision's way: a PIL image, its transforms, one at a time."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.transform = T.Compose(
            [
                T.RandomCrop(32, padding=4),
                T.RandomHorizontalFlip(),
                T.ToTensor(),
                T.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An augmented image (3, 32, 32) and its label."""
        return self.transform(Image.fromarray(self.images.pixels[index])), int(self.images.labels[index])


def train_conventionally(images: Images, batch_size: int, steps: int, device: torch.device) -> float:
    """Images/s of float32, NCHW, PIL in two workers, ``loss.item()`` at every step."""
    loader = DataLoader(PilImages(images), batch_size, shuffle=True, num_workers=2)
    net = CifarResNetV1(20).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss()
    begun = total = 0.0
    seen = 0
    for step, (pictures, labels) in enumerate(loader):
        if step == WARM_UP:
            begun, seen = now(), 0
        optimizer.zero_grad()
        loss = criterion(net(pictures.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        total += loss.item()
        seen += len(labels)
        if step == WARM_UP + steps - 1:
            break
    return seen / (now() - begun)


def _read_on(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # Its other end is closed.
        while os.read(descriptor, 2**16):
            pass


def bar_seconds(steps: int = 20_000) -> float:
    """Seconds that the progress bar costs a step, on a terminal."""
    reading, writing = pty.openpty()
    # A terminal that nobody reads is full one day.
    threading.Thread(target=_read_on, args=(reading,), daemon=True).start()
    trainer: Any = SimpleNamespace(estimated_stepping_batches=steps, global_step=1)
    with os.fdopen(writing, "w") as terminal, redirect_stderr(terminal):
        bar = EpochProgress()
        bar._open("Epoch", steps)
        assert bar._bar is not None
        assert not bar._bar.disable, "it is shown"
        begun = now()
        for step in range(steps):
            bar.on_train_batch_end(trainer, None, {"loss": torch.zeros(())}, None, step)  # type: ignore[arg-type]
        seconds = now() - begun
        bar._close()
    return seconds / steps


def measure(data_options: Sequence[str], rounds: int, batch_size: int, steps: int) -> dict[str, Any]:
    """Speeds of the three, their medians and what they are beside one another."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arguments = ["fit", f"--config={RECIPE}", *data_options, "--data.val_size=0.1", f"--data.batch_size={batch_size}"]
    with (
        tempfile.TemporaryDirectory() as folder,
        # The script has a process of its own: in this one the allocator is set as the command line sets it.
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process,
    ):
        once = ["--trainer.fast_dev_run=1", f"--trainer.default_root_dir={folder}"]
        data: ImageDataModule = CifarCLI([*arguments, *once]).datamodule
        images = data.train_images
        assert images is not None
        contenders = {
            "fit": ours(arguments, steps, folder),
            "bare loop": bare(data, steps, device),
            "conventional": lambda: process.submit(train_conventionally, images, batch_size, steps, device).result(),
        }
        speeds = alternate(contenders, rounds)
    return {
        "what": f"ResNet-20, batch {batch_size}, images/s in steady state; crop and flip",
        "images_per_second": speeds,
        "median_images_per_second": {name: round(statistics.median(values)) for name, values in speeds.items()},
        "fit_over_bare_loop": round(ratio(speeds, "fit", "bare loop"), 3),
        "fit_over_conventional": round(ratio(speeds, "fit", "conventional"), 3),
        "progress_bar_microseconds_a_step": round(1e6 * bar_seconds(), 1),
        # On Linux in KiB; of this process: fit and the bare loop.
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measures and writes ``results/training_loop-<device>.json``."""
    options = parser(__doc__)
    options.add_argument("--images", default="data/cifar10-jpeg", help="folder with train/<class>/ and test/<class>/")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--batch_size", type=int, default=128)
    options.add_argument("--steps", type=int, default=40, help="steps of a measurement")
    given = options.parse_args(args)
    hush_libraries()
    figures = measure(images_of(given.images), given.rounds, given.batch_size, given.steps)
    print({key: figures[key] for key in ("median_images_per_second", "fit_over_bare_loop", "fit_over_conventional")})
    save(f"training_loop-{'cuda' if torch.cuda.is_available() else 'cpu'}", figures, given.output)


if __name__ == "__main__":
    main()
