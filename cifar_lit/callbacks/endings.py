"""What a run says when it has ended: why, where it is, and how to look at it."""

import os
import shlex
from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping, Timer

from cifar_lit.callbacks.checkpoint import BestCheckpoint
from cifar_lit.callbacks.stops import Stops
from cifar_lit.logger import tensorboard_of
from cifar_lit.runs import LOGS


def last_words(trainer: Trainer) -> list[str]:
    """The lines, of which the first says why where the run ended before its last epoch or had nothing to do.

    Args:
        trainer: Behind its fit.
    """
    reason = _reason(trainer)
    lines = [] if reason is None else [reason]
    if trainer.logger is not None and trainer.log_dir is not None:
        lines.append(f"Run: {trainer.log_dir}")
    best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)), None)
    # Of a run that went on from elsewhere and has kept none of its own it is still that of the checkpoint's run.
    if best is not None and best.best_model_path and _lies_in(best.best_model_path, best.dirpath):
        lines.append(f"Best checkpoint: {best.best_model_path}")
    logger = tensorboard_of(trainer)
    if logger is not None:
        lines.append(f"Watch: tensorboard --logdir {shlex.quote(str(_all_runs(Path(logger.root_dir))))}")
    return lines


def _lies_in(file: str, folder: str | os.PathLike[str] | None) -> bool:
    return folder is not None and Path(file).resolve().parent == Path(folder).resolve()


def _all_runs(runs: Path) -> Path:
    """The folder of all recipes' runs that holds a recipe's; if there is none, this one's."""
    return next((folder for folder in (runs, *runs.parents) if folder.name == LOGS), runs)


def _reason(trainer: Trainer) -> str | None:
    """Why the run ended before its last epoch or had nothing to do."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    epochs = trainer.max_epochs
    stepped = any(callback.stepped for callback in callbacks if isinstance(callback, Stops))
    nothing = "Nothing was learnt: --trainer.max_epochs, max_steps or limit_train_batches left no step to take."
    otherwise = None if trainer.global_step or stepped else nothing
    if epochs is not None and 0 <= epochs <= trainer.current_epoch:
        if trainer.global_step and not stepped:
            return (
                f"Nothing was left to do: the run had ended after epoch {trainer.current_epoch}. A larger "
                "--trainer.max_epochs has it go on."
            )
        return otherwise
    of_all = f" (of {epochs} epochs)" if epochs is not None and epochs > 0 else ""
    where = f"after step {trainer.global_step:,}{of_all}"
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            return f"EarlyStopping ended the run {where}: {callback.stopping_reason_message}"
        if isinstance(callback, Timer) and (remaining := callback.time_remaining()) is not None and remaining <= 0:
            return (
                f"The run's time, --trainer.max_time, was over {where}. It counts all starts of a run: a longer one "
                "has it go on."
            )
    return otherwise
