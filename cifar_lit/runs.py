"""Where runs land, and how to find a run or a checkpoint again."""

import zipfile
from pathlib import Path

from cifar_lit.errors import UserError

LOGS = "lightning_logs"
CONFIG = "config.yaml"
BEST = "best"
LAST = "last"


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that wrote a checkpoint, or None where it stands elsewhere."""
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == "checkpoints" and (folder.parent / CONFIG).is_file() else None


def recipe_name(config: Path) -> str:
    """What runs of a config file are called: its name, and for a run's own config that run's name."""
    return config.resolve().parent.parent.name if config.name == CONFIG else config.stem


def find_checkpoint(ckpt_path: str, root: Path, recipe: str | None = None) -> Path:
    """The checkpoint that is meant, seen to be whole.

    Args:
        ckpt_path: A file, or ``best`` or ``last`` for that of the newest run.
        root: Folder that holds ``lightning_logs``.
        recipe: Look only among the runs of this recipe.

    Raises:
        UserError: There is none, or it is damaged.
    """
    if ckpt_path in (BEST, LAST):
        runs = root / LOGS / recipe if recipe else root / LOGS
        found = list(runs.glob(f"**/checkpoints/{ckpt_path}*.ckpt"))
        if not found:
            raise UserError(
                f"{runs} holds no run with a {ckpt_path} checkpoint: train one with `fit`, or give --ckpt_path FILE."
            )
        path = max(found, key=lambda file: file.stat().st_mtime)
    else:
        path = Path(ckpt_path)
        if not path.is_file():
            raise UserError(
                f"There is no checkpoint {path}: give a .ckpt file, or `best` or `last` for the newest run."
            )
    # A checkpoint is a zip file, whose table of contents stands at its end and holds a checksum an entry.
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError) as error:
        raise UserError(f"{path} is cut short or no checkpoint ({error}): give another with --ckpt_path.") from error
    if damaged is not None:
        raise UserError(f"{path} is damaged at {damaged}: give another with --ckpt_path.")
    return path
