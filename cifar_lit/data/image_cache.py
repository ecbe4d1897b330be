"""Decoded images on disk: those of a folder as it is now, and not for long as it was before."""

import contextlib
import hashlib
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cifar_lit.files import replacing

# Names the layout of a file; a change of what is decoded, or how, must change it.
VERSION = "4"
SECONDS_KEPT = 24 * 60 * 60


def cache_folder() -> Path:
    """Where decoded images are kept: ``$XDG_CACHE_HOME/cifar_lit``, by default ``~/.cache/cifar_lit``."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cifar_lit"
    except RuntimeError:
        # A user without a home, as in some containers, has no cache: elsewhere others could write to it.
        return Path(os.devnull) / "cifar_lit"


def cached(
    folder: Path, content: bytes, shape: tuple[int, ...], decode: Callable[[], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """The images of a folder, decoded only if they are not there; what was there of it days ago then goes.

    Args:
        folder: Where they come from, as an absolute path.
        content: Of the folder: other files, or changed ones, make it another.
        shape: (n, size, size, 3).
        decode: Makes them, uint8 of that shape.
    """
    of_folder = f"{_digest(os.fsencode(f'{shape[1]} {folder}'))[:16]}-"
    file = cache_folder() / f"{of_folder}{_digest(content)[:32]}.npy"
    pixels = _load_if_whole(file, shape)
    if pixels is not None:
        with contextlib.suppress(OSError):
            os.utime(file)
    else:
        pixels = decode()
        # A cache that cannot be written, on a full or read-only disk, costs the next run some time and no more.
        with contextlib.suppress(OSError), replacing(file) as whole:
            np.save(whole, pixels)
            # NumPy reads to the end of the array and no further.
            whole.write(_checksum(pixels))
        for other in {*file.parent.glob(f"{of_folder}*.npy")} - {file}:
            with contextlib.suppress(OSError):
                # One that was just used may be that of another machine's copy of the folder.
                if time.time() - other.stat().st_mtime > SECONDS_KEPT:
                    other.unlink()
    return pixels


def _digest(text: bytes) -> str:
    return hashlib.sha256(VERSION.encode() + text).hexdigest()


def _load_if_whole(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    try:
        with path.open("rb") as file:
            pixels: NDArray = np.load(file)
            whole = pixels.shape == shape and pixels.dtype == np.uint8 and file.read() == _checksum(pixels)
    except Exception:  # Not there, or damaged in whatever way: the images are decoded again.
        return None
    return pixels if whole else None


def _checksum(pixels: NDArray[np.uint8]) -> bytes:
    """Of pixels, which a disk may have changed: 0.1 s for 150 MB."""
    return zlib.crc32(np.ascontiguousarray(pixels).data).to_bytes(4, "big")
