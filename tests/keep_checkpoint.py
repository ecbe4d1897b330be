"""Makes the checkpoints that must keep loading, and what their networks say: a pair of files an architecture.

    python tests/keep_checkpoint.py NAME …

They are written once, by the version that first had the architecture, and never again: what they hold is what users'
disks hold. Run it for a new architecture alone. Each checkpoint is what `fit` writes, but its numbers are a short
pattern, so that 45 MB of ResNet-18 fit into a few kB.
"""

import json
import lzma
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cifar_lit.cli import CifarCLI
from cifar_lit.console import hush_libraries

FOLDER = Path(__file__).with_name("kept")
ARCHITECTURES = {
    "resnet_v1": ["--model=ResNetV1", "--model.depth=8"],
    "resnet_v2": ["--model=ResNetV2", "--model.depth=11"],
    "resnet18": ["--model=ResNet18"],
    "dilated_separable": ["--model=DilatedSeparableNet"],
    "depthwise": ["--model=DepthwiseNet"],
    "plain_cnn": ["--model=PlainCNN"],
    "speed": ["--model=SpeedNet", "--model.optimizer=MuonSGD"],
}
PERIOD = 61


def pattern(like: Tensor) -> Tensor:
    """Numbers between −1 and 1 that come back every 61, on a scale that keeps activations in range."""
    if not like.is_floating_point():
        return like
    numbers = (torch.arange(like.numel()) * 23 % PERIOD).float() / (PERIOD // 2) - 1
    fan_in = max(like[0].numel(), 1) if like.ndim > 1 else 1
    return (numbers * math.sqrt(3 / fan_in)).view(like.shape).to(like.dtype)


def with_pattern(value: Any, name: str = "") -> Any:
    """The same, with all tensors overwritten; variances and scales of norms stay positive."""
    if isinstance(value, Tensor):
        if "running_var" in name or ("bn" in name and name.endswith("weight")):
            return pattern(value).abs() + 0.5
        return pattern(value)
    if isinstance(value, dict):
        return {key: with_pattern(item, str(key)) for key, item in value.items()}
    return [with_pattern(item) for item in value] if isinstance(value, list) else value


def probe() -> Tensor:
    """Four normalised images, (4, 3, 32, 32)."""
    return (torch.arange(4 * 3 * 32 * 32) * 37 % 101).float().view(4, 3, 32, 32) / 50 - 1


def make(name: str) -> None:
    """Writes ``<name>.ckpt.xz`` and ``<name>.json``."""
    with tempfile.TemporaryDirectory() as folder:
        limits = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
        where = [f"--trainer.default_root_dir={folder}", "--trainer.accelerator=cpu", "--data=DigitsDataModule"]
        quiet = [f"--{panel}.every_n_epochs=0" for panel in ("gradcam", "misclassified", "confusion")]
        model = CifarCLI(["fit", *ARCHITECTURES[name], *where, *limits, *quiet, "--data.batch_size=8"]).model
        path = next(Path(folder).rglob("last.ckpt"))
        checkpoint = torch.load(path, weights_only=True)
        for part in ("state_dict", "optimizer_states"):
            checkpoint[part] = with_pattern(checkpoint[part])
        torch.save(checkpoint, path)
        (FOLDER / f"{name}.ckpt.xz").write_bytes(lzma.compress(path.read_bytes()))
        model.load_state_dict(checkpoint["state_dict"])
        with torch.no_grad():
            logits = model.cpu().eval()(probe())
    (FOLDER / f"{name}.json").write_text(json.dumps(logits.tolist()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    hush_libraries()
    for architecture in sys.argv[1:]:
        make(architecture)
