"""Keeps the settings of a run in its folder."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback

from cifar_lit.callbacks.distillation import Distillation
from cifar_lit.files import write_atomically


class SaveFitConfig(SaveConfigCallback):
    """Keeps a training run's settings in its folder; an evaluation adds its results there and leaves them alone."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        # What to resume from is no setting of the run, and other commands know no such options.
        settings = {name: value for name, value in config.items() if name not in ("ckpt_path", "weights_only")}
        super().__init__(parser, Namespace(settings), **kwargs)  # type: ignore[no-untyped-call]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet: a run whose checkpoint does not fit is refused, and must not change the one that was there."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, where there is a run's folder to save to: behind all that may refuse to go on from a checkpoint."""
        if trainer.logger is None:
            return
        # On every rank: it is rank zero's, which the others wait to be told.
        folder = trainer.log_dir
        self._name_the_teacher(trainer)
        if trainer.is_global_zero and folder is not None:
            # As they were checked when they were parsed.
            settings = self.parser.dump(self.config, skip_none=False, skip_validation=True)
            write_atomically(Path(folder) / self.config_filename, settings)

    def _name_the_teacher(self, trainer: Trainer) -> None:
        """Puts the checkpoint that teaches in the place of a recipe's name, whose newest run changes."""
        used = (callback for callback in trainer.callbacks if isinstance(callback, Distillation))  # type: ignore[attr-defined]
        given = self.config.get("trainer.callbacks") or []
        # One callback may be given without a list.
        for said in given if isinstance(given, list) else [given]:
            if said.class_path.rpartition(".")[2] == Distillation.__name__:
                said.init_args.teacher = str(next(used).path)
