"""Which weights a run keeps: the best by validation, and the last."""

import re
from datetime import timedelta
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from cifar_lit.callbacks.stops import Stopped, ends_here, is_time_to_ask, may_pause
from cifar_lit.console import say
from cifar_lit.errors import UserError
from cifar_lit.monitor import Mode, is_of_validation, mode_of
from cifar_lit.runs import LAST

# A metric in the template of a file's name, such as {val/accuracy:.4f}.
_METRIC = re.compile(r"\{([^:}]*)")
_PARTS = re.compile(r"-(?![^{]*\})")  # between a name's parts, but not within the braces


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which lets a model be that logs no metric of the monitored name.

    Then it says so once and keeps nothing; the last checkpoint is kept all the same.

    Args:
        every_n_minutes: Also save ``last.ckpt`` by the clock, in the middle of an epoch.
        mode: Which value of the monitored metric is the best; by default as its name says.
        **kwargs: Those of ModelCheckpoint.

    Raises:
        UserError: The minutes are not positive, or the best by validation is to be kept between validations; at the
            start of a fit, the mode would keep the worst.
    """

    _warned = False
    # The step behind which it was validated: what an earlier validation logged is still there.
    _validated_at: int | None = None
    # The best of the run that is gone on with, where its file is not here.
    _left_behind: tuple[str, float] | None = None

    def __init__(self, every_n_minutes: float | None = None, mode: Mode | None = None, **kwargs: Any) -> None:
        monitor = kwargs.get("monitor") or ""
        if is_of_validation(monitor) and (kwargs.get("every_n_train_steps") or kwargs.get("train_time_interval")):
            raise UserError(
                f"checkpoint.monitor is {monitor}, which is known behind a validation alone: leave every_n_train_steps "
                "and train_time_interval out (--checkpoint.every_n_minutes keeps the last one by the clock)."
            )
        if is_of_validation(monitor) and kwargs.get("save_on_train_epoch_end"):
            # Lightning knows when it validates: at another time the metric is of other weights.
            kwargs["save_on_train_epoch_end"] = None
        if monitor.startswith("train/") and kwargs.get("save_on_train_epoch_end") is None:
            # Where the epoch is not validated it is logged all the same, and by validation it is not logged yet.
            kwargs["save_on_train_epoch_end"] = True
        super().__init__(mode=mode or mode_of(monitor, None, "checkpoint", otherwise="max"), **kwargs)
        if every_n_minutes is not None and every_n_minutes <= 0:
            raise UserError(f"checkpoint.every_n_minutes is {every_n_minutes}: give a number above 0.")
        self.every_n_minutes = every_n_minutes

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses what would keep the worst; a run that did so can be evaluated all the same."""
        if stage == "fit":
            self._last_global_step_saved = 0  # a fit before may have ended at a step of this one
            mode_of(self.monitor or "", self.mode, "checkpoint", otherwise="max")  # type: ignore[arg-type]
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the best so far, also where the run's folder has moved or is now written in another way."""
        before, here = Path(state_dict["dirpath"]), Path(self.dirpath or ".")
        path = state_dict["best_model_path"]
        if before.resolve() == here.resolve() or (path and (here / Path(path).name).is_file()):
            best = {str(here / Path(path).name): score for path, score in state_dict["best_k_models"].items()}
            paths = {key: state_dict[key] for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
            moved = {key: str(here / Path(path).name) if path else path for key, path in paths.items()}
            state_dict = {**state_dict, **moved, "dirpath": self.dirpath, "best_k_models": best}
        elif path and state_dict["best_model_score"] is not None:
            self._left_behind = Path(path).name, float(state_dict["best_model_score"])
        super().load_state_dict(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says so where the best so far is in another folder, as behind a checkpoint that was copied alone."""
        super().on_train_start(trainer, pl_module)
        if self._left_behind is not None:
            name, score = self._left_behind
            say(
                f"The best so far ({name}, {self.monitor} {score:.4f}) is not in this run's folder: the best is chosen "
                "among the epochs to come."
            )
            self._left_behind = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves if the metric is the best so far."""
        self._validated_at = None if trainer.sanity_checking else trainer.global_step
        if not self._should_save_on_train_epoch_end(trainer) and self._can_monitor(trainer):
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves if the metric is the best so far, and of these weights."""
        if self._is_known(trainer) and self._should_save_on_train_epoch_end(trainer) and self._can_monitor(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether a value is among the best: of equal ones, as of few images, the later, which was trained longer.

        Where several are kept, equal ones are not told apart.
        """
        if super().check_monitor_top_k(trainer, current):
            return True
        # A metric may differ from rank to rank, and all must save or none.
        same = self.save_top_k == 1 and bool(current == self.best_model_score)
        return bool(trainer.strategy.reduce_boolean_decision(same))

    def format_checkpoint_name(
        self, metrics: dict[str, Tensor], filename: str | None = None, ver: int | None = None, prefix: str | None = None
    ) -> str:
        """The path of a checkpoint; metrics that are not of its weights, for which Lightning writes 0, are left out."""
        validated = "step" not in metrics or int(metrics["step"]) == self._validated_at
        metrics = {name: value for name, value in metrics.items() if validated or not is_of_validation(name)}
        template, known = filename or self.filename or "", {"epoch", "step", *metrics}
        if not known.issuperset(_METRIC.findall(template)):
            told = [part for part in _PARTS.split(template) if known.issuperset(_METRIC.findall(part))]
            template = self.CHECKPOINT_JOIN_CHAR.join(told) or "epoch={epoch}-step={step}"
        path: str = super().format_checkpoint_name(metrics, template or None, ver, prefix)
        return path

    def _is_known(self, trainer: Trainer) -> bool:
        """Whether what is monitored is of the weights as they are."""
        validates = is_of_validation(self.monitor or "") and trainer.enable_validation
        return not validates or self._validated_at == trainer.global_step

    def _can_monitor(self, trainer: Trainer) -> bool:
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            return True
        # Who asks for no validation knows that nothing is best by it.
        if not self._warned and trainer.limit_val_batches != 0:
            self._warned = True
            rank_zero_warn(
                f"The model logs no {self.monitor!r}, so no best checkpoint is kept: "
                f"log it, or choose one of {sorted(trainer.callback_metrics)} with --checkpoint.monitor."
            )
        return False


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``: of the end of an epoch, of every so many minutes, and of where a run ended or was stopped.

    ModelCheckpoint's own ``save_last`` writes only when its metric improves. After any other exception the run may
    stand in the middle of a step, and the checkpoint before is the one to trust.

    Args:
        every_n_minutes: Save by the clock, in the middle of an epoch; None for the end of each epoch.

    Raises:
        UserError: At the start of a fit, another run's is there, as there may be without a logger or with its version.
    """

    def __init__(self, every_n_minutes: float | None = None) -> None:
        by_epoch = every_n_minutes is None
        self._inside_an_epoch, self._ends_with_the_step, self._pauses = False, False, 0
        super().__init__(
            filename=LAST,
            monitor=None,
            save_top_k=1,
            save_on_train_epoch_end=True if by_epoch else None,
            train_time_interval=timedelta(minutes=every_n_minutes) if every_n_minutes is not None else None,
            enable_version_counter=False,
        )
        # The one that goes by the clock leaves stops, and the end of a run, to the other one.
        self.save_on_exception = by_epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins, unless it would write over what another run has learnt."""
        super().on_train_start(trainer, pl_module)
        self._check_that_none_is_lost(trainer)
        self._inside_an_epoch, self._ends_with_the_step, self._pauses, self._last_global_step_saved = False, False, 0, 0

    def _check_that_none_is_lost(self, trainer: Trainer) -> None:
        there = Path(self.dirpath or ".", f"{LAST}.ckpt")
        if trainer.fast_dev_run or not there.is_file():  # type: ignore[attr-defined]
            return
        # What this trainer wrote in a fit before, and the run that goes on, are no other run's.
        callbacks = (c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint))
        goes_on = trainer.ckpt_path is not None and Path(trainer.ckpt_path).resolve().parent == there.resolve().parent
        if not goes_on and not any(c.best_model_path for c in callbacks):
            raise UserError(
                f"{there} is another run's and would be written over: go on from it with --ckpt_path, remove it, or "
                "have this run write elsewhere, as with another --trainer.default_root_dir."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves if it is time, or behind the next batch that allows it; and where the run ends inside an epoch."""
        self._let_the_step_end(trainer)
        if may_pause(trainer, batch_idx):
            self._pauses += 1
            # By the clock ranks decide together, for which each waits for its GPU.
            if self.save_on_exception or is_time_to_ask(trainer, self._pauses):
                super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self._save_if_it_ends_here(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves where the run ends inside an epoch, behind a step that validation follows."""
        super().on_validation_end(trainer, pl_module)
        if not trainer.sanity_checking:
            self._let_the_step_end(trainer)
        if not trainer.is_last_batch:
            self._save_if_it_ends_here(trainer)

    def _let_the_step_end(self, trainer: Trainer) -> None:
        """Puts an early end off while a step gathers gradients, which are in no checkpoint."""
        if self.save_on_exception and (trainer.should_stop or self._ends_with_the_step):
            self._ends_with_the_step = trainer.fit_loop._should_accumulate()
            trainer.should_stop = not self._ends_with_the_step

    def _save_if_it_ends_here(self, trainer: Trainer) -> None:
        if self.save_on_exception and ends_here(trainer) and not self._should_skip_saving_checkpoint(trainer):
            # Afterwards the epoch counts as a whole one, and a run that goes on would leave the rest of it out.
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            self._inside_an_epoch = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves; where the run ended inside the epoch, only what has become of the best checkpoint since."""
        inside, self._inside_an_epoch = self._inside_an_epoch, False
        if not inside:
            super().on_train_epoch_end(trainer, pl_module)
        elif trainer.is_global_zero and isinstance(trainer.strategy.checkpoint_io, TorchCheckpointIO):
            # What this process has just written may hold more than data.
            content = torch.load(self.best_model_path, map_location="cpu", weights_only=False)
            for callback in trainer.checkpoint_callbacks:
                content["callbacks"][callback.state_key] = callback.state_dict()
            trainer.strategy.checkpoint_io.save_checkpoint(content, self.best_model_path)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes nothing over: its file's path, written in another way, would be an older file's, which it removes."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves where the run was told to stop, and says how to go on."""
        if isinstance(exception, Stopped) and self.save_on_exception:
            if not exception.between_epochs:  # where it was just saved
                super().on_exception(trainer, pl_module, exception)
            file = quote(self.format_checkpoint_name({}))
            say(f"{exception.reason} Give --ckpt_path={file} to go on from there.")
