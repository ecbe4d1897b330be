"""Freed memory is kept for the next step."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
if sys.argv[1] == "kept":
    from cifar_lit.allocator import keep_freed_memory
    keep_freed_memory()
def step():
    return [torch.ones(1_000_000) for _ in range(8)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_a_step_finds_the_memory_of_the_one_before() -> None:
    faults = {}
    for mode in ("given back", "kept"):
        done = subprocess.run([sys.executable, "-c", STEPS, mode], capture_output=True, text=True, check=True)
        faults[mode] = int(done.stdout)
    # 32 MB a step are 7,812 pages.
    assert faults["kept"] < 1_000
    assert faults["given back"] > 10 * faults["kept"]
