"""Knowledge distillation: a student learns from the outputs of a trained teacher beside the labels."""

import importlib
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from cifar_lit.callbacks.part_of_training import PartOfTraining
from cifar_lit.checkpoint_content import data_in, epochs_in, load_checkpoint, scaling_in
from cifar_lit.classifier import Classifier
from cifar_lit.console import say
from cifar_lit.errors import UserError
from cifar_lit.files import expanded, write_atomically
from cifar_lit.identity import same_classes, sha256_of
from cifar_lit.runs import LAST, LOGS, checkpoints

# A checkpoint chooses among these alone: to name anything else would import it, and so execute what is in it.
ARCHITECTURE = re.compile(r"cifar_lit\.models(\.\w+)*\.[A-Z]\w*")
RECIPE = re.compile(r"[\w-]+")  # a checkpoint's file has an ending
# The copy in the folder of the run that it teaches.
TEACHER = "teacher.ckpt"
# Most that mean and deviation of the teacher's images may be from those here, as a share of what is divided by.
APART = 0.1


class Distillation(PartOfTraining):
    """Adds to the loss how far the logits are from those of a trained network, the teacher, for the same images.

    The loss is (1 − weight) times that of the labels, plus weight · T² times the Kullback–Leibler divergence of the
    softmax of both logits, each divided by the temperature T (Hinton et al. 2015, arXiv:1503.02531). The teacher sees
    the augmented images, is not trained, and costs a forward pass a step. It is no part of the checkpoints; the run's
    folder keeps a copy.

    Args:
        teacher: Checkpoint of a run of one of this package's architectures, on the same classes; or a run's folder, or
            the name of a recipe, such as ``resnet20``, for the last checkpoint of it, or of its newest run in the same
            ``lightning_logs``. A run goes on with the one that it began with, whose copy its own settings name.
        weight: Share of the teacher, in [0, 1]. At 1 the labels are not looked at.
        temperature: Above 0. The higher, the more the teacher's unlikely classes count.

    Raises:
        UserError: An argument is out of its range; at the start of a fit, the teacher cannot be read, is of another
            architecture, of other classes or of images that are scaled in another way; on resuming, it is not that of
            the run.
    """

    attribute = "taught"
    changes = "loss"
    left_out = (
        "not asked the teacher: it has to call super().training_step, or self.taught(images, logits, loss) for its loss"
    )

    def __init__(self, teacher: str | Path, weight: float = 0.9, temperature: float = 4.0) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise UserError(f"weight is {weight}: give the teacher's share of the loss, from 0 to 1.")
        if temperature <= 0:
            raise UserError(f"temperature is {temperature}: give a number above 0.")
        self.teacher, self.path = str(teacher), expanded(teacher)
        self.weight, self.temperature = weight, temperature
        self._teacher: Classifier | None = None
        self._digest: str | None = None
        self._begun_with: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a module without the loss, before anything else is done."""
        if stage == "fit":
            self._begun_with = None  # of a run that was tested, or gone on with, before
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the teacher, puts it where the network is and into its loss, and a copy of it into the run's folder."""
        assert isinstance(pl_module, Classifier)
        # On every rank: it is rank zero's, which the others wait to be told.
        folder = None if trainer.logger is None or trainer.fast_dev_run else trainer.log_dir  # type: ignore[attr-defined]
        copy = None if folder is None else Path(folder) / TEACHER
        self.path = self._found(trainer, copy)
        # Read once: the run that trains it may go on, and write the next one in its place.
        file = self.path.read_bytes()
        self._digest = sha256(file).hexdigest()
        begun_with = (self._begun_with or {}).get("teacher", self._digest)
        if {trainer.strategy.broadcast(self._digest), begun_with} != {self._digest}:
            raise UserError(f"The teacher {self.path} changed while it was read: start again, or give a copy of it.")
        content = load_checkpoint(self.path, file)
        self._teacher = self._built(content, pl_module)
        self._compare(content.get("datamodule_hyper_parameters", {}), trainer)
        self._compare_data(content, trainer)
        epochs = f" after {count} epochs" if (count := epochs_in(content)) is not None else ""
        say(f"Teacher: {type(self._teacher).__name__} of {self.path}{epochs}")
        self._teacher.to(device=pl_module.device, dtype=pl_module.dtype)
        pl_module.taught = self.loss
        if copy is not None:
            self._keep(copy, file, trainer)

    def _found(self, trainer: Trainer, copy: Path | None) -> Path:
        """The checkpoint that is meant; for a resumed run the one that it began with."""
        root, asked = Path(trainer.default_root_dir), expanded(self.teacher)
        asked = asked / "checkpoints" / f"{LAST}.ckpt" if asked.is_dir() else asked
        by_recipe = RECIPE.fullmatch(self.teacher) is not None
        meant = checkpoints(LAST, root, self.teacher) if by_recipe else [asked] * asked.is_file()
        if self._begun_with is not None:
            begun_with = self._begun_with
            # Whoever names the same teacher as then, or the copy, as the run's own settings do, means that one,
            # whatever has become of its file.
            same_name = self.teacher in (begun_with.get("asked"), begun_with["path"])
            copies = [copy, Path(begun_with["path"])] if same_name else []
            meant = [*(path for path in copies if path is not None and path.is_file()), *meant]
            same = next((path for path in meant if sha256_of(path) == begun_with["teacher"]), None)
            if same is not None:
                return same
            if meant:
                raise UserError(
                    f"{meant[-1]} is not the teacher that this run began with, whose copy was {begun_with['path']}: "
                    "give one that is, or begin afresh."
                )
        if meant:
            return meant[-1]
        if by_recipe:
            raise UserError(
                f"{root / LOGS} holds no run of the teacher {self.teacher}: train that recipe first with `fit`, or "
                "give a checkpoint with --trainer.callbacks.teacher."
            )
        raise UserError(f"There is no teacher {asked}: train one with `fit`, and give its checkpoint.")

    def _keep(self, copy: Path, file: bytes, trainer: Trainer) -> None:
        """Copies the teacher into the run's folder: its own run may go on, and change the file."""
        if trainer.is_global_zero and self.path != copy:
            write_atomically(copy, file)
        self.path = copy

    def _built(self, content: dict[str, Any], student: Classifier) -> Classifier:
        settings = dict(content.get("hyper_parameters", {}))
        name = settings.pop("_class_path", None) or content.get("class_path")
        if not isinstance(name, str) or not ARCHITECTURE.fullmatch(name):
            raise UserError(f"The teacher {self.path} is of none of cifar_lit's architectures, but of {name}.")
        module, _, kind = name.rpartition(".")
        # What only training needs is left out, and it runs as it is.
        left_out = {"optimizer", "schedule", "compile_mode", "_instantiator"}
        settings = {key: value for key, value in settings.items() if key not in left_out}
        try:
            # Its first weights are drawn and thrown away: what the run draws is as without it.
            with torch.random.fork_rng(devices=[]):
                teacher: Classifier = getattr(importlib.import_module(module), kind)(**settings)
            teacher.load_state_dict(content["state_dict"])
        except (AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
            # The first line: behind it torch lists every weight.
            reason = str(error).partition("\n")[0]
            raise UserError(f"The teacher {self.path} does not fit its architecture: {reason}") from error
        if teacher.num_classes != student.num_classes:
            raise UserError(
                f"The teacher {self.path} knows {teacher.num_classes} classes, and the data have "
                f"{student.num_classes}: give one that was trained on them."
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
        if {"transforms"} <= taught.keys() & own.keys() and scaling_in(taught) != scaling_in(own):
            raise UserError(
                "The lists of transforms of the teacher and of this run do not normalise alike: give both the same "
                "Normalize or ToFloat, or none."
            )
        # Which images are held out. Without any, those of the test split are validated, which no teacher has seen.
        if own.get("val_size") != 0 and differ & {"val_size", "split_seed"}:
            say("The teacher was trained on images that are held out here: validation accuracy is too good.")

    def _compare_data(self, content: dict[str, Any], trainer: Trainer) -> None:
        """Sees to it that the classes are the same, and pixels the same inputs, where both sides tell."""
        data = getattr(trainer, "datamodule", None)
        learnt, own = data_in(content), data_in({"own": data.state_dict()}) if data is not None else None
        if learnt is None or own is None:
            return
        same_classes(learnt["class_names"], own["class_names"], f"The teacher {self.path}")
        scaled = learnt.get("scaled"), own.get("scaled")
        if None not in scaled and scaled[0] != scaled[1]:
            raise UserError(
                "Either the teacher's images or these were normalised by their transforms, and the others were not: "
                "give both the same Normalize or ToFloat, or none."
            )
        sizes = learnt.get("image_size"), own.get("image_size")
        if None not in sizes and sizes[0] != sizes[1]:
            # No error: of data of one's own, older checkpoints say 32 whatever they had.
            say(f"The teacher says that its images had {sizes[0]} pixels a side, and these have {sizes[1]}.")
        alike = learnt["mean"].shape == own["mean"].shape and learnt["std"].shape == own["std"].shape
        # Of the deviation: a published constant and one that was computed differ by less.
        apart = [(learnt[key].float() - own[key]).abs() / own["std"] for key in ("mean", "std")] if alike else []
        if not alike or max(float(difference.max()) for difference in apart) > APART:
            raise UserError(
                f"The images of the teacher {self.path} had another mean or deviation than these, so it would not know "
                "them again: give one that was trained on images like these."
            )

    def loss(self, images: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
        """The loss to train on.

        Args:
            images: Float (N, 3, H, W), normalised.
            logits: Of the network that is trained, (N, num_classes).
            loss: That of the labels, ().
        """
        assert self._teacher is not None
        self._is_called = True
        with torch.no_grad():
            targets = F.log_softmax(self._teacher(images).float() / self.temperature, dim=1)
        outputs = F.log_softmax(logits.float() / self.temperature, dim=1)
        # T²: gradients of softened logits shrink by it.
        apart = self.temperature**2 * F.kl_div(outputs, targets, reduction="batchmean", log_target=True)
        return (1 - self.weight) * loss + self.weight * apart

    def on_train_batch_end(self, *_: Any) -> None:
        """Notes that there was a batch, which a run that goes on behind a validation may not have."""
        self.is_due()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the network as it was, and lets go of the teacher."""
        super().teardown(trainer, pl_module, stage)
        self._teacher = None

    def state_dict(self) -> dict[str, Any]:
        """Which teacher it is: its copy, that one's SHA-256, and how it was first asked for."""
        asked = (self._begun_with or {}).get("asked", self.teacher)
        return {"teacher": self._digest, "path": str(self.path), "asked": asked}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps in mind which teacher a resumed run began with."""
        self._begun_with = state_dict
