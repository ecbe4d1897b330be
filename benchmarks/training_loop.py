"""Speed of ``fit`` beside a bare PyTorch loop over the same network, data and augmentation, and a conventional script.

    python -m benchmarks.training_loop [--images FOLDER] [--rounds 5]

The conventional script is what tutorials write: float32, NCHW, a torchvision pipeline on PIL images in two DataLoader
workers, and the loss read at every step. All three train the same ResNet-20 with batches of 128.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_lightning import Callback, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from benchmarks.measure import alternate, ratio, save
from cifar_lit.cli import CifarCLI
from cifar_lit.console import hush_libraries
from cifar_lit.data import ImageDataModule
from cifar_lit.models.cifar_resnet import CifarResNetV1

BATCH = 128
# Steps of a measurement, and those before it that only bring the loop to speed.
STEPS, WARM_UP = 40, 5


class Clock(Callback):
    """Times the steady state of an epoch of `fit`."""

    def __init__(self) -> None:
        self.images_per_second = 0.0
        self._start = 0.0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Starts behind the warm-up, stops behind the last step."""
        step = args[-1] + 1
        if step in (WARM_UP, WARM_UP + STEPS):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.images_per_second = STEPS * BATCH / (time.perf_counter() - self._start)
            self._start = time.perf_counter()


def ours(root: str, folder: str) -> Callable[[], float]:
    """`fit` with everything that a run has on: metrics, curves, progress, checkpoints."""
    arguments = [
        "fit", "--config", "configs/resnet20.yaml", "--data", "ImageFolderDataModule", "--data.root", root,
        "--trainer.max_epochs=1", f"--trainer.limit_train_batches={WARM_UP + STEPS}", "--trainer.limit_val_batches=1",
        "--trainer.callbacks+=benchmarks.training_loop.Clock", f"--trainer.default_root_dir={folder}",
    ]  # fmt: skip

    def measure() -> float:
        trainer = CifarCLI(arguments).trainer
        clocks = [c for c in trainer.callbacks if type(c).__name__ == "Clock"]  # type: ignore[attr-defined]
        return float(clocks[0].images_per_second)

    return measure


def bare(data: ImageDataModule, device: torch.device) -> Callable[[], float]:
    """The same batches and network in a loop of a dozen lines."""

    def measure() -> float:
        seed_everything(42)
        net = CifarResNetV1(20).to(device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10_000)
        start = 0.0
        for step, batch in enumerate(data.train_dataloader()):
            if step == WARM_UP:
                _wait(device)
                start = time.perf_counter()
            images, labels = data.on_after_batch_transfer([tensor.to(device) for tensor in batch], 0)
            with torch.autocast(device.type, torch.bfloat16):
                loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if step == WARM_UP + STEPS - 1:
                break
        _wait(device)
        return STEPS * BATCH / (time.perf_counter() - start)

    return measure


class PilImages(Dataset[tuple[Tensor, int]]):
    """torchvision's way: a PIL image, its transforms, one at a time."""

    def __init__(self, data: ImageDataModule) -> None:
        assert data.train_images is not None
        self.images = data.train_images
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


def conventional(data: ImageDataModule, device: torch.device) -> Callable[[], float]:
    """Float32, NCHW, PIL in two workers, ``loss.item()`` at every step."""
    loader = DataLoader(PilImages(data), BATCH, shuffle=True, num_workers=2, persistent_workers=True)

    def measure() -> float:
        net = CifarResNetV1(20).to(device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        criterion = nn.CrossEntropyLoss()
        start = total = 0.0
        for step, (images, labels) in enumerate(loader):
            if step == WARM_UP:
                start = time.perf_counter()
            optimizer.zero_grad()
            loss = criterion(net(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            total += loss.item()
            if step == WARM_UP + STEPS - 1:
                break
        return STEPS * BATCH / (time.perf_counter() - start)

    return measure


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measures and writes ``results/training_loop-<device>.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="data/cifar10-jpeg", help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    hush_libraries()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cli = CifarCLI(["fit", "--config", "configs/resnet20.yaml", "--data", "ImageFolderDataModule",
                    "--data.root", args.images, "--trainer.fast_dev_run=1"])  # fmt: skip
    data = cli.datamodule
    with tempfile.TemporaryDirectory() as folder:
        speeds = alternate(
            {
                "fit": ours(args.images, folder),
                "bare loop": bare(data, device),
                "conventional": conventional(data, device),
            },
            args.rounds,
        )
    medians = {name: round(statistics.median(values)) for name, values in speeds.items()}
    figures = {
        "what": "ResNet-20, batch 128, images/s in steady state; crop and flip",
        "images_per_second": speeds,
        "median_images_per_second": medians,
        "fit_over_bare_loop": round(ratio(speeds, "fit", "bare loop"), 3),
        "fit_over_conventional": round(ratio(speeds, "fit", "conventional"), 3),
        # On Linux in KiB; of this process, with all three contenders in it.
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    print({key: figures[key] for key in ("median_images_per_second", "fit_over_bare_loop", "fit_over_conventional")})
    save(f"training_loop-{device.type}", figures)


if __name__ == "__main__":
    main()
