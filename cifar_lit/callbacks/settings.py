"""Keeps the settings of a run in its folder."""

from typing import Any

from jsonargparse import Namespace
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback


class SaveFitConfig(SaveConfigCallback):
    """Keeps a training run's settings in its folder; an evaluation adds its results there and leaves them alone."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        # What to resume from is no setting of the run, and other commands know no such options.
        settings = {name: value for name, value in config.items() if name not in ("ckpt_path", "weights_only")}
        super().__init__(parser, Namespace(settings), **kwargs)  # type: ignore[no-untyped-call]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Saves, where there is a run's folder to save to."""
        if stage == "fit" and trainer.logger is not None:
            super().setup(trainer, pl_module, stage)
