"""What tells one state of the code, or one data set, from another."""

import hashlib
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cifar_lit
from cifar_lit.console import printable
from cifar_lit.errors import UserError


def versions() -> str:
    """Those of this package and of what computes for it, for a report of a problem."""
    return f"{cifar_lit.__version__} (torch {torch.__version__}, pytorch-lightning {version('pytorch-lightning')})"


def git_commit(folder: Path) -> str | None:
    """The commit that a folder's files are of, with ``+`` behind it where they have changed; None outside of git."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(folder), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if not git("ls-files", "--", "."):
            # Installed below somebody's repository, and no part of it.
            return None
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(images: Any) -> str:
    """SHA-256 of images, with ``pixels`` uint8 (N, H, W, 3) and ``labels`` int64 (N,): equal data, equal figure."""
    digest = hashlib.sha256(repr(images.pixels.shape).encode())
    digest.update(np.ascontiguousarray(images.pixels).data)
    digest.update(np.ascontiguousarray(images.labels).data)
    return digest.hexdigest()


def same_classes(learnt: Sequence[str], classes: Sequence[str], who: str) -> None:
    """Sees to it that a network is asked about the classes that it learnt.

    Args:
        learnt: Their names, in the order of its logits.
        classes: Those of the data.
        who: Learnt them, for messages.

    Raises:
        UserError: They are others, or stand in another order.
    """
    for pair in zip_longest(learnt, classes, fillvalue="none"):
        theirs, ours = (printable(str(name)) for name in pair)
        if pair[0] != pair[1]:
            raise UserError(
                f"{who} has learnt other classes than those of the data ({theirs} where they have {ours}): give the "
                "data that it was trained on."
            )
