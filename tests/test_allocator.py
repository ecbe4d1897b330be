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
    return [torch.ones(20_000_000) for _ in range(2)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_a_step_finds_the_memory_of_the_one_before() -> None:
    def faults(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", STEPS, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    # 160 MB a step are 39,062 pages, or 76 of the large ones that some systems give. Glibc maps 80 MB anew by itself.
    given_back = faults("given back")
    assert given_back > 700
    # A system may reclaim idle pages meanwhile.
    assert min(faults("kept") for _ in range(3)) < given_back / 5
