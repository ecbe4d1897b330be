"""A run of a tiny network on images whose classes are colours, some of them labelled wrongly."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from cifar_lit.callbacks.provenance import Provenance
from cifar_lit.classifier import Classifier
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.images import Images
from cifar_lit.logger import CurvesLogger
from cifar_lit.models import ResNetV1


class Colours(ImageDataModule):
    """Noise of 32×32 with one of three channels brighter; every tenth label is wrong."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"val_size": 20, "batch_size": 20, **kwargs})

    @property
    def class_names(self) -> tuple[str, ...]:
        return ("red", "green, like grass", "blue")

    def load(self, split: Literal["train", "test"]) -> Images:
        rng = np.random.default_rng(len(split))
        labels = rng.permutation(np.arange(120 if split == "train" else 50) % 3)
        pixels = rng.integers(0, 200, (len(labels), 32, 32, 3), dtype=np.uint8)
        pixels[np.arange(len(labels)), :, :, labels] += 50
        labels[::10] = (labels[::10] + 1) % 3
        return Images(pixels, labels)


class Run(NamedTuple):
    """A finished run."""

    folder: Path
    checkpoint: Path
    data: type[Colours]

    def model(self, **kwargs: Any) -> Classifier:
        """A network like the run's, with weights of its own."""
        return ResNetV1(**{"depth": 8, "num_classes": 3, **kwargs})

    def trainer(self, **kwargs: Any) -> Trainer:
        """A trainer that leaves nothing behind."""
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        return Trainer(accelerator="cpu", enable_model_summary=False, **{**quiet, **kwargs})


def train(folder: Path, *further: Callback) -> Run:
    """Trains two epochs, with further callbacks, and leaves in the folder what a run of the command line leaves."""
    logger = CurvesLogger(str(folder), name="tiny", version="version_0")
    here = Path(logger.log_dir)
    keeper = ModelCheckpoint(here / "checkpoints", filename="last")
    run = Run(here, here / "checkpoints" / "last.ckpt", Colours)
    torch.manual_seed(0)
    callbacks = [*further, keeper, Provenance("", [])]
    trainer = run.trainer(max_epochs=2, logger=logger, callbacks=callbacks, enable_checkpointing=True)
    trainer.fit(run.model(), Colours(seed=1))
    (here / "config.yaml").touch()
    return run
