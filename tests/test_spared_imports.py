"""Commands do without torch's compiler and scipy.signal where they can, and whoever needs them gets the real ones."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.accuracy import QUIET
from cifar_lit.spared_imports import SPARED

CONFIGS = Path(__file__).parent.parent / "configs"


def run(*options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *options], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def imports(*command: str, cwd: Path) -> tuple[set[str], str]:
    """What the command line imports of `SPARED`, and what it prints."""
    done = run("-X", "importtime", "-m", "cifar_lit", *command, cwd=cwd)
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"torch", "torchvision.ops", "torchmetrics.metric", "pytorch_lightning"} <= imported
    return imported & SPARED.keys(), done.stdout


def test_summary_imports_neither(tmp_path: Path) -> None:
    imported, out = imports("summary", f"--config={CONFIGS / 'resnet20.yaml'}", cwd=tmp_path)
    assert "272,282" in out
    assert not imported


@pytest.mark.slow
def test_what_trains_and_tests_imports_neither_and_what_compiles_trains_the_same(tmp_path: Path) -> None:
    few = ["--model=DepthwiseNet", "--model.widths=[[8],[8]]", "--model.dropout=[0,0]", "--data=DigitsDataModule"]
    # Torch's optimizers ask for its compiler.
    few += ["--model.optimizer=SGD", "--model.optimizer.lr=0.1", "--trainer.precision=32-true"]
    few += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1", *QUIET]
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    imported, _ = imports("fit", *few, f"--trainer.default_root_dir={plain}", cwd=tmp_path)
    assert not imported
    if any(map(shutil.which, ("g++", "clang++"))):
        # Without validation, which would compile a graph of its own.
        compiling = ["--model.compile_mode=default", "--trainer.limit_val_batches=0"]
        imported, _ = imports("fit", *few, *compiling, f"--trainer.default_root_dir={compiled}", cwd=tmp_path)
        assert "torch._dynamo.utils" in imported
        weights = [
            torch.load(next(folder.rglob("last.ckpt")), weights_only=True)["state_dict"] for folder in (plain, compiled)
        ]
        torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)
    imported, out = imports("test", f"--ckpt_path={next(plain.rglob('last.ckpt'))}", cwd=tmp_path)
    assert "test/accuracy" in out
    assert not imported


NEEDS_THEM = """
import sys
from cifar_lit.spared_imports import SPARED, spared

with spared():
    import scipy.signal, torch, torchvision
    {first}
    assert all(type(sys.modules[name]).__name__ == "_StandIn" for name in SPARED)
    assert vars(torch)["_dynamo"] is sys.modules["torch._dynamo"]
    {inside}
    assert scipy.signal.butter(1, 0.5)[0].shape == (2,)
{outside}
assert sys.modules["torch._dynamo"].__file__ and sys.modules["scipy.signal"].__file__
assert torch._dynamo is sys.modules["torch._dynamo"]
print("real")
"""
COMPILES = (
    "compiled = torch.compile(lambda x: x + 1, backend='eager'); assert compiled(torch.ones(2)).tolist() == [2, 2]; "
    # Which imports a module of the package first.
    "torch.compile(torch.nn.ReLU()); assert torch._dynamo.backends.registry"
)
DISABLED = (
    "assert [disabled(abs)(-1) for disabled in (torch.compiler.disable, torch.compiler.disable(recursive=False), "
    "torch._dynamo.disable(recursive=True, reason=None))] == [1, 1, 1]"
)
ROI = "assert torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), [torch.tensor([[0., 0, 2, 2]])], 2).sum() == 4"
OPTIMIZED = (
    "from torch._dynamo import OptimizedModule; "
    "assert isinstance(torch.compile(torch.nn.ReLU(), backend='eager'), OptimizedModule)"
)


def test_who_compiles_meanwhile_gets_the_compiler(tmp_path: Path) -> None:
    inside = f"{DISABLED}; {COMPILES}"
    done = run("-c", NEEDS_THEM.format(first="", inside=inside, outside=OPTIMIZED), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "real\n"), done.stderr


def test_who_needs_them_afterwards_gets_them(tmp_path: Path) -> None:
    outside = f"{ROI}; {COMPILES}; {OPTIMIZED}; from torch._dynamo.utils import is_compile_supported"
    done = run("-c", NEEDS_THEM.format(first="import cifar_lit.cli", inside="", outside=outside), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "real\n"), done.stderr


def test_what_is_imported_already_stays(tmp_path: Path) -> None:
    script = (
        "import sys, scipy.signal, torch._dynamo\n"
        "from cifar_lit.spared_imports import SPARED, spared\n"
        "before = [sys.modules[name] for name in SPARED]\n"
        "with spared():\n"
        "    assert [sys.modules[name] for name in SPARED] == before\n"
        "assert [sys.modules[name] for name in SPARED] == before\n"
    )
    done = run("-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
