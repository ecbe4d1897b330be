"""Reads numbers of a device without waiting for it."""

from typing import Any

import torch
from torch import Tensor


class OnHost:
    """A number on its way from an NVIDIA GPU to the host; of other devices it is waited for.

    Args:
        number: ().
    """

    def __init__(self, number: Tensor) -> None:
        self._value = number.detach()
        self._event: Any = None
        if number.is_cuda:
            # Only to page-locked memory is a copy asynchronous.
            on_host = torch.empty((), dtype=number.dtype, pin_memory=True)
            self._value = on_host.copy_(self._value, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    @property
    def arrived(self) -> bool:
        """Whether it is there."""
        return self._event is None or bool(self._event.query())

    @property
    def value(self) -> float:
        """The number; waits until it is there."""
        if self._event is not None:
            self._event.synchronize()
        return float(self._value)
