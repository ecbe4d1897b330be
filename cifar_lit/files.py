"""Files that a command leaves behind."""

import os
from pathlib import Path

from cifar_lit.errors import UserError


def ready_to_write(folder: Path, otherwise: str = "name another folder") -> None:
    """Makes a folder, and sees whether a file can be written to it, before minutes are spent on one.

    Args:
        folder: The folder.
        otherwise: What to do if it cannot.

    Raises:
        UserError: It cannot.
    """
    probe = folder / f".{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write to {folder} ({error.strerror}): {otherwise}.") from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file, or leaves what was there: never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # surrogateescape: names of files need not be text.
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
