"""Lightning's Trainer, with the further commands of the command line as methods."""

from pathlib import Path

from pytorch_lightning import LightningDataModule, LightningModule, Trainer

from cifar_lit.commands.summary import Format, summarize


class CifarTrainer(Trainer):
    """Lightning's Trainer, with the further commands of the command line as methods."""

    def summary(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        format: Format = "text",
        output: Path | None = None,
        max_params: int | None = None,
        min_receptive_field: int | None = None,
        ckpt_path: str | None = None,
    ) -> None:
        """Shows a network's layers: sizes, parameters, multiply-adds and receptive fields.

        Args:
            model: The model.
            datamodule: The data; only its image size is asked for.
            format: text for the terminal, or markdown, csv or json.
            output: File to write to instead of the terminal.
            max_params: Most trainable parameters allowed; more end the command with exit code 1.
            min_receptive_field: Least receptive field in pixels; less ends the command with exit code 1.
            ckpt_path: A checkpoint whose run's settings to take, where no --config is given.
        """
        summarize(model, getattr(datamodule, "image_size", 32), format, output, max_params, min_receptive_field)
