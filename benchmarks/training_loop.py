"""Speed of ``fit`` beside a bare PyTorch loop over the same network, data and augmentation, and a conventional script.

    python -m benchmarks.training_loop [--images FOLDER] [--rounds 15] [--batch_size 128] [--steps 20]
                                      [--compile_mode default]

The conventional script is what tutorials write: float32, NCHW, a torchvision pipeline on PIL images in two DataLoader
workers, and the loss read at every step. All three train the same ResNet-20 on the same images, in turns of some steps;
`fit` and the bare loop with the recipe's optimizer, the script with SGD. If they are to be compiled, a bare loop that
is not has turns, too.
"""

import contextlib
import multiprocessing
import os
import pty
import resource
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from itertools import count
from types import SimpleNamespace
from typing import Any, get_args

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms as T

from benchmarks.measure import (
    DTYPES,
    REPOSITORY,
    images_of,
    images_parser,
    now,
    on_this,
    positive,
    ratio,
    save,
    settings_of,
)
from benchmarks.turns import Turns, turn
from cifar_lit.callbacks.progress import EpochProgress
from cifar_lit.classifier import Classifier
from cifar_lit.cli import CifarCLI
from cifar_lit.compiling import CompileMode, compiled
from cifar_lit.console import hush_libraries
from cifar_lit.data import ImageDataModule
from cifar_lit.data.images import Images
from cifar_lit.models.cifar_resnet import CifarResNetV1
from cifar_lit.precision import choose_precision

RECIPE = REPOSITORY / "configs" / "resnet20.yaml"
UNCOMPILED = "bare loop, not compiled"
# Made of the training images and the device, it gives images/s of so many steps.
Contender = Callable[[Images, torch.device], Callable[[int], float]]
HELD_OUT = "--data.val_size=0.1"


def bare(model: Classifier, data: ImageDataModule, device: torch.device) -> Iterator[int]:
    """Trains a model's network with its optimizer in a loop of a dozen lines; an item a step, its number of images.

    The network is compiled as the model's is.
    """
    dtype = DTYPES[choose_precision("auto")[0]]
    net, optimizer = model.to(device).train().net, model.new_optimizer()
    if model.compile_mode != "none":
        net = compiled(net.forward, model.compile_mode)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10**6, cycle_momentum=False)
    # Once, as Lightning does.
    loader = data.train_dataloader()
    for epoch in count():
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            images, labels = data.on_after_batch_transfer([tensor.to(device) for tensor in batch], 0)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            yield len(labels)


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


def conventional(images: Images, batch_size: int, device: torch.device) -> Iterator[int]:
    """Float32, NCHW, PIL in two workers, ``loss.item()`` at every step; an item a step, its number of images."""
    # An epoch that does not end: workers that start anew are no steady state.
    forever = RandomSampler(images.labels, num_samples=10**9)
    # As in a script: a process that was spawned would spawn its workers, too, each with imports of its own.
    start = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    workers: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": start}
    loader = DataLoader(PilImages(images), batch_size, sampler=forever, **workers)
    net = CifarResNetV1(20).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss()
    total = 0.0
    for pictures, labels in loader:
        optimizer.zero_grad()
        loss = criterion(net(pictures.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        total += loss.item()
        yield len(labels)


class Elsewhere:
    """The conventional script in a process of its own: in this one the allocator is set as the command line sets it."""

    _loop: Iterator[int]

    @classmethod
    def begin(cls, images: Images, batch_size: int, device: torch.device) -> None:
        """Makes the loop, in that process."""
        cls._loop = conventional(images, batch_size, device)

    @classmethod
    def turn(cls, steps: int) -> float:
        """Images/s of some steps, in that process."""
        return turn(cls._loop, steps)


def _read_on(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # Its other end is closed.
        while os.read(descriptor, 2**16):
            pass


def bar_seconds(steps: int = 20_000) -> float:
    """Seconds that the progress bar costs a step, on a terminal."""
    reading, writing = pty.openpty()
    # A terminal that nobody reads is full one day.
    threading.Thread(target=_read_on, args=(reading,), daemon=True).start()
    trainer: Any = SimpleNamespace(
        estimated_stepping_batches=steps,
        global_step=1,
        lightning_module=None,
        accumulate_grad_batches=1,
        callbacks=[],
    )
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


def prepared(options: Sequence[str], device: torch.device) -> tuple[Iterator[int], Images]:
    """A bare loop with the model and the data that `fit` makes of its options, and their training images."""
    made = CifarCLI(["fit", *options, HELD_OUT, "--trainer.fast_dev_run=1"])
    return bare(made.model, made.datamodule, device), made.datamodule.train_images


def in_turns(
    options: Sequence[str],
    rounds: int,
    steps: int,
    further: Mapping[str, Contender],
) -> dict[str, list[float]]:
    """Images/s of `fit` and of the bare loop, in turns.

    Args:
        options: For `fit`.
        rounds: Turns of each that count.
        steps: Of a turn.
        further: What else has turns, by name.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loop, images = prepared(options, device)
    # As many epochs as it takes.
    arguments = ["fit", *options, HELD_OUT, "--trainer.max_epochs=1000000", "--trainer.limit_val_batches=1"]
    counted = ["--trainer.callbacks+=benchmarks.turns.Turns", f"--trainer.callbacks.steps={steps}"]
    counted += [f"--trainer.callbacks.rounds={rounds}"]
    with tempfile.TemporaryDirectory() as folder:
        arguments += [f"--trainer.default_root_dir={folder}"]
        others = {name: make(images, device) for name, make in further.items()}
        Turns.others = {"bare loop": lambda steps: turn(loop, steps), **others}
        try:
            trainer = CifarCLI([*arguments, *counted]).trainer
        finally:
            Turns.others = {}
    speeds: dict[str, list[float]] = next(c for c in trainer.callbacks if isinstance(c, Turns)).speeds  # type: ignore[attr-defined]
    return speeds


def measure(
    data_options: Sequence[str], rounds: int, batch_size: int, steps: int, compile_mode: CompileMode = "none"
) -> dict[str, Any]:
    """Speeds of all, their medians and what they are beside one another."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:

        def script(images: Images, device: torch.device) -> Callable[[int], float]:
            process.submit(Elsewhere.begin, images, batch_size, device).result()
            return lambda steps: process.submit(Elsewhere.turn, steps).result()

        options = [f"--config={RECIPE}", *data_options, f"--data.batch_size={batch_size}"]

        def as_it_is(_: Images, device: torch.device) -> Callable[[int], float]:
            loop, _ = prepared(options, device)
            return lambda steps: turn(loop, steps)

        further: dict[str, Contender] = {"conventional": script}
        if compile_mode != "none":
            further[UNCOMPILED] = as_it_is
        speeds = in_turns([*options, f"--model.compile_mode={compile_mode}"], rounds, steps, further)
    compiled_over = {}
    if UNCOMPILED in speeds:
        compiled_over["bare_loop_over_not_compiled"] = round(ratio(speeds, "bare loop", UNCOMPILED), 3)
    return {
        "what": f"ResNet-20, batch {batch_size}, images/s in steady state; crop and flip",
        "settings": settings_of(RECIPE),
        "compile_mode": compile_mode,
        "images_per_second": speeds,
        "median_images_per_second": {name: round(statistics.median(values)) for name, values in speeds.items()},
        "fit_over_bare_loop": round(ratio(speeds, "fit", "bare loop"), 3),
        "fit_over_conventional": round(ratio(speeds, "fit", "conventional"), 3),
        **compiled_over,
        "progress_bar_microseconds_a_step": round(1e6 * bar_seconds(), 1),
        # On Linux in KiB; of this process, in which `fit` and the bare loops are at the same time.
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measures and writes ``results/training_loop-<device>.json``.

    Where `fit` computes in float32 it is ``…-float32.json``, where it is compiled ``…-compiled.json``.
    """
    options = images_parser(__doc__)
    options.add_argument("--rounds", type=positive, default=15)
    options.add_argument("--batch_size", type=positive, default=128)
    options.add_argument("--steps", type=positive, default=20, help="steps of a turn")
    options.add_argument("--compile_mode", choices=get_args(CompileMode), default="none", help="of fit and bare loop")
    given = options.parse_args(args)
    hush_libraries()
    figures = measure(images_of(given.images), given.rounds, given.batch_size, given.steps, given.compile_mode)
    print({key: figures[key] for key in ("median_images_per_second", "fit_over_bare_loop", "fit_over_conventional")})
    # What a CPU without bfloat16 gives is another comparison: the script computes in float32 everywhere.
    how = "" if given.compile_mode == "none" else "-compiled"
    save(on_this("training_loop", choose_precision("auto")[0]) + how, figures, given.output)


if __name__ == "__main__":
    main()
