"""What Lightning does around every step of a run, without what is done for nobody.

A GPU that is done with a step waits for it: see `benchmarks.loop_overhead`.
"""

import contextlib
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.profilers import PassThroughProfiler

# The hooks of a callback that are called for every batch.
OF_EVERY_BATCH = (
    *(f"on_{stage}_batch_{end}" for stage in ("train", "validation", "test", "predict") for end in ("start", "end")),
    *("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)
# Whose callbacks never call an empty hook of their own, and keep no attributes that they do not know.
_KNOWN = ("cifar_lit", "pytorch_lightning")


def leave_out_what_is_empty(trainer: Trainer) -> None:
    """Has a trainer pass over the hooks of every batch that a callback does not define, and over no profiler.

    Lightning (2.6) calls every hook of every callback, 6 in a training step, within a context for its profiler, but
    for those that are not callable. Callbacks of one's own stay as they are.

    Args:
        trainer: Whose callbacks get attributes of their own.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for name in OF_EVERY_BATCH if type(callback).__module__.partition(".")[0] in _KNOWN else ():
            # One that was set on the callback alone is none of the class.
            if getattr(callback, name, None) == getattr(Callback, name).__get__(callback):
                setattr(callback, name, None)
    if type(trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]
        trainer.profiler = Unprofiled()  # type: ignore[attr-defined]


class Unprofiled(PassThroughProfiler):
    """Lightning's profiler where there is none, without a generator for each of the dozens of things of a step."""

    def profile(self, action_name: str) -> contextlib.AbstractContextManager[str]:  # type: ignore[override]
        """A context that does nothing."""
        return contextlib.nullcontext(action_name)


class QuicklyNoted(LightningModule):
    """A module on which Lightning notes quickly which hook it is in.

    It does so some forty times a step, and torch looks first whether what is set is a parameter, a layer or a buffer.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)
