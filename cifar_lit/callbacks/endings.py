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
    epochs = trainer.max_epochs
    if epochs is not None and 0 <= epochs <= trainer.current_epoch:
        if trainer.global_step and not any(c.stepped for c in callbacks if isinstance(c, Stops)):
            yield (
                f"Nothing was left to do: the run had ended after epoch {trainer.current_epoch}. A larger "
                "--trainer.max_epochs has it go on."
            )
        return
    of_all = f" (of {epochs} epochs)" if epochs is not None and epochs > 0 else ""
    where = f"after step {trainer.global_step:,}{of_all}"
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            yield f"EarlyStopping ended the run {where}: {callback.stopping_reason_message}"
            return
        if isinstance(callback, Timer) and (remaining := callback.time_remaining()) is not None and remaining <= 0:
            yield f"The run's time, --trainer.max_time, was over {where}."
            return
