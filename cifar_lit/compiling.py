"""A module's network, as it is or compiled by torch."""

import re
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from cifar_lit.errors import UserError

# What torch says on a CPU, and Triton on a GPU.
WITHOUT_COMPILER = re.compile(r"No working C\+\+ compiler|Failed to find C compiler|Compiler: ")
# What it says of a convolution, and of a pool.
TOO_SMALL = re.compile(r"Kernel size can't be greater than actual input size|Output size is too small")
# Most that are made of a network, by sizes of batches and images.
PROGRAMS = 64
CompileMode = Literal["none", "default", "reduce-overhead", "max-autotune"]


def compiled(function: Any, mode: str) -> Any:
    """A function, or a module, compiled by torch when it runs for the first time."""
    # torch.compile would import it now.
    from torch._dynamo import config

    # Torch's own limit is 8, from which on it runs a network uncompiled.
    config.recompile_limit = max(config.recompile_limit, PROGRAMS)
    # A program for each size of batch: the one for all sizes, which torch makes instead when a second size comes, takes
    # the first size, too, from then on, and may be slower. A run has few sizes: usual batches and last ones, of each
    # size of images.
    return torch.compile(function, mode=mode, dynamic=False)


class CompilableModule(LightningModule):
    """Has a network, and runs it as it is or compiled.

    Attributes:
        net: Maps normalised images, float (N, 3, H, W), to logits (N, C).
        compile_mode: torch.compile's, or ``none``.
        resized: Makes the images of a training step smaller; None for whole ones: see `ProgressiveResizing`.
    """

    net: Any
    compile_mode: CompileMode
    resized: Callable[[Tensor], Tensor] | None = None
    FROM_CALLBACKS: ClassVar[tuple[str, ...]] = ("resized", "taught")

    def take_network(self, net: nn.Module, compile_mode: CompileMode) -> None:
        """Takes a network, which is compiled when it runs for the first time."""
        # Convolutions run fastest on this layout, on CPUs in bfloat16 as on GPUs.
        self.net = net.to(memory_format=torch.channels_last)
        self.compile_mode = compile_mode
        self._compiled = self._new_compiled()

    def _new_compiled(self) -> Any:
        # A function, not a module: names of weights stay, and hooks on layers (Grad-CAM) see the network itself.
        return None if self.compile_mode == "none" else compiled(self.net.forward, self.compile_mode)

    def __getstate__(self) -> dict[str, Any]:
        """For a copy or a file: without what was compiled, which would go on running this module's own network.

        And without what a callback has put in for a run of this one.
        """
        state = super().__getstate__()
        return {**state, "_compiled": None, **{name: None for name in self.FROM_CALLBACKS if name in state}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._compiled = self._new_compiled()

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images, float (N, 3, H, W), to logits (N, C).

        Raises:
            UserError: These are no normalised images, they are too small for the network, or it cannot be compiled
                here.
        """
        if images.dtype == torch.uint8:
            raise UserError(
                "These images are pixels of uint8, and not yet normalised: give a trainer the data module and not its "
                "loaders, or normalise a batch with the data module's on_after_batch_transfer."
            )
        # Not in `training_step`, of which a subclass may have its own.
        resized = self.resized if self.training else None
        if resized is not None:
            images = resized(images)
        images = images.contiguous(memory_format=torch.channels_last)
        try:
            logits: Tensor = self.net(images) if self._compiled is None else self._run_compiled(images)
        except RuntimeError as error:
            if not TOO_SMALL.search(str(error)):
                raise
            height, width = images.shape[2:]
            mend = "larger ones" if resized is None else "ProgressiveResizing larger scales"
            raise UserError(
                f"Images of {height}×{width} are too small for {type(self).__name__}: give {mend}, or another model."
            ) from error
        # With CUDA graphs the next call writes over this one's output, which evaluation keeps.
        return logits if self._compiled is None or self.training else logits.clone()

    def _run_compiled(self, images: Tensor) -> Any:
        # Imported by torch.compile already, which takes a second that others are spared.
        from torch._dynamo.exc import BackendCompilerFailed

        try:
            return self._compiled(images)
        except BackendCompilerFailed as error:
            reason = str(error.inner_exception).split("\n", 1)[0].rstrip(".")
            if not WITHOUT_COMPILER.search(reason):
                raise
            raise UserError(
                f"torch.compile needs a compiler ({reason}): install g++, or name one in the environment variable CXX "
                "(on a GPU gcc, or CC), or leave --model.compile_mode out."
            ) from error
