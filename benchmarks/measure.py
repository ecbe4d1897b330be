"""What the benchmarks share: alternating measurements, and results that say where and of what they are."""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "albumentations", "numpy")


def alternate(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measures A, B, …, A, B, …: what disturbs the machine for a while then disturbs all of them.

    Args:
        contenders: Each returns a speed; by name.
        rounds: How often each is measured, after one round that warms up and does not count.

    Returns:
        The speeds of each, in order.
    """
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(rounds + 1):
        for name, measure in contenders.items():
            speed = measure()
            print(f"{'warm-up' if i == 0 else f'round {i}'}: {name} {speed:,.0f}/s", flush=True)
            if i:
                speeds[name].append(speed)
    return speeds


def ratio(speeds: Mapping[str, list[float]], a: str, b: str) -> float:
    """Median over rounds of how many times as fast ``a`` was as ``b`` in the same round."""
    return statistics.median(x / y for x, y in zip(speeds[a], speeds[b], strict=True))


def machine() -> dict[str, Any]:
    """The machine, in words."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "threads": torch.get_num_threads(), "gpu": gpu, "python": platform.python_version()}


def commit() -> str:
    """The commit that was measured, with ``+`` behind it where the tree had changes."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def save(name: str, figures: Mapping[str, Any]) -> Path:
    """Writes ``results/<name>.json``: the figures, the command, machine, versions and commit."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    command = " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    record = {
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine(),
        "versions": {package: version(package) for package in PACKAGES},
        **figures,
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"Wrote {path}")
    return path
