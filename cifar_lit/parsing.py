"""What the command line's parser does otherwise than jsonargparse: classes that replace others, and whole numbers."""

import sys
from typing import Any

import jsonargparse._typehints
from jsonargparse import Namespace
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.cli import LightningArgumentParser

# Of the trainer: a whole number counts batches, a fraction is a share of them.
COUNT_OR_SHARE = {f"trainer.limit_{split}_batches" for split in ("train", "val", "test", "predict")}
COUNT_OR_SHARE |= {"trainer.overfit_batches", "trainer.val_check_interval"}
_keep_what_is_valid = jsonargparse._typehints.discard_init_args_on_class_path_change


def _begin_anew(parser_or_action: Any, before: Any, now: Any) -> None:
    """Drops the settings of the class before, of which the parser would keep those whose names the new one knows."""
    if not before or "init_args" not in before or _is_same(before["class_path"], now["class_path"]):
        return
    module, _, name = str(now["class_path"]).rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    if isinstance(kind, type) and issubclass(kind, (LightningModule, LightningDataModule)):
        _keep_what_is_valid(parser_or_action, before, now)  # type: ignore[no-untyped-call]
    else:
        before["init_args"] = Namespace()  # type: ignore[no-untyped-call]


def _is_same(path: str | None, other: str | None) -> bool:
    """Whether two paths are of one class, which may be named without its module."""
    longer, shorter = sorted(("." + str(path), "." + str(other)), key=len, reverse=True)
    return longer.endswith(shorter)


def begin_new_classes_anew() -> None:
    """Has an optimizer, schedule, transform, callback or logger that replaces another begin with its own defaults.

    The rate of SGD is none for Adam, nor is one transform's scale another's. Models and data keep what they share: a
    recipe is for whatever network and images it is given.
    """
    jsonargparse._typehints.discard_init_args_on_class_path_change = _begin_anew


def let_whole_numbers_count(parser: LightningArgumentParser) -> None:
    """Has 1 mean one batch where 1.0 means all of them."""
    for action in parser._actions:
        if action.dest in COUNT_OR_SHARE:
            # typing takes Union[int, float] for the Union[float, int] that another library made before, and so 1 would
            # be read as 1.0.
            action._typehint = int | float | None  # type: ignore[attr-defined]
