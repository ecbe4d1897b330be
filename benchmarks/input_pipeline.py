"""Images a second that each way of augmenting delivers, as normalised float32 batches (N, 3, 32, 32).

    python -m benchmarks.input_pipeline [--images 10000] [--batch_size 128] [--rounds 9] [--seconds 1]

R4's list (cutout, flip, affine map; configs/reference/r4.yaml) and normalisation, by the `device` executor, by the
`workers` executor, and by albumentations image by image in a torch DataLoader. Padded crop and flip by the `device`
executor, and by torchvision on PIL images in a torch DataLoader. All in one process; the two conventional ways also
with two worker processes, which stay from epoch to epoch. The images are noise.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import albumentations as A
import cv2
import torch
from albumentations.pytorch import ToTensorV2
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import REPOSITORY, NoiseDataModule, alternate, now, on_this, parser, positive, ratio, save
from benchmarks.training_loop import PilImages
from cifar_lit.cli import CifarCLI
from cifar_lit.console import hush_libraries
from cifar_lit.data.images import Images

R4 = REPOSITORY / "configs" / "reference" / "r4.yaml"
# torchvision's RandomCrop(32, padding=4): the border is black.
CROP_AND_FLIP = [
    A.PadIfNeeded(min_height=40, min_width=40, border_mode=cv2.BORDER_CONSTANT),
    A.RandomCrop(height=32, width=32),
    A.HorizontalFlip(),
]
# One epoch of batches.
Epoch = Callable[[], Iterator[Tensor]]


def transforms_of_r4() -> list[A.BasicTransform]:
    """The recipe's list, made as the command line makes it."""
    return list(CifarCLI(["summary", f"--config={R4}", f"--output={os.devnull}"]).datamodule.transforms)


def ours(images: int, batch_size: int, executor: Any, transforms: list[A.BasicTransform], accelerator: str) -> Epoch:
    """What `fit` gets from the data module."""
    data = NoiseDataModule(
        images, batch_size=batch_size, val_size=0, executor=executor, transforms=transforms, num_workers=0
    )
    data.setup("test")
    data.trainer = Trainer(
        accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    device = data.trainer.strategy.root_device
    loader, epochs = data.train_dataloader(), count()

    def batches() -> Iterator[Tensor]:
        loader.sampler.set_epoch(next(epochs))
        for batch in loader:
            yield data.on_after_batch_transfer([tensor.to(device) for tensor in batch], 0)[0]

    return batches


class AlbumentationsImages(Dataset[tuple[Tensor, int]]):
    """albumentations as its manual shows it: one image at a time."""

    def __init__(self, images: Images, transforms: list[A.BasicTransform]) -> None:
        self.images = images
        self.augment = A.Compose([*transforms, A.Normalize(), ToTensorV2()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An augmented image (3, 32, 32) and its label."""
        return self.augment(image=self.images.pixels[index])["image"], int(self.images.labels[index])


def plain(dataset: Dataset[tuple[Tensor, int]], batch_size: int, workers: int = 0) -> Epoch:
    """A torch DataLoader, by default in this process."""
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def batches() -> Iterator[Tensor]:
        for images, _ in loader:
            yield images

    return batches


def contenders(images: int, batch_size: int) -> dict[str, Epoch]:
    """An epoch of each, by name."""
    r4, noise = transforms_of_r4(), NoiseDataModule(images, val_size=0)
    noise.setup("test")
    assert noise.train_images is not None
    epochs = {
        "R4, device executor": ours(images, batch_size, "device", r4, "cpu"),
        "R4, workers executor": ours(images, batch_size, "workers", r4, "cpu"),
        "R4, albumentations": plain(AlbumentationsImages(noise.train_images, r4), batch_size),
        "R4, albumentations in two workers": plain(AlbumentationsImages(noise.train_images, r4), batch_size, 2),
        "crop and flip, device executor": ours(images, batch_size, "device", CROP_AND_FLIP, "cpu"),
        "crop and flip, torchvision": plain(PilImages(noise.train_images), batch_size),
        "crop and flip, torchvision in two workers": plain(PilImages(noise.train_images), batch_size, 2),
    }
    if torch.cuda.is_available():
        epochs["R4, device executor on the GPU"] = ours(images, batch_size, "device", r4, "cuda")
        epochs["crop and flip, device executor on the GPU"] = ours(images, batch_size, "device", CROP_AND_FLIP, "cuda")
    return epochs


def speed_of(epoch: Epoch, seconds: float) -> Callable[[], float]:
    """Measures images a second over whole epochs, for at least so many seconds."""

    def measure() -> float:
        images, begun = 0, now()
        while images == 0 or time.perf_counter() - begun < seconds:
            images += sum(len(batch) for batch in epoch())
        return images / (now() - begun)

    return measure


def measure(images: int, batch_size: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Speeds of all, their medians and what they are beside one another."""
    epochs = contenders(images, batch_size)
    speeds = alternate({name: speed_of(epoch, seconds) for name, epoch in epochs.items()}, rounds)
    others = [name for name in speeds if "albumentations" in name or "torchvision" in name]
    ratios = {
        f"{name} over {other.partition(', ')[2]}": round(ratio(speeds, name, other), 2)
        for name in speeds
        for other in others
        if "executor" in name and name.partition(",")[0] == other.partition(",")[0]
    }
    return {
        "what": f"images/s of augmented, normalised float32 batches of {batch_size}; median ratios within a round",
        "images_per_second": speeds,
        "median_images_per_second": {name: round(statistics.median(values)) for name, values in speeds.items()},
        "ratios": ratios,
        "opencv_threads": cv2.getNumThreads(),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measures and writes ``results/input_pipeline-<device>.json``."""
    options = parser(__doc__)
    options.add_argument("--images", type=positive, default=10_000)
    options.add_argument("--batch_size", type=positive, default=128)
    options.add_argument("--rounds", type=positive, default=9)
    options.add_argument("--seconds", type=float, default=1.0, help="least seconds of a measurement")
    given = options.parse_args(args)
    hush_libraries()
    figures = measure(given.images, given.batch_size, given.rounds, given.seconds)
    print(figures["median_images_per_second"], figures["ratios"])
    save(on_this("input_pipeline"), figures, given.output)


if __name__ == "__main__":
    main()
