"""Within an epoch nothing reads a number from the device: on a GPU each such read waits for all that is under way."""

import traceback
from pathlib import Path
from typing import Any

import albumentations as A
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cifar_lit.callbacks.averaging import EMA, Lookahead
from cifar_lit.callbacks.checkpoint import BestCheckpoint
from cifar_lit.callbacks.curves import Curves
from cifar_lit.callbacks.distillation import Distillation
from cifar_lit.callbacks.finite_loss import FiniteLoss
from cifar_lit.callbacks.progress import EpochProgress
from cifar_lit.callbacks.stops import Stops
from cifar_lit.data import DigitsDataModule
from cifar_lit.logger import CurvesLogger
from cifar_lit.models import DepthwiseNet
from cifar_lit.optimizers import MuonSGD, NesterovSGD
from cifar_lit.schedules import OneCycle

READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.is_nonzero.default}
# It copies beside what is under way, and looks when the copy has arrived; on a CPU that is at once.
ALLOWED = "on_host.py"


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes where numbers are read from tensors while it watches."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watches = False
        self.places: set[str] = set()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.watches:
            self.operations += 1
            if func in READS:
                frames = [frame for frame in traceback.extract_stack() if "cifar_lit" in frame.filename]
                place = frames[-1] if frames else traceback.extract_stack()[-2]
                if not place.filename.endswith(ALLOWED):
                    self.places.add(f"{Path(place.filename).name}:{place.lineno}")
        return func(*args, **(kwargs or {}))


class WithinEpochs(Callback):
    """Has it watch from the first batch of an epoch to its last one, validation apart."""

    def __init__(self, reads: Reads, bar: EpochProgress) -> None:
        self.reads, self.bar = reads, bar

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert self.bar._bar is not None
        assert not self.bar._bar.disable, "the bar is shown"
        self.reads.watches = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.is_last_batch:
            self.reads.watches = False


def places(folder: Path, monkeypatch: pytest.MonkeyPatch, *callbacks: Callback, **kwargs: Any) -> tuple[set[str], int]:
    monkeypatch.setattr("cifar_lit.callbacks.progress.LOSS_INTERVAL", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    seed_everything(1)
    reads = Reads()
    transforms = [A.Affine(rotate=(-20, 20)), A.HorizontalFlip(), A.CoarseDropout(), A.RandomBrightnessContrast()]
    data = DigitsDataModule(batch_size=64, transforms=transforms, executor="device")
    bar = EpochProgress()
    ours = [Curves(step_loss=True), FiniteLoss(), bar, *callbacks, Stops(), BestCheckpoint(), WithinEpochs(reads, bar)]
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=2,
        limit_train_batches=4,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=CurvesLogger(str(folder)),
        enable_model_summary=False,
        callbacks=ours,
    )
    with reads:
        trainer.fit(DepthwiseNet(widths=[[8], [8]], dropout=[0.1, 0.1], schedule=OneCycle, **kwargs), data)
    assert trainer.global_step == 8
    return reads.places, reads.operations


@pytest.mark.parametrize("callback", [None, EMA, Lookahead])
@pytest.mark.parametrize("optimizer", [NesterovSGD, MuonSGD])
def test_no_number_is_read_within_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, callback: type[Callback] | None, optimizer: Any
) -> None:
    callbacks = [] if callback is None else [callback()]
    found, operations = places(
        tmp_path, monkeypatch, *callbacks, optimizer=lambda parameters: optimizer(parameters, lr=0.05)
    )
    assert operations > 1000
    assert found == set()


def test_nor_with_top5_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, operations = places(tmp_path, monkeypatch, num_classes=12)
    assert operations > 1000
    assert found == set()


def test_nor_with_a_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places(tmp_path / "teacher", monkeypatch)
    (teacher,) = (tmp_path / "teacher").rglob("*.ckpt")
    found, operations = places(tmp_path / "student", monkeypatch, Distillation(teacher))
    assert operations > 1000
    assert found == set()


def test_it_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reading(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
            loss: Tensor = outputs["loss"]
            f"{loss:.3f}"

    found, _ = places(tmp_path, monkeypatch, Reading())
    assert len(found) == 1
