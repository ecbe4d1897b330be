"""What Lightning does around every step of a run, without what is done for nobody.

Beside a small network on a GPU that is most of a step: see `benchmarks.loop_overhead`.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.profilers import PassThroughProfiler

# The hooks of a callback that are called for every batch.
OF_EVERY_BATCH = (
    *(f"on_{stage}_batch_{end}" for stage in ("train", "validation", "test", "predict") for end in ("start", "end")),
    *("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)


def leave_out_empty_hooks(callbacks: Iterable[Callback]) -> None:
    """Has a trainer pass over the hooks of every batch that a callback does not define.

    Lightning calls all of all callbacks, 7 in a training step, each within a context for its profiler; what is not
    callable it passes over.

    Args:
        callbacks: Of the trainer. Each gets attributes of its own; the classes stay as they are.
    """
    for callback in callbacks:
        for name in OF_EVERY_BATCH:
            if getattr(callback, name, None) == getattr(Callback, name).__get__(callback):
                # Some let nothing be set.
                vars(callback)[name] = None


class Unprofiled(PassThroughProfiler):
    """Lightning's profiler where there is none, without a new context for each of the dozens of things of a step."""

    _nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> contextlib.AbstractContextManager[Any]:  # type: ignore[override]
        """A context that does nothing."""
        return self._nothing


class QuicklyNoted(LightningModule):
    """A module on which Lightning notes quickly which hook it is in.

    It does so some forty times a step, and torch looks first whether what is set is a parameter, a layer or a buffer.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)
