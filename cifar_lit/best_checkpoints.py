"""Which of its checkpoints a run held for the best."""

import contextlib
import re
from pathlib import Path
from typing import Any

from cifar_lit.checkpoint_content import load_checkpoint
from cifar_lit.errors import UserError

LAST = "last"


def _accuracy(checkpoint: Path) -> float:
    stated = re.search(r"val_accuracy=(\d\.\d+)", checkpoint.name)
    return float(stated[1]) if stated else 0.0


def best_of(files: list[Path]) -> Path:
    """Of a run's best checkpoints, all in one folder, the one that it held for the best; else the most accurate."""
    # What is monitored need not be the accuracy in the name.
    return max((len(files) > 1 and held_for_best(files)) or files, key=_accuracy)


def held_for_best(files: list[Path]) -> list[Path]:
    """Those of a run's checkpoints, all in one folder, that it held for the best when it wrote the latest of them."""
    # Not that of the most steps, for a run may have gone on from an earlier one.
    latest: dict[str, Any] = {}
    for path in {files[0].with_name(f"{LAST}.ckpt"): None, **dict.fromkeys(files)}:
        with contextlib.suppress(UserError):
            latest = max(latest, load_checkpoint(path), key=_when)
    states = [state for state in latest.get("callbacks", {}).values() if isinstance(state, dict)]
    named = {Path(state["best_model_path"]).name for state in states if "best_model_path" in state}
    return [file for file in files if file.name in named and file.stem != LAST]


def _when(content: dict[str, Any]) -> tuple[str, int]:
    """When a checkpoint was written: the latest start of its run, and the step."""
    starts = content.get("provenance") or [{}]
    return str(starts[-1].get("started", "")), content.get("global_step", -1)
