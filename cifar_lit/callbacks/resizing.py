"""Progressive resizing: a run begins on smaller images, which cost less, and ends on whole ones."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cifar_lit.classifier import Classifier
from cifar_lit.errors import UserError
from cifar_lit.stepping import check_length


def resized(images: Tensor, scale: float) -> Tensor:
    """Images, float (N, C, H, W), at ``scale`` times their height and width, by antialiased bilinear sampling."""
    height, width = (max(1, round(side * scale)) for side in images.shape[2:])
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)


class ProgressiveResizing(Callback):
    """Trains on smaller images at first, of which a step costs the square of their scale, and then on whole ones.

    Networks learn coarse shapes first, so that the same time allows more epochs (Tan and Le 2021, arXiv:2104.00298).
    The scales follow one another, each as long as the others. Augmentation is done before, on whole images; a teacher
    and every evaluation see these, too. BatchNorm's statistics are of the small ones at first, for which validation
    figures are low until the images are whole.

    Args:
        scales: Of the images' sides, each in (0, 1), one behind the other.
        until: Share of the run from which images are whole, in (0, 1).

    Raises:
        UserError: An argument is out of its range; at the start of a fit, the module is no `Classifier`, or the run's
            length is not known.
    """

    def __init__(self, scales: Sequence[float] = (0.75,), until: float = 0.5) -> None:
        if not scales or not all(0 < scale < 1 for scale in scales):
            raise UserError(f"scales is {list(scales)}: give shares of the images' sides, between 0 and 1.")
        if not 0 < until < 1:
            raise UserError(f"until is {until}: give the share of the run on smaller images, between 0 and 1.")
        self.scales, self.until = tuple(scales), until
        self._steps = self._ahead = 0

    def scale_at(self, step: int, steps: int) -> float:
        """The scale of the images of a step, counted from 0, in a run of so many steps."""
        stage = int(step / (self.until * steps) * len(self.scales))
        return self.scales[stage] if stage < len(self.scales) else 1.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a module that takes its images as they come, and what changes the number of steps."""
        if stage != "fit":
            return
        if not isinstance(pl_module, Classifier):
            name = type(pl_module).__name__
            raise UserError(f"ProgressiveResizing changes the images of a Classifier, which {name} is not.")
        check_length(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learns the length of the run."""
        steps = trainer.estimated_stepping_batches
        if not 0 <= steps < math.inf:
            raise UserError(
                "ProgressiveResizing needs the run's length: give --trainer.max_epochs or --trainer.max_steps, the "
                "latter or --trainer.limit_train_batches where the data have no length."
            )
        self._steps, self._ahead = int(steps), getattr(pl_module, "steps_ahead", 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets the size of the batch's images: by its step alone, so that a resumed run goes on to the bit."""
        assert isinstance(pl_module, Classifier)
        scale = self.scale_at(trainer.global_step + self._ahead, self._steps)
        pl_module.resized = None if scale == 1 else partial(resized, scale=scale)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the module as it was, where the run is broken off."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the module as it was."""
        if isinstance(pl_module, Classifier):
            pl_module.resized = None
