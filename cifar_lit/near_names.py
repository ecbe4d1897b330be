"""What is spelt nearly so: names of classes and of settings, where one is given that there is not."""

import difflib
import inspect
import sys
from collections.abc import Iterable, Sequence

from pytorch_lightning import LightningDataModule, Trainer

_SECTIONS = ("trainer", "model", "data", "checkpoint", "curves", "gradcam", "misclassified", "confusion", "ckpt_path")
# Where the classes are that an option knows by name, by the option's end.
_MODULES = {
    "model": ("cifar_lit.models",),
    "data": ("cifar_lit.data",),
    "optimizer": ("torch.optim", "cifar_lit.optimizers"),
    "schedule": ("cifar_lit.schedules", "torch.optim.lr_scheduler"),
    "transforms": ("albumentations", "cifar_lit.data"),
    "callbacks": ("cifar_lit.callbacks", "pytorch_lightning.callbacks"),
    "logger": ("pytorch_lightning.loggers",),
}


def classes_near(name: str, option: str) -> str:
    """Names of classes that an option knows, near one that it does not know; or where they are."""
    modules, known = _modules_of(option), known_classes(option)
    begun = [other for other in known if other.startswith(name.lower())][:3]
    near = begun or difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.55)
    if near or len(modules) == 1:
        return listed([known[other] for other in near or sorted(known)])
    return f"a class of {listed(modules)}" if modules else "one that there is"


def option_near(option: str) -> str:
    """A question after the trainer's option that is spelt nearly so; nothing if there is none."""
    trainer, names = "--trainer.", inspect.signature(Trainer.__init__).parameters
    name = option.partition("=")[0]
    return _question(name.removeprefix(trainer), names, 0.8, trainer) if name.startswith(trainer) else ""


def section_near(name: str) -> str:
    """A question after the part of the settings that is spelt nearly so; nothing if there is none."""
    return _question(name, _SECTIONS)


def setting_near(name: str, path: str) -> str:
    """A question after the argument of a class, or of its bases, that is spelt nearly so; nothing if there is none."""
    module, _, class_name = path.rpartition(".")
    kind = getattr(sys.modules.get(module), class_name, None)
    makers = [vars(base)["__init__"] for base in getattr(kind, "__mro__", ())[:-1] if "__init__" in vars(base)]
    parameters = [[*inspect.signature(maker).parameters.values()][1:] for maker in makers]
    names = {one.name for own in parameters[:1] for one in own if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
    # What a base cannot do without, a class gives it.
    names |= {one.name for of_base in parameters[1:] for one in of_base if one.default is not one.empty}
    return _question(name, sorted(names))


def listed(names: Sequence[str]) -> str:
    """Names to choose from, in words."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def known_classes(option: str) -> dict[str, str]:
    """Names of the classes that an option knows, by how they are spelt in small letters."""
    return {
        name.lower(): name
        for module in _modules_of(option)
        for name, kind in vars(sys.modules.get(module, sys)).items()
        if isinstance(kind, type) and not name.startswith("_") and kind.__module__.startswith(module)
        # Beside data modules their module has what these are made of.
        if not option.endswith("data") or (issubclass(kind, LightningDataModule) and not inspect.isabstract(kind))
    }


def _modules_of(option: str) -> tuple[str, ...]:
    return _MODULES.get(option.rpartition(".")[2].removeprefix("--"), ())


def _question(name: str, names: Iterable[str], cutoff: float = 0.6, prefix: str = "") -> str:
    near = difflib.get_close_matches(name, [*names], n=1, cutoff=cutoff)
    return f"did you mean {prefix}{near[0]}? Or " if near else ""
