"""Files that a command leaves behind, and finds again."""

import contextlib
import fnmatch
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

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
    with writing(f"to {folder}", otherwise):
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)


def expanded(path: str | Path) -> Path:
    """A path with the values of ``~`` and ``$VARIABLE`` in it, as TensorBoard's logger takes it.

    Raises:
        UserError: ``~`` is nowhere.
    """
    try:
        return Path(os.path.expandvars(Path(path).expanduser()))
    except RuntimeError as error:
        raise UserError(f"{path} cannot be found ({error}): give a path without ~.") from error


def files_below(folder: Path, within: str, pattern: str) -> list[Path]:
    """Files in folders of a name anywhere below a folder, behind links to folders, too.

    Args:
        folder: Where to look; it need not be there.
        within: Name of the folders.
        pattern: Of the files' names, such as ``best*.ckpt``.
    """
    found: list[Path] = []
    taken, walked = set[str](), set[str]()
    # Links are walked last, so that a file has the path that people know.
    starts = [folder]
    for start in starts:
        for here, folders, names in os.walk(start):
            real = os.path.realpath(here)
            if Path(here).name == within and real not in taken:
                taken.add(real)
                found += (path for name in fnmatch.filter(names, pattern) if (path := Path(here, name)).is_file())
            if real in walked:
                # A link may lead to where it stands.
                folders.clear()
            walked.add(real)
            starts += (path for name in folders if (path := Path(here, name)).is_symlink())
    return found


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file, or leaves what was there: never half of it. Of a link that which it leads to.

    A pipe, or /dev/stdout wherever that leads, is written to.

    Raises:
        UserError: It cannot be written.
    """
    # surrogateescape: names of files need not be text.
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    with writing(path):
        if (stream := _stream(path)) is not None:
            with stream:
                stream.write(data)
            return
        with replacing(path.resolve() if path.is_symlink() else path) as file:
            file.write(data)


def _stream(path: Path) -> BinaryIO | None:
    """What is there if it is a pipe, or where this process prints to; None where it is a file to be replaced."""
    if not path.exists() or path.is_dir():
        return None
    for printed in (sys.stdout, sys.stderr):
        # Without a file behind it, as in a notebook, there is no such number.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if os.path.samestat(path.stat(), os.fstat(printed.fileno())):
                printed.flush()
                # Opened anew, it would be written over from its beginning.
                return os.fdopen(os.dup(printed.fileno()), "wb")
    return None if path.is_file() else path.open("wb")


@contextlib.contextmanager
def writing(what: str | Path, otherwise: str = "make room, or name another place") -> Iterator[None]:
    """Names the file where one cannot be written, as on a full disk.

    Args:
        what: The file, or the folder of several.
        otherwise: What to do.

    Raises:
        UserError: It cannot.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Cannot write {what} ({reason}): {otherwise}.") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside a path, which takes its place when all is written, and is gone where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Named after the process, so that a file that a killed run left is not taken for one that is being written; not by
    # the whole of a name that is nearly as long as names can be.
    partial = path.with_name(f".{path.name[:40]}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
