"""The table of layers as a text panel of TensorBoard."""

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from cifar_lit.explain.layers import network_table


class LayerPanel(Callback):
    """Writes the layers with their receptive fields to TensorBoard's text page when a fit starts."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the table; for a network that cannot be run on an image, why there is none."""
        if not trainer.is_global_zero or not isinstance(trainer.logger, TensorBoardLogger):
            return
        size = getattr(getattr(trainer, "datamodule", None), "image_size", 32)
        try:
            text = network_table(pl_module, size).to_markdown()
        except ValueError as error:
            text = f"No table of layers: {error}."
        trainer.logger.experiment.add_text("layers", text, trainer.global_step)
