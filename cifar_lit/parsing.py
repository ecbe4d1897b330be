"""What the command line's parser does otherwise than jsonargparse: classes that replace others, and whole numbers."""

import re
import sys
from collections import deque
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import jsonargparse._typehints
import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import register_type
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.cli import LightningArgumentParser

from cifar_lit.errors import UserError

# Of the trainer: a whole number counts batches, a fraction is a share of them.
COUNT_OR_SHARE = {f"trainer.limit_{split}_batches" for split in ("train", "val", "test", "predict")}
COUNT_OR_SHARE |= {"trainer.overfit_batches", "trainer.val_check_interval"}
# An argument that names a file of settings.
_FILE = re.compile(r"-c(?!-)|--config(=|$)")
_DISCARD = "discard_init_args_on_class_path_change"
_keep_what_is_valid = getattr(jsonargparse._typehints, _DISCARD, None)


def _begin_anew(parser_or_action: Any, before: Any, now: Any) -> None:
    """Drops the settings of the class before, of which the parser would keep those whose names the new one knows."""
    if not before or "init_args" not in before:
        return
    kind = _class_at(str(now["class_path"]))
    if _is_same(before["class_path"], now["class_path"]):
        # A transform is one of a list, which takes the place of the one before as a whole; what the parser calls a
        # nested argument is a setting of the last one.
        is_setting = type(now.get("init_args")).__name__ == "NestedArg"
        if is_setting or not any(
            base.__module__.startswith("albumentations.") for base in getattr(kind, "__mro__", ())
        ):
            return
    if isinstance(kind, type) and issubclass(kind, (LightningModule, LightningDataModule)):
        _keep_what_is_valid(parser_or_action, before, now)  # type: ignore[misc]
    else:
        before["init_args"] = Namespace()  # type: ignore[no-untyped-call]


def _is_same(path: str | None, other: str | None) -> bool:
    """Whether two paths are of one class, which may be named without its module."""
    longer, shorter = sorted(("." + str(path), "." + str(other)), key=len, reverse=True)
    return longer.endswith(shorter)


def _class_at(path: str) -> Any:
    """What is found at a path, whose module is imported; a class may be within another one."""
    module, _, name = path.rpartition(".")
    here = sys.modules.get(module) or (_class_at(module) if module else None)
    return getattr(here, name, None)


def begin_new_classes_anew() -> None:
    """Has an optimizer, schedule, transform, callback or logger that replaces another begin with its own defaults.

    The rate of SGD is none for Adam, nor is one transform's scale another's. Models and data keep what they share: a
    recipe is for whatever network and images it is given.
    """
    if _keep_what_is_valid is not None:
        setattr(jsonargparse._typehints, _DISCARD, _begin_anew)


def in_order(arguments: Sequence[str]) -> list[str]:
    """Puts options where the parser, which goes from left to right, drops none of them.

    Files of settings come first, so that what is said beside them beats them wherever it stands; an option that names a
    class comes before those of its settings.
    """
    items: list[list[str]] = []
    for argument in arguments:
        before = items[-1][0] if items else ""
        is_value = not argument.startswith("--") and not _FILE.match(argument)
        if is_value and (before == "-c" or (before.startswith("--") and "=" not in before)):
            items[-1].append(argument)
        else:
            items.append([argument])
    command = items[:1] if items and not items[0][0].startswith("-") else []
    rest = items[len(command) :]
    files = [item for item in rest if _FILE.match(item[0])] if command else []
    ordered: list[list[str]] = []
    for item in (item for item in rest if item not in files):
        settings = f"{_setting(item[0])}."
        given_before = (i for i, other in enumerate(ordered) if _setting(other[0]).startswith(settings))
        ordered.insert(next(given_before, len(ordered)) if settings.startswith("--") else len(ordered), item)
    return [argument for item in [*command, *files, *ordered] for argument in item]


def _setting(argument: str) -> str:
    """The option that an argument gives, as it is written the short way."""
    return argument.partition("=")[0].replace(".init_args", "").removesuffix(".class_path")


def of_recipe(files: Sequence[Path]) -> Path | None:
    """Of files of settings the one that runs are called after: the last that has a model, else the last.

    Beside a recipe there may be a file for a machine, which others share.
    """

    def has_a_model(file: Path) -> bool:
        # A pipe can be read but once.
        content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
        return isinstance(content, dict) and "model" in content

    recipes = [file for file in files if len(files) == 1 or has_a_model(file)]
    named = recipes or files
    return named[-1] if named else None


def check_files_of_settings(arguments: Sequence[str]) -> None:
    """Reads each ``--config`` file: the parser would not name the one that it cannot read.

    Raises:
        UserError: One is no UTF-8 text, or no YAML.
    """
    for i, argument in enumerate(arguments):
        option, is_joined, value = argument.partition("=")
        file = value if is_joined else (arguments[i + 1 :] or [""])[0]
        if option not in ("--config", "-c"):
            continue
        try:
            # A pipe can be read but once, by the parser.
            if Path(file).is_file():
                deque(yaml.parse(Path(file).read_text(encoding="utf-8")), 0)
        except OSError:
            # A name that cannot be one: the parser says so, or takes it for settings.
            continue
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is no UTF-8 text ({error}): save it as UTF-8.") from error
        except yaml.YAMLError as error:
            raise UserError(f"{file} is no valid YAML: {str(error).replace('<unicode string>', 'it')}.") from error


def let_whole_numbers_count(parser: LightningArgumentParser) -> None:
    """Has 1 mean one batch where 1.0 means all of them."""
    for action in parser._actions:
        if action.dest in COUNT_OR_SHARE:
            # typing takes Union[int, float] for the Union[float, int] that another library made before, and so 1 would
            # be read as 1.0.
            action._typehint = int | float | None  # type: ignore[attr-defined]


# Of StochasticWeightAveraging, whose settings could not be read again.
register_type(torch.device, str, deserializer_exceptions=(RuntimeError, TypeError, ValueError))
# Callbacks of Lightning have defaults of enumerations, such as Timer, which yaml does not know.
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))


def as_yaml(parser: LightningArgumentParser, settings: Namespace, **kept: bool) -> str:
    """Settings as text. They have been parsed: the parser would check them anew, which takes longer than to write."""
    return str(parser.dump(settings, skip_validation=True, **kept))


def as_data(parser: LightningArgumentParser, settings: Namespace) -> Any:
    """Settings as numbers, text, lists and dictionaries: what Lightning's CLI keeps as its ``config_dump``."""
    return yaml.safe_load(as_yaml(parser, settings, skip_link_targets=False, skip_none=False))
