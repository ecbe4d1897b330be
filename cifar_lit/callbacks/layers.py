"""The table of layers as a text panel of TensorBoard."""

from pytorch_lightning import Callback, LightningModule, Trainer

from cifar_lit.explain.layers import network_table
from cifar_lit.files import writing
from cifar_lit.logger import OTHERWISE, tensorboard_of


class LayerPanel(Callback):
    """Writes the layers with their receptive fields to TensorBoard's text page when a fit starts."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the table; for a network that cannot be run on an image, why there is none."""
        logger = tensorboard_of(trainer)
        if not trainer.is_global_zero or logger is None:
            return
        data = getattr(trainer, "datamodule", None)
        # Of the images themselves, where they are there.
        size = getattr(getattr(data, "test_images", None), "size", None) or getattr(data, "image_size", 32)
        try:
            text = network_table(pl_module, size).to_markdown()
        except ValueError as error:
            text = f"No table of layers: {error}."
        with writing(logger.log_dir, OTHERWISE):
            logger.experiment.add_text("layers", text, trainer.global_step)
