"""What a recipe's file names."""

from pathlib import Path
from typing import Any

import yaml

from cifar_lit.callbacks import ProgressiveResizing


def callbacks_of(recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """The callbacks of a recipe, as its YAML was read."""
    named = (recipe.get("trainer") or {}).get("callbacks") or []
    # One may be given without a list, and without settings.
    listed = named if isinstance(named, list) else [named]
    return [{"class_path": one} if isinstance(one, str) else one for one in listed]


def is_a(callback: dict[str, Any], name: str) -> bool:
    """Whether a callback is of a class, whose module may be left out."""
    return str(callback["class_path"]).rpartition(".")[2] == name


def on_whole_images(file: Path, folder: Path) -> Path:
    """The recipe of a file; where it trains on smaller images at first, a copy in a folder that does not."""
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    callbacks = callbacks_of(recipe)
    kept = [callback for callback in callbacks if not is_a(callback, ProgressiveResizing.__name__)]
    if kept == callbacks:
        return file
    recipe["trainer"]["callbacks"] = kept
    copy = folder / file.name
    copy.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return copy
