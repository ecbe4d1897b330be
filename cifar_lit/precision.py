"""Chooses the numbers to compute in where nobody said, and knows which GPUs there are."""

import platform
from typing import Literal

import torch

Precision = Literal["bf16-mixed", "16-mixed", "32-true"]


def choose_precision(accelerator: str) -> tuple[Precision, str]:
    """The fastest precision that trains safely on this machine, and why.

    Args:
        accelerator: The trainer's ``accelerator``.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "this GPU computes in bfloat16 natively"
        return "16-mixed", "this GPU has no native bfloat16"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "32-true", "autocast does not pay on Apple GPUs"
    if accelerator not in ("auto", "cpu", "gpu", "cuda", "mps"):
        return "32-true", f"what {accelerator} computes fast in is not known here"
    if accelerator in ("auto", "cpu") and _cpu_has_bfloat16():
        return "bf16-mixed", "this CPU computes in bfloat16 natively"
    return "32-true", "this processor has no native bfloat16"


def can_use(accelerator: str) -> bool:
    """Whether torch can use the GPU that a trainer's ``accelerator`` names; any other is taken as given."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found["gpu"] = any(found.values())
    return found.get(accelerator, True)


def count_devices(accelerator: str) -> int:
    """How many devices a trainer's ``accelerator`` finds here; a CPU is one, whatever its number of processes."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.device_count()
    return 1


def _cpu_has_bfloat16() -> bool:
    # oneDNN also takes bfloat16 on processors that only emulate it, which is slower than float32: ask for the
    # instructions themselves.
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
