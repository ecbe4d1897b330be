"""Grad-CAM of the same images all along, to watch a network's attention move."""

from pytorch_lightning import LightningModule, Trainer

from cifar_lit.callbacks.panel import COLUMNS, Panel, caption, check
from cifar_lit.callbacks.record import Evaluated
from cifar_lit.explain.figures import Tile, tile_figure
from cifar_lit.explain.scoring import one_of_each_class


class GradCamPanel(Panel):
    """Draws where the network sees what it predicts, for one image of each class, every time the same ones.

    TensorBoard's page of images has them as ``val/gradcam/group_1`` and so on.

    Args:
        every_n_epochs: Epochs from one drawing to the next; 0 switches the panel off.
        groups: Number of figures, each with one image of each class, from 1 to 3.
        method: Class activation map: GradCAM, GradCAMPlusPlus, HiResCAM, XGradCAM, LayerCAM, GradCAMElementWise, or
            another of grad-cam's, some of which are slow or the same for every class.

    Raises:
        UserError: An argument is out of its range.
    """

    def __init__(self, every_n_epochs: int = 5, groups: int = 1, method: str = "GradCAM") -> None:
        super().__init__(every_n_epochs)
        check(groups, method)
        self.groups, self.method = groups, method

    def draw(self, trainer: Trainer, pl_module: LightningModule, evaluated: Evaluated) -> None:
        """Draws the first images of each class, where the module says where to look."""
        attention = self.attention(pl_module, self.method)
        if attention is None:
            return
        shown = evaluated.shown
        for number, rows in enumerate(one_of_each_class(shown.labels, len(shown.class_names), self.groups), start=1):
            pixels, inputs = evaluated.find(rows, pl_module.device)
            overlays = attention.over(pixels, inputs, shown.predicted[rows])
            tiles = [
                Tile([image, overlaid], caption(shown, row))
                for row, image, overlaid in zip(rows, pixels, overlays, strict=True)
            ]
            figure = tile_figure(tiles, f"{self.method} for the predicted class", COLUMNS, ["image", "predicted"])
            self.show(trainer, evaluated, f"gradcam/group_{number}", figure)
