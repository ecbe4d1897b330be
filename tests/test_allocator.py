"""Freed memory is kept for the next step."""

import platform
import subprocess
import sys

import pytest

MEGABYTE = 2**20
# Bytes of an 80 MB tensor that were mapped for it alone, and bytes that stand ready when it has been freed.
MEASURE = """
import ctypes, sys
import torch
class Figures(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
figures = ctypes.CDLL("libc.so.6").mallinfo2
figures.restype = Figures
if sys.argv[1] == "kept":
    from cifar_lit.allocator import keep_freed_memory
    keep_freed_memory()
before = figures().hblkhd
tensor = torch.ones(20_000_000)
mapped = figures().hblkhd - before
del tensor
print(mapped, figures().fordblks)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_a_freed_tensor_stands_ready_for_the_next() -> None:
    def measure(mode: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", MEASURE, mode], capture_output=True, text=True, check=True)
        return [int(figure) for figure in done.stdout.split()]

    mapped, ready = measure("given back")
    assert mapped >= 80_000_000
    assert ready < 40 * MEGABYTE
    mapped, ready = measure("kept")
    assert mapped == 0
    assert ready >= 80_000_000
