"""The part of `benchmarks.gpu` that races configs/speed_gpu.yaml against the record's own program."""

import importlib.util
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from pytorch_lightning import Callback, Trainer

from benchmarks.gpu_parts import CONFIGS, GRAPHS, Part, Settings, summary, train_and_test
from benchmarks.measure import NoiseDataModule, settings_of
from cifar_lit.classifier import Classifier
from cifar_lit.data import ImageDataModule, ImageFolderDataModule

Run = Callable[[int], dict[str, float]]


class SameNetwork(Callback):
    """Trains every model of this process in the network of the first, which has been compiled and stays on its device.

    Its weights are set to the new model's. That is what airbench does from run to run, outside its clock.
    """

    kept: ClassVar[tuple[Any, Any] | None] = None

    def setup(self, trainer: Trainer, pl_module: Classifier, stage: str) -> None:  # type: ignore[override]
        """Changes networks."""
        if stage != "fit":
            return
        if SameNetwork.kept is not None:
            network, compiled = SameNetwork.kept
            network.load_state_dict(pl_module.net.state_dict())
            network.zero_grad()
            pl_module.net, pl_module._compiled = network, compiled
        SameNetwork.kept = pl_module.net, pl_module._compiled
        # Lightning takes a model off its device behind every run: CUDA graphs would have to be recorded again.
        pl_module.cpu = lambda: pl_module  # type: ignore[method-assign]


def write_for_airbench(data: ImageDataModule, folder: Path) -> None:
    """Writes the images as the files that airbench makes of torchvision's CIFAR10."""
    data.prepare_data()
    folder.mkdir()
    for split in ("train", "test"):
        images = data.load(split)
        # It whitens by the first images, and a folder's come class by class.
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        tensors = {"images": torch.from_numpy(images.pixels)[order], "labels": torch.from_numpy(images.labels)[order]}
        torch.save({**tensors, "classes": list(data.class_names)}, folder / f"{split}.pt")


@contextmanager
def airbench(program: Path, data: ImageDataModule) -> Iterator[Run]:
    """Loads airbench94_muon.py, and lets it compile and warm up as it does when it is started.

    Args:
        program: The file, unchanged.
        data: The images that it is to train on and to test with.

    Yields:
        Does a run of its ``main`` and gives its own seconds and its accuracies in percent.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_for_airbench(data, Path(folder, "cifar10"))
        spec = importlib.util.spec_from_file_location("airbench", program.resolve())
        assert spec is not None
        assert spec.loader is not None
        theirs: Any = importlib.util.module_from_spec(spec)
        # It reads its own text from where it was started, and its images from the folder that it was started in.
        arguments, sys.argv = sys.argv, [str(program.resolve())]
        # Where the compiler looks its functions up.
        sys.modules[spec.name] = theirs
        try:
            spec.loader.exec_module(theirs)
        finally:
            sys.argv = arguments
        found: dict[str, float] = {}

        def keep(variables: dict[str, Any], is_final_entry: bool) -> None:
            # Not the rest of them, whose memory the next run is to have.
            found.update({name: variables[name] for name in ("time_seconds", "val_acc")})

        theirs.print_training_details = keep
        network = theirs.CifarNet().cuda().to(memory_format=torch.channels_last)
        network.compile(mode="max-autotune")

        def race(run: int | str) -> dict[str, float]:
            with chdir(folder):
                accuracy = theirs.main(run, network)
            return {
                "seconds": found["time_seconds"],
                "accuracy": 100 * found["val_acc"],
                "accuracy_with_views": 100 * accuracy,
            }

        race("warmup")
        yield race


def of_race(given: Settings) -> Part:
    """Both over seeds, in turn, each after a run that warms up; without airbench, ours alone."""
    # What makes it tiny goes before.
    options = [GRAPHS, *given.sizes.every, *given.sizes.whole]
    options.append("--trainer.callbacks+=benchmarks.gpu_speed.SameNetwork")

    def ours(seed: int) -> dict[str, float]:
        return train_and_test(given, "speed_gpu", seed, *options)

    recipe = {"settings": settings_of(CONFIGS / "speed_gpu.yaml"), "options": options}

    SameNetwork.kept = None
    # Lightning gives the GPU's memory back behind every run: the next one, ours or theirs, would fetch it anew.
    with mock.patch("torch.cuda.empty_cache"):
        ours(given.seeds)
        if given.airbench is None:
            yield from _alternate({"speed": ours}, given.seeds, recipe)
            return
        data = ImageFolderDataModule(given.data_root) if given.data_root else NoiseDataModule(given.sizes.images)
        # Whatever becomes of theirs.
        for latest in _alternate({"speed": ours}, 1, recipe):
            yield latest
        try:
            with airbench(given.airbench, data) as theirs:
                for latest in _alternate({"airbench": theirs, "speed": ours}, given.seeds, recipe):
                    yield latest
        except Exception as error:  # Of a program that is not ours.
            yield {**latest, "race_error": repr(error)[-2000:]}


def _alternate(contenders: dict[str, Run], seeds: int, recipe: dict[str, Any]) -> Part:
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for seed in range(seeds):
        for name, contender in contenders.items():
            runs[name].append(contender(seed))
            print(name, runs[name][-1], flush=True)
        figures: dict[str, Any] = recipe | {
            name: summary(**{figure: [run[figure] for run in own] for figure in own[0]}) for name, own in runs.items()
        }
        if len(contenders) > 1:
            ours, theirs = (figures[name]["median_seconds"] for name in ("speed", "airbench"))
            figures["speed_over_airbench"] = round(ours / theirs, 3)
            figures["accuracy_over_airbench"] = _difference(
                [run["accuracy_multi_view"] for run in runs["speed"]],
                [run["accuracy_with_views"] for run in runs["airbench"]],
            )
        yield figures


def _difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float | None]:
    """How many points our mean accuracy lies above theirs, and its standard error, which takes two runs of each."""
    points = statistics.mean(ours) - statistics.mean(theirs)
    several = min(len(ours), len(theirs)) > 1
    error = math.sqrt(sum(statistics.variance(one) / len(one) for one in (ours, theirs))) if several else None
    return {"points": round(points, 3), "standard_error": error if error is None else round(error, 3)}
