"""Imports Lightning without what comes along only in case of need, so that a command begins sooner.

Lightning imports torchmetrics, which imports torchvision for its image metrics. Between them they import torch's
compiler, to keep it off a few methods and to ask whether something is compiled, and scipy.signal, to give one of its
functions a second name; torch's optimizers import the compiler to tell it of each step. A third of the time goes there.
What needs either later gets the real one.
"""

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class OptimizedModule:
    """In the place of the class of compiled modules, of which there is none where nothing was compiled."""


def is_compile_supported(device_type: Any) -> bool:
    """The function of this name, which is imported when it is called."""
    supported: bool = _real("torch._dynamo.utils").is_compile_supported(device_type)
    return supported


def disable(fn: Any = None, recursive: bool = True, **kwargs: Any) -> Any:
    """Keeps the compiler off a function, as all of them are where nothing is compiled; as a decorator, too."""
    if fn is None:
        return disable
    with suppress(AttributeError, TypeError):  # Not everything that can be called takes attributes.
        # By which the compiler knows it, should it be imported later.
        fn._torchdynamo_disable = True
    return fn


def graph_break(msg: str = "") -> None:
    """Does nothing, as where nothing is compiled: an optimizer asks around each step to end what is compiled as one."""


# What Lightning, torchmetrics and optimizers ask of each. Whoever asks for anything else gets the real module.
SPARED: dict[str, dict[str, Any]] = {
    "torch._dynamo": {"OptimizedModule": OptimizedModule, "disable": disable, "graph_break": graph_break},
    "torch._dynamo.utils": {"is_compile_supported": is_compile_supported},
    # Looked for by torchmetrics, which adds it where it is missing.
    "scipy.signal": {"hamming": None},
}


class _StandIn(ModuleType):
    """Has a few attributes of a module; any other imports it."""

    def __init__(self, name: str, attributes: Mapping[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(attributes)
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            # Of a package, by which its modules are found.
            self.__path__ = spec.submodule_search_locations

    def __setattr__(self, attribute: str, value: Any) -> None:
        super().__setattr__(attribute, value)
        self.hand_over_modules()

    def hand_over_modules(self) -> None:
        """Gives the package, once it has come, those of its modules whose import began with the stand-in."""
        package = sys.modules.get(self.__name__)
        if package is not None and package is not self:
            for attribute, value in vars(self).items():
                if isinstance(value, ModuleType) and not hasattr(package, attribute):
                    setattr(package, attribute, value)

    def __getattr__(self, attribute: str) -> Any:
        # Python asks for some of these, and does without them.
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(_real(self.__name__), attribute)


def _real(module: str) -> ModuleType:
    """The module itself, and not what stands in for it."""
    # Of a package and its modules all or none: they import each other.
    package, _, _ = module.partition(".")
    names = [name for name in SPARED if name.partition(".")[0] == package]
    standing_in = [sys.modules.get(name) for name in names]
    _remove(names)
    real = importlib.import_module(module)
    for one in standing_in:
        if isinstance(one, _StandIn):
            one.hand_over_modules()
    return real


def _put(name: str) -> None:
    """Has a stand-in found at once, as an attribute too: a package that looks for one takes 20 µs, at every step."""
    package, _, attribute = name.rpartition(".")
    sys.modules[name] = stand_in = _StandIn(name, SPARED[name])
    if not isinstance(sys.modules[package], _StandIn):
        setattr(sys.modules[package], attribute, stand_in)


def _remove(names: Iterable[str]) -> None:
    for name in names:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]
        package, _, attribute = name.rpartition(".")
        if isinstance(vars(sys.modules.get(package, sys)).get(attribute), _StandIn):
            delattr(sys.modules[package], attribute)


@contextmanager
def spared(names: Iterable[str] = tuple(SPARED)) -> Iterator[None]:
    """While it lasts, importing these modules of `SPARED` costs nothing; those imported before stay as they are."""
    try:
        for name in names:
            if name not in sys.modules:
                _put(name)
        yield
    finally:
        _remove(SPARED)
