"""What a run was: command, settings, seed, versions, commit and data, in its folder and in its checkpoints."""

import json
import os
import platform
import shlex
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

import cifar_lit
from cifar_lit.checkpoint_content import data_in
from cifar_lit.console import say
from cifar_lit.files import write_atomically
from cifar_lit.identity import fingerprint, git_commit, same_classes
from cifar_lit.runs import PROVENANCE

PACKAGES = ("cifar-lit", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "albumentations", "numpy")


class Provenance(Callback):
    """Writes ``provenance.json`` to the run's folder, and the same to every checkpoint's ``provenance``.

    Both hold a list: an entry for the start of the run, and one for each time that it was resumed.

    Args:
        settings: As resolved, as YAML. They go to the checkpoint; in the folder they have a file of their own.
        arguments: Of the command line, behind the program's name.
    """

    def __init__(self, settings: str, arguments: Sequence[str]) -> None:
        self.settings = settings
        self.arguments = arguments
        self._starts: list[dict[str, Any]] = []

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Goes on with the list of the run that is resumed, if it is of these classes."""
        learnt, classes = data_in(checkpoint), getattr(getattr(trainer, "datamodule", None), "class_names", None)
        if learnt is not None and classes:
            # Lightning hands data what a checkpoint keeps of them only where both are of one class of Python's.
            same_classes(learnt["class_names"], classes, "The checkpoint")
        self._starts = list(checkpoint.get("provenance", []))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes everything down; not before a resumed run knows its step."""
        self._starts.append(
            {
                "command": shlex.join(["cifar-lit", *self.arguments]),
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "from_step": trainer.global_step,
                "seed": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
                "commit": git_commit(Path(cifar_lit.__file__).parent),
                "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
                "machine": {
                    "device": torch.cuda.get_device_name()
                    if pl_module.device.type == "cuda"
                    else pl_module.device.type,
                    "devices": trainer.world_size,
                    "threads": torch.get_num_threads(),
                    "precision": str(trainer.precision),
                },
                "data": _data(trainer),
                "settings": self.settings,
            }
        )
        changed = [key for key in ("seed", "data") if self._starts[-2:][0][key] != self._starts[-1][key]]
        if changed:
            say(f"Not as before the run was resumed: {' and '.join(changed)}. It goes on with what is given now.")
        # On every rank: it is rank zero's, which the others wait to be told.
        folder = trainer.log_dir
        # Without a logger it would be the working directory.
        if trainer.is_global_zero and trainer.logger is not None and folder is not None:
            shown = [{key: value for key, value in start.items() if key != "settings"} for start in self._starts]
            write_atomically(Path(folder) / PROVENANCE, json.dumps(shown, indent=2) + "\n")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps it with the weights."""
        checkpoint["provenance"] = self._starts


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        # Such as this one, where it is run from its folder without having been installed.
        return None


def _data(trainer: Trainer) -> dict[str, Any]:
    data = getattr(trainer, "datamodule", None)
    about: dict[str, Any] = {"name": type(data).__name__}
    for split in ("train", "val", "test"):
        images = getattr(data, f"{split}_images", None)
        if images is not None and hasattr(images, "pixels"):
            about[split] = {"images": len(images.labels), "sha256": fingerprint(images)}
    return about
