"""What the panels share: when they draw, where to, and the network's attention."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from cifar_lit.callbacks.record import Evaluated, Record
from cifar_lit.errors import UserError
from cifar_lit.explain.figures import to_rgb
from cifar_lit.explain.fonts import lacking
from cifar_lit.explain.gradcam import check_method, class_activation_maps, overlay
from cifar_lit.explain.network import cam_layer_of, network_of
from cifar_lit.explain.scoring import Predictions
from cifar_lit.logger import tensorboard_of

MOST_GROUPS = 3
# Of the tiles of a figure: TensorBoard shrinks wide ones to its cards.
COLUMNS = 5


class Panel(Callback, ABC):
    """Draws what the network says of a split to TensorBoard, and touches nothing of the run.

    In `fit` it draws every few epochs and at the end, in `validate` and `test` always. It expects the evaluation steps
    to give logits, (n, C), for batches of images and labels; for other modules it draws nothing.

    Args:
        every_n_epochs: Epochs from one drawing to the next; 0 switches the panel off.

    Raises:
        UserError: ``every_n_epochs`` is negative.
    """

    def __init__(self, every_n_epochs: int) -> None:
        if every_n_epochs < 0:
            raise UserError(f"every_n_epochs is {every_n_epochs}: give a whole number, or 0 to switch the panel off.")
        self.every_n_epochs = every_n_epochs
        self.record = Record()
        #: Whether there was a pass over a split that this panel has not drawn.
        self.pending = False
        self._active = self._records = False
        self._rounds = 0

    @abstractmethod
    def draw(self, trainer: Trainer, pl_module: LightningModule, evaluated: Evaluated) -> None:
        """Draws; on rank zero alone."""

    @staticmethod
    def show(trainer: Trainer, evaluated: Evaluated, name: str, figure: Figure) -> None:
        """Puts a figure on TensorBoard's page of images, as ``<split>/<name>``."""
        board(trainer).add_image(f"{evaluated.split}/{name}", to_rgb(figure), evaluated.step, dataformats="HWC")

    def attention(self, pl_module: LightningModule, method: str) -> "Attention | None":
        """Where a module's network looks; None, and a line, where the module does not say."""
        try:
            layer = cam_layer_of(pl_module)
        except UserError as error:
            self.record.say_once(str(error))
            return None
        # A module may call its network compiled, where nothing can look in. So the network itself, if that is all.
        return Attention(network_of(pl_module), layer, method)

    @contextmanager
    def harmless(self) -> Iterator[None]:
        """Says in a line what went wrong, once. Hours of training must not end because of a picture."""
        try:
            yield
        except Exception as error:
            self.record.say_once(f"{type(self).__name__}: {error}")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Shares one record with the other panels: the first of them writes it."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        panels = [callback for callback in callbacks if isinstance(callback, Panel) and callback.every_n_epochs]
        self.pending = False
        self._active = self in panels and tensorboard_of(trainer) is not None
        self._records = self._active and self is panels[0]
        if self._active:
            self.record = panels[0].record

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts from where the run goes on."""
        if self._active:
            self._rounds = trainer.current_epoch // self.every_n_epochs

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins a record."""
        self._begin(trainer, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins a record."""
        self._begin(trainer, "test")

    def _begin(self, trainer: Trainer, split: str) -> None:
        # Lightning's check before training is no pass to look at.
        self.pending = self._active and not trainer.sanity_checking
        if self.pending and self._records:
            self.record.begin(trainer, split)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Records a batch of the first loader."""
        if self.pending and self._records and dataloader_idx == 0:
            self.record.add(batch, outputs, batch_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Records a batch of the first loader."""
        self.on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    # Not at validation's end, where averaged weights make room for the live ones again.
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws, where it is time."""
        if self.pending and self._is_time(trainer):
            self._draw_pending(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws."""
        self._draw_pending(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the last validation where the run ended with it, but before its time."""
        if self.record.steps_taken == trainer.global_step:
            self._draw_pending(trainer, pl_module)

    def _is_time(self, trainer: Trainer) -> bool:
        if trainer.state.fn != TrainerFn.FITTING:
            return True
        # Validation may also run within epochs, or not in all of them.
        epochs = trainer.current_epoch + trainer.is_last_batch
        before, self._rounds = self._rounds, epochs // self.every_n_epochs
        return self._rounds > before or trainer.max_epochs == epochs or trainer.max_steps == trainer.global_step

    def _draw_pending(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.pending:
            self.pending = False
            with self.harmless():
                evaluated = self.record.read(trainer)
                if evaluated is not None:
                    if boxes := lacking(evaluated.shown.class_names):
                        self.record.say_once(boxes)
                    self.draw(trainer, pl_module, evaluated)


@dataclass(frozen=True)
class Attention:
    """Grad-CAM of a module's network.

    Args:
        net: Maps normalised images to logits.
        layer: Part of it whose maps are weighed.
        method: Of `class_activation_maps`.
    """

    net: nn.Module
    layer: nn.Module
    method: str

    def over(self, pixels: NDArray[np.uint8], inputs: Tensor, classes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Where the network sees the classes, int64 (n,), laid over the pixels, uint8 (n, H, W, 3)."""
        return overlay(pixels, class_activation_maps(self.net, self.layer, inputs, classes, self.method))


def check(groups: int, method: str) -> None:
    """Refuses what cannot be drawn, before a run begins.

    Raises:
        UserError: There is no such method, or ``groups`` is not from 1 to `MOST_GROUPS`.
    """
    check_method(method)
    if not 1 <= groups <= MOST_GROUPS:
        raise UserError(f"groups is {groups}: give a number from 1 to {MOST_GROUPS}.")


def caption(predictions: Predictions, row: int) -> str:
    """True and predicted class of an image, with what the network says of each."""
    lines = []
    for label in (predictions.labels[row], predictions.predicted[row]):
        lines.append(f"{predictions.class_names[label]}, {predictions.probabilities[row, label]:.0%}")
    return "true {}\npredicted {}".format(*lines)


def board(trainer: Trainer) -> SummaryWriter:
    """Where a panel writes to, on rank zero."""
    logger = tensorboard_of(trainer)
    assert logger is not None
    writer: SummaryWriter = logger.experiment
    return writer
