"""Keeps a run to one process."""

import errno
import os
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from cifar_lit.errors import UserError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

# Open folders that this process has locked.
_LOCKED: set[int] = set()


class RunLock(Callback):
    """Keeps a second process from going on with a run while one trains it: both would write its checkpoints.

    The folder itself is locked, which leaves nothing behind: the system lets it go when the process ends, in whatever
    way. Where folders cannot be locked, as on Windows and some file systems of a network, nothing is kept.
    """

    def __init__(self) -> None:
        self._folder: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Locks the folder of a run that is to be trained, on the first rank.

        Raises:
            UserError: Another process has locked it.
        """
        # Others name a folder that several runs share; of a fast_dev_run there is none.
        if stage != "fit" or not isinstance(trainer.logger, (TensorBoardLogger, CSVLogger)):
            return
        # On every rank: it is rank zero's, which the others wait to be told.
        folder = trainer.log_dir
        if trainer.is_global_zero and folder is not None and Path(folder).is_dir():
            self._folder = _locked(Path(folder))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets it go."""
        if self._folder is not None:
            _LOCKED.discard(self._folder)
            os.close(self._folder)
            self._folder = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lets it go, too: there is no teardown then."""
        self.teardown(trainer, pl_module, "fit")

    def __getstate__(self) -> dict[str, Any]:
        """What a copy, or another process, gets: not the lock, which is this one's."""
        return {"_folder": None}


def _locked(folder: Path) -> int | None:
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise UserError(f"The run {folder} is trained by another process: wait for its end, or stop it.") from error
        return None
    _LOCKED.add(descriptor)
    return descriptor


def _leave_locks_to_the_parent() -> None:
    # A worker that is forked would keep the folder locked until it ends, seconds behind a run that was killed.
    for descriptor in _LOCKED:
        os.close(descriptor)
    _LOCKED.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)
