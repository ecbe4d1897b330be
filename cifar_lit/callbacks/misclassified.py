"""The images that a network gets most wrong, and what becomes of the first of them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from cifar_lit.callbacks.panel import COLUMNS, Attention, Panel, caption, check
from cifar_lit.callbacks.record import Evaluated
from cifar_lit.errors import UserError
from cifar_lit.explain.figures import Tile, tile_figure
from cifar_lit.explain.scoring import errors_of_each_class


class MisclassifiedPanel(Panel):
    """Draws, of each class, the misclassified image of largest loss, with Grad-CAM for predicted and true class.

    TensorBoard's page of images has them as ``val/misclassified/group_1`` and so on. In `fit`, the images of the first
    drawing's group_1 stay in ``val/misclassified/followed``, whatever the network makes of them later.

    Args:
        every_n_epochs: Epochs from one drawing to the next; 0 switches the panel off.
        groups: Number of figures, each with one image of each class, from 1 to 3.
        method: Class activation map, by grad-cam's name for it, as of `GradCamPanel`.

    Raises:
        UserError: An argument is out of its range.
    """

    def __init__(self, every_n_epochs: int = 5, groups: int = 1, method: str = "GradCAM") -> None:
        super().__init__(every_n_epochs)
        check(groups, method)
        self.groups, self.method = groups, method
        # Places in the data set.
        self._followed: list[int] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begins anew; a resumed run is told by its checkpoint afterwards what to follow."""
        super().setup(trainer, pl_module, stage)
        self._followed = []

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on following the same images."""
        return {"followed": self._followed} if self._followed else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on following them."""
        self._followed = state_dict["followed"]

    def draw(self, trainer: Trainer, pl_module: LightningModule, evaluated: Evaluated) -> None:
        """Draws what is wrong now and, in `fit`, what was wrong at first."""
        attention = self.attention(pl_module, self.method)
        groups = errors_of_each_class(evaluated.shown, self.groups)
        for number, rows in enumerate(groups, start=1):
            title = "Misclassified, largest loss of each class"
            figure = _figure(title, evaluated, rows, attention, pl_module.device, self.record.say_once)
            self.show(trainer, evaluated, f"misclassified/group_{number}", figure)
        if trainer.state.fn == TrainerFn.FITTING:
            if groups and not self._followed:
                self._followed = evaluated.places[groups[0]].tolist()
            row_of = {place: row for row, place in enumerate(evaluated.places.tolist())}
            if rows := [row_of[place] for place in self._followed if place in row_of]:
                title = "Misclassified at first, followed since"
                figure = _figure(title, evaluated, rows, attention, pl_module.device, self.record.say_once)
                self.show(trainer, evaluated, "misclassified/followed", figure)


def _figure(
    title: str,
    evaluated: Evaluated,
    rows: Sequence[int],
    attention: Attention | None,
    device: torch.device,
    say_once: Callable[[str], None],
) -> Figure:
    shown = evaluated.shown
    pixels, inputs = evaluated.find(rows, device)
    pictures, labels = [pixels], ["image"]
    if attention is not None:
        # Both at once: a second call would copy the network again.
        classes = np.concatenate([shown.predicted[rows], shown.labels[rows]])
        try:
            overlays = attention.over(np.concatenate([pixels] * 2), torch.cat([inputs] * 2), classes)
        except UserError as error:
            # The images tell something without it, too.
            say_once(str(error))
        else:
            pictures += [overlays[: len(rows)], overlays[len(rows) :]]
            labels += ["predicted", "true"]
    tiles = [Tile(of_row, caption(shown, row)) for row, *of_row in zip(rows, *pictures, strict=True)]
    return tile_figure(tiles, title, COLUMNS, labels)
