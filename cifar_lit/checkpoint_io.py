"""Writes checkpoints so that a failure never costs the one that was there."""

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import CheckpointIO, TorchCheckpointIO

from cifar_lit.errors import UserError
from cifar_lit.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, waits for the disk, then renames.

    Lightning's own writes to the folder for temporary files, which may lie on another file system: from there a file
    is copied, and a reader, or a stop in the middle of it, meets half a checkpoint under the final name.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Saves atomically.

        Args:
            checkpoint: What to save.
            path: A local file.
            storage_options: Not used.

        Raises:
            UserError: It cannot be written. What was there before is still there.
        """
        target = Path(path)
        try:
            with replacing(target) as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            _sync_folder(target.parent)
        except (OSError, RuntimeError) as error:
            # torch wraps what the system says of a full disk into a RuntimeError.
            raise UserError(
                f"Cannot write the checkpoint {target} ({error}): make room or mend access, then go on with "
                "--ckpt_path last, or begin again where there is none yet."
            ) from error


def with_atomic_saving(plugins: Any) -> list[Any]:
    """A trainer's plugins, one of them or several, and `AtomicCheckpointIO` if none of them saves checkpoints."""
    given = plugins if isinstance(plugins, list) else [plugins] if plugins else []
    return given if any(isinstance(plugin, CheckpointIO) for plugin in given) else [*given, AtomicCheckpointIO()]


def _sync_folder(folder: Path) -> None:
    """Makes a rename in the folder last through a power cut."""
    with contextlib.suppress(OSError):  # Not every file system has it.
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
