"""What a checkpoint holds, read as data."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from cifar_lit.errors import UserError
from cifar_lit.monitor import is_of_validation

# Classes that a checkpoint may choose. To name another imports its module, and so executes what is in it.
_CHOOSABLE = re.compile(r"(cifar_lit|albumentations|torch\.optim)(\.\w+)*\.[A-Z]\w*|\w+")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
# Transforms that normalise in a recipe's own list; what the checkpoint keeps of the data is then not what was used.
_SCALING = (".Normalize", ".ToFloat")


def load_checkpoint(path: Path, read: bytes | None = None) -> dict[str, Any]:
    """What a checkpoint holds, read as data: nothing in it is executed.

    Args:
        path: Its file.
        read: What has been read of it, if it has.

    Raises:
        UserError: It holds more than data, or cannot be read.
    """
    try:
        source = path if read is None else BytesIO(read)
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=read is None)
    except Exception as error:  # What a damaged or hostile file raises is not limited to any list.
        raise UserError(f"{path} cannot be read as data alone, so nothing of it was loaded: give another.") from error
    return content if isinstance(content, dict) else {}


def epochs_in(content: Mapping[str, Any]) -> int | None:
    """Epochs that a checkpoint's network has seen, the one under way with them; None where it does not say."""
    with contextlib.suppress(KeyError):
        # Behind the end of `fit` Lightning's count is of the next one.
        return int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"])
    return content["epoch"] + 1 if "epoch" in content else None


def is_chosen_by_test(content: Mapping[str, Any], path: Path) -> bool:
    """Whether a checkpoint is the best epoch by the test split, which a run validates on that holds no images out.

    Args:
        content: What it holds.
        path: Its file, under the name that the run gave it.
    """
    if content.get("datamodule_hyper_parameters", {}).get("val_size") != 0:
        return False
    states = [state for state in content.get("callbacks", {}).values() if isinstance(state, Mapping)]
    best = [state.get("best_model_path") for state in states if is_of_validation(str(state.get("monitor")))]
    return any(Path(file or "").name == path.name or path.name.startswith("best") for file in best)


def data_in(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a checkpoint's content keeps of its data: ``class_names``, ``mean`` and ``std``; None if it keeps none."""
    keys = {"class_names", "mean", "std"}
    return next((value for value in content.values() if isinstance(value, dict) and keys <= value.keys()), None)


def scaling_in(settings: Mapping[str, Any]) -> list[Any]:
    """Of a data module's settings, the transforms that normalise."""
    transforms = settings.get("transforms") or []
    back = [i for i, one in enumerate(transforms) if str(one["class_path"]).endswith(".FromFloat")]
    return [one for one in transforms[back[-1] if back else 0 :] if str(one["class_path"]).endswith(_SCALING)]


def settings_in(checkpoint: Path) -> str:
    """Model and data as a checkpoint tells them that has left its run's folder, or is somebody else's, as YAML.

    Raises:
        UserError: It does not tell them, or chooses a class that only its user may choose.
    """
    content = load_checkpoint(checkpoint)
    settings = {}
    for name, key in (("model", "hyper_parameters"), ("data", "datamodule_hyper_parameters")):
        init_args = {k: v for k, v in content.get(key, {}).items() if k not in ("_instantiator", "num_classes")}
        class_path = init_args.pop("_class_path", None)
        if class_path is None:
            raise UserError(f"{checkpoint} does not tell its settings, and is of no run here: give --config.")
        for chosen in (class_path, *_classes_in(init_args)):
            if not isinstance(chosen, str) or not _CHOOSABLE.fullmatch(chosen):
                raise UserError(
                    f"{checkpoint} asks for the class {chosen}, whose code a checkpoint may not choose: if you trust "
                    f"it, give --config, or --model, --data and their options."
                )
        settings[name] = {"class_path": class_path, "init_args": init_args}
    return json.dumps(settings)


def _classes_in(settings: Any) -> Iterator[Any]:
    """The values in settings that a parser may take for the name of a class, or read as YAML that names one."""
    for key, value in settings.items() if isinstance(settings, dict) else enumerate(settings):
        if isinstance(value, dict | list | tuple):
            yield from _classes_in(value)
        # A folder is never anything else.
        named = isinstance(value, str) and key != "root" and ("class_path" in value or _DOTTED.fullmatch(value.strip()))
        if named or key in ("class_path", "_class_path"):
            yield value
