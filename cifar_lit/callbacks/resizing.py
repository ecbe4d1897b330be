"""Progressive resizing: a run begins on smaller images, which cost less, and ends on whole ones."""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from cifar_lit.callbacks.part_of_training import PartOfTraining
from cifar_lit.classifier import Classifier
from cifar_lit.errors import UserError
from cifar_lit.stepping import NO_LENGTH, check_length


def resized(images: Tensor, scale: float) -> Tensor:
    """Images, float (N, C, H, W), at ``scale`` times their height and width, by antialiased bilinear sampling."""
    height, width = (max(1, round(side * scale)) for side in images.shape[2:])
    # torch cannot do it in 16 bits on a CPU.
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    return F.interpolate(wide, (height, width), mode="bilinear", antialias=True).to(images.dtype)


class ProgressiveResizing(PartOfTraining):
    """Trains on smaller images at first, for which a network computes as much less as they have fewer pixels.

    So the same time allows more epochs, as in fastai's entry for DAWNBench (Howard 2018). The scales follow one
    another, each as long as the others, and whole images end the run: a network of nothing else than small ones would
    be worse on them (Touvron et al. 2019, arXiv:1906.06423), as the validation figures before the end show. What stops
    a run by these, such as EarlyStopping, may stop it too soon. Augmentation is done before, on whole images; a teacher
    and every evaluation see these, too.

    Args:
        scales: Of the images' height and width, each in (0, 1) and larger than the one before.
        until: Share of the run from which images are whole, in (0, 1).

    Raises:
        UserError: An argument is out of its range; at the start of a fit, the module is no `Classifier`, there is
            another callback of this kind or one that changes the number of steps, or the run's length is not known.
    """

    attribute = "resized"
    changes = "images"
    left_out = "trained on whole images: it has to call self(images), as super().training_step does, for smaller ones"

    def __init__(self, scales: Sequence[float] = (0.75,), until: float = 0.5) -> None:
        super().__init__()
        scales = (*scales, 1.0)
        if len(scales) < 2 or not all(0 < small < large for small, large in itertools.pairwise(scales)):
            raise UserError(
                f"scales is {list(scales[:-1])}: give shares of the images' sides between 0 and 1, the smallest first."
            )
        if not 0 < until < 1:
            raise UserError(f"until is {until}: give the share of the run on smaller images, between 0 and 1.")
        self.scales, self.until = scales[:-1], until
        self._steps = self._ahead = 0

    def scale_at(self, step: int, steps: int) -> float:
        """The scale of the images of a step, counted from 0, in a run of so many steps."""
        stage = int(step / (self.until * steps) * len(self.scales))
        return self.scales[stage] if stage < len(self.scales) else 1.0

    def cost(self, steps: float) -> float:
        """Of the first steps of the run, in steps on whole images, as a network's work goes by the pixels."""
        stage = self.until * self._steps / len(self.scales)
        spared = ((1 - scale**2) * min(max(steps - i * stage, 0.0), stage) for i, scale in enumerate(self.scales))
        return steps - sum(spared)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a module that takes its images as they come, a second callback, and other numbers of steps."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if sum(isinstance(callback, ProgressiveResizing) for callback in trainer.callbacks) > 1:  # type: ignore[attr-defined]
            raise UserError(f"{type(self).__name__} is there twice, once from the recipe perhaps: give it once.")
        check_length(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learns the length of the run."""
        assert isinstance(pl_module, Classifier)
        steps = trainer.estimated_stepping_batches
        if not 0 <= steps < math.inf:
            raise UserError(f"{type(self).__name__} {NO_LENGTH}")
        self._steps, self._ahead = int(steps), pl_module.steps_ahead

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets the size of the batch's images: by its step alone, so that a resumed run goes on to the bit."""
        assert isinstance(pl_module, Classifier)
        scale = self.scale_at(trainer.global_step + self._ahead, self._steps)
        if scale < 1:
            pl_module.resized = partial(self._resized, scale=scale)
            self.is_due()
        else:
            pl_module.resized = None

    def _resized(self, images: Tensor, scale: float) -> Tensor:
        self._is_called = True
        return resized(images, scale)
