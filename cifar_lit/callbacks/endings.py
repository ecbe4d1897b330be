"""What a run says when it has ended: why, where it is, and how to look at it."""

from collections.abc import Iterator
from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping, Timer

from cifar_lit.callbacks.checkpoint import BestCheckpoint
from cifar_lit.callbacks.stops import Stops
from cifar_lit.runs import LOGS


def last_words(trainer: Trainer, root: Path) -> list[str]:
    """The lines, of which the first says why where the run ended before its last epoch or had nothing to do.

    Args:
        trainer: Behind its fit.
        root: Folder of ``lightning_logs``.
    """
    lines = [*_reasons(trainer)]
    if trainer.logger is not None and trainer.log_dir is not None:
        lines.append(f"Run: {trainer.log_dir}")
        paths = (c.best_model_path for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint))
        lines += [f"Best checkpoint: {path}" for path in paths if path][:1]
        lines.append(f"Watch: tensorboard --logdir {root / LOGS}")
    return lines


def _reasons(trainer: Trainer) -> Iterator[str]:
    """At most one, of several the first."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if not any(callback.stepped for callback in callbacks if isinstance(callback, Stops)):
        if trainer.global_step:
            yield (
                f"Nothing was left to do: the run had ended after epoch {trainer.current_epoch}. A larger "
                "--trainer.max_epochs has it go on."
            )
        return
    if trainer.max_epochs is None or 0 <= trainer.max_epochs <= trainer.current_epoch:
        return
    of_all = f" of {trainer.max_epochs}" if trainer.max_epochs > 0 else ""
    where = f"after epoch {trainer.current_epoch}{of_all}"
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            yield f"EarlyStopping ended the run {where}: {callback.stopping_reason_message}"
            return
        if isinstance(callback, Timer) and (callback.time_remaining() or 1) <= 0:
            yield f"The run's time, --trainer.max_time, was over {where}."
            return
