"""Which weights a run keeps: the best by validation, and the last."""

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_warn


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which lets a model be that logs no metric of the monitored name.

    Then it says so once and keeps nothing; the last checkpoint is kept all the same.
    """

    _warned = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the best so far, also where the run's folder is now written in another way."""
        before, here = Path(state_dict["dirpath"]), Path(self.dirpath or ".")
        if before.resolve() == here.resolve():
            best = {str(here / Path(path).name): score for path, score in state_dict["best_k_models"].items()}
            paths = {key: state_dict[key] for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
            moved = {key: str(here / Path(path).name) if path else path for key, path in paths.items()}
            state_dict = {**state_dict, **moved, "dirpath": self.dirpath, "best_k_models": best}
        super().load_state_dict(state_dict)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves if the metric is the best so far."""
        if self._can_monitor(trainer):
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves if the metric is the best so far, where there is no validation."""
        if self._can_monitor(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def _can_monitor(self, trainer: Trainer) -> bool:
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            return True
        if not self._warned:
            self._warned = True
            rank_zero_warn(
                f"The model logs no {self.monitor!r}, so no best checkpoint is kept: "
                f"log it, or choose one of {sorted(trainer.callback_metrics)} with --checkpoint.monitor."
            )
        return False


def last_checkpoint(**kwargs: Any) -> ModelCheckpoint:
    """Keeps ``last.ckpt`` at the end of every epoch, and where a run is interrupted.

    A second callback, because ModelCheckpoint's own ``save_last`` writes only when its metric improves.
    """
    return ModelCheckpoint(
        filename="last",
        monitor=None,
        save_top_k=1,
        save_on_train_epoch_end=True,
        save_on_exception=True,
        enable_version_counter=False,
        **kwargs,
    )
