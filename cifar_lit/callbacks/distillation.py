"""Knowledge distillation: a network learns from the answers of a trained one beside the labels."""

import importlib
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cifar_lit.classifier import Classifier
from cifar_lit.console import say
from cifar_lit.errors import UserError
from cifar_lit.identity import sha256_of
from cifar_lit.runs import LAST, LOGS, checkpoints, load_checkpoint

# A checkpoint chooses among these alone: to name anything else would import it, and so execute what is in it.
ARCHITECTURE = re.compile(r"cifar_lit\.models(\.\w+)*\.[A-Z]\w*")
# A checkpoint's file has an ending.
RECIPE = re.compile(r"[\w-]+")


class Distillation(Callback):
    """Adds to the loss how far the logits are from those of a trained network, the teacher, for the same images.

    The loss is (1 − weight) times that of the labels, plus weight · T² times the Kullback–Leibler divergence of the
    softmax of both logits, each divided by the temperature T (Hinton et al. 2015, arXiv:1503.02531). The teacher sees
    the augmented images, is not trained, and costs a forward pass a step; it is no part of the checkpoints.

    Args:
        teacher: Checkpoint of a run of one of this package's architectures, on the same classes; or the name of a
            recipe, such as ``resnet20``, for the last checkpoint of its newest run in the same ``lightning_logs``. A
            run goes on with the one that it began with, which its own settings name.
        weight: Share of the teacher, in [0, 1]. At 1 the labels are not looked at.
        temperature: Above 0. The higher, the more the teacher's unlikely classes count.

    Raises:
        UserError: An argument is out of its range; at the start of a fit, the teacher cannot be read, is of another
            architecture or of images that are scaled in another way; on resuming, it is not that of the run.
    """

    def __init__(self, teacher: str, weight: float = 0.9, temperature: float = 4.0) -> None:
        if not 0 <= weight <= 1:
            raise UserError(f"weight is {weight}: give the teacher's share of the loss, from 0 to 1.")
        if temperature <= 0:
            raise UserError(f"temperature is {temperature}: give a number above 0.")
        self.teacher = teacher
        self.path = Path(teacher)
        self.weight = weight
        self.temperature = temperature
        self._teacher: Classifier | None = None
        self._digest: str | None = None
        self._begun_with: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the teacher, before anything is trained."""
        if stage != "fit":
            return
        if not isinstance(pl_module, Classifier):
            raise UserError(f"Distillation changes the loss of a Classifier, which {type(pl_module).__name__} is not.")
        known = self._known(trainer)
        if not known:
            raise UserError(
                f"{Path(trainer.default_root_dir) / LOGS} holds no run of the teacher {self.teacher}: train that "
                "recipe first with `fit`, or give a checkpoint with --trainer.callbacks.teacher."
            )
        self.path = known[-1]
        if not self.path.is_file():
            raise UserError(f"There is no teacher {self.path}: train one with `fit`, and give its checkpoint.")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the teacher, puts it where the network is, and into its loss."""
        assert isinstance(pl_module, Classifier)
        self._digest = sha256_of(self.path)
        if self._begun_with is not None and self._begun_with["teacher"] != self._digest:
            self._take_up(self._begun_with, self._known(trainer))
        content = load_checkpoint(self.path)
        self._teacher = self._built(content, pl_module)
        self._compare(content.get("datamodule_hyper_parameters", {}), trainer)
        epochs = f" after {content['epoch'] + 1} epochs" if "epoch" in content else ""
        say(f"Teacher: {type(self._teacher).__name__} of {self.path}{epochs}")
        self._teacher.to(device=pl_module.device, dtype=pl_module.dtype)
        pl_module.taught = self.loss

    def _known(self, trainer: Trainer) -> list[Path]:
        """The checkpoints that may be meant, the newest last."""
        if RECIPE.fullmatch(self.teacher):
            return checkpoints(LAST, Path(trainer.default_root_dir), self.teacher)
        return [Path(self.teacher)]

    def _take_up(self, begun_with: dict[str, Any], known: list[Path]) -> None:
        """Goes on with the teacher that a resumed run began with, if it is among those that may be meant."""
        same = [path for path in known if sha256_of(path) == begun_with["teacher"]]
        if not same:
            raise UserError(
                f"{self.path} is not the teacher that this run began with, which was {begun_with['path']}: give that, "
                "or begin afresh."
            )
        self.path, self._digest = same[-1], begun_with["teacher"]

    def _built(self, content: dict[str, Any], pupil: Classifier) -> Classifier:
        settings = dict(content.get("hyper_parameters", {}))
        name = settings.pop("_class_path", None)
        if not isinstance(name, str) or not ARCHITECTURE.fullmatch(name):
            raise UserError(f"The teacher {self.path} is of none of cifar_lit's architectures, but of {name}.")
        module, _, kind = name.rpartition(".")
        # What only training needs is left out, and it runs as it is.
        left_out = {"optimizer", "schedule", "compile_mode", "_instantiator"}
        settings = {key: value for key, value in settings.items() if key not in left_out}
        try:
            teacher: Classifier = getattr(importlib.import_module(module), kind)(**settings)
            teacher.load_state_dict(content["state_dict"])
        except (AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
            # The first line: behind it torch lists every weight.
            reason = str(error).partition("\n")[0]
            raise UserError(f"The teacher {self.path} does not fit its architecture: {reason}") from error
        if teacher.num_classes != pupil.num_classes:
            raise UserError(
                f"The teacher {self.path} knows {teacher.num_classes} classes, and the data have {pupil.num_classes}: "
                "give one that was trained on them."
            )
        return teacher.eval().requires_grad_(False)

    def _compare(self, taught: dict[str, Any], trainer: Trainer) -> None:
        own: dict[str, Any] = dict(getattr(getattr(trainer, "datamodule", None), "hparams", {}))
        keys = {"normalize", "val_size", "split_seed"} & taught.keys() & own.keys()
        differ = {key for key in keys if taught[key] != own[key]}
        if "normalize" in differ:
            raise UserError(
                f"The teacher saw images with normalize: {taught['normalize']}, and these have {own['normalize']}: "
                "give both the same."
            )
        # Which images are held out.
        if differ & {"val_size", "split_seed"}:
            say("The teacher was trained on images that are held out here: validation accuracy flatters.")

    def loss(self, images: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
        """The loss to train on.

        Args:
            images: Float (N, 3, H, W), normalised.
            logits: Of the network that is trained, (N, num_classes).
            loss: That of the labels, ().
        """
        assert self._teacher is not None
        with torch.no_grad():
            targets = F.log_softmax(self._teacher(images).float() / self.temperature, dim=1)
        answers = F.log_softmax(logits.float() / self.temperature, dim=1)
        # T²: gradients of softened logits shrink by it.
        apart = self.temperature**2 * F.kl_div(answers, targets, reduction="batchmean", log_target=True)
        return (1 - self.weight) * loss + self.weight * apart

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the network as it was."""
        if isinstance(pl_module, Classifier):
            pl_module.taught = None
        self._teacher = None

    def state_dict(self) -> dict[str, Any]:
        """Which teacher it is: its file, and that one's SHA-256."""
        return {"teacher": self._digest, "path": str(self.path)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps in mind which teacher a resumed run began with."""
        self._begun_with = state_dict
