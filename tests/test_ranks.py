"""On several ranks: the same figures, the same weights, and an end for all where one of them dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import run_on_ranks
from torch import nn

from benchmarks.accuracy import QUIET
from cifar_lit.ranks import SharedBatchNorm2d, SharedBatchNorms

# 1,003 divides neither by 2 nor by 3.
EVALUATE = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from pytorch_lightning import Trainer, seed_everything
from cifar_lit.callbacks.predictions import PredictionTable
from cifar_lit.data import ImageDataModule
from cifar_lit.data.images import Images
from cifar_lit.models import DepthwiseNet
from cifar_lit.ranks import leave_ranks

class Noise(ImageDataModule):
    class_names = tuple("abcde")
    def load(self, split):
        count = {"train": 64, "test": 1003}[split]
        rng = np.random.default_rng(count)
        return Images(rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8), rng.integers(0, 5, count))

devices, out = int(sys.argv[1]), Path(sys.argv[2])
seed_everything(1)
model, data = DepthwiseNet(widths=[[8], [8]], dropout=[0, 0], num_classes=5), Noise(batch_size=6, val_size=0)
for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
    norm.momentum = 1
with torch.no_grad():
    model(torch.randn(256, 3, 16, 16))  # statistics that spread the predictions
trainer = Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False, max_epochs=1,
    enable_checkpointing=False, enable_progress_bar=False, callbacks=[PredictionTable(out)],
)
(tested,) = trainer.test(model, data)
(validated,) = trainer.validate(model, data)
trainer.predict(model, data, return_predictions=False)
if trainer.is_global_zero:
    (out / "figures.json").write_text(json.dumps({**tested, **validated}))
leave_ranks()
"""

TRAIN = """
import sys
from pathlib import Path
import albumentations as A
import torch
from pytorch_lightning import Trainer, seed_everything
from cifar_lit.callbacks import stops
from cifar_lit.data import DigitsDataModule
from cifar_lit.models import DepthwiseNet
from cifar_lit.ranks import leave_ranks, share_batch_norm_on_cpu

devices, out = int(sys.argv[1]), Path(sys.argv[2])
seed_everything(1)
# With which Lightning asks before every batch whether there was a signal.
broadcast, asked = torch.distributed.broadcast, []
torch.distributed.broadcast = lambda *given, **named: asked.append(given) or broadcast(*given, **named)
# And ours, seldom.
first = stops._first_of_all_ranks
stops._first_of_all_ranks = lambda *given: asked.append(given) or first(*given)
model = DepthwiseNet(widths=[[8], [8]], dropout=[0, 0])
# The last of an epoch's 25 batches has 45 images, which two ranks cannot halve.
data = DigitsDataModule(batch_size=46, transforms=[A.Affine(rotate=(-20, 20))])
trainer = Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False, max_epochs=1,
    limit_val_batches=0, enable_checkpointing=False, enable_progress_bar=False,
    sync_batchnorm=True, precision="64-true", callbacks=[stops.Stops()],
)
share_batch_norm_on_cpu(trainer)
trainer.fit(model, data)
assert trainer.global_step == 25
assert len(asked) < 10, "nothing waits for the other ranks at every step, but for gradients"
if trainer.is_global_zero:
    torch.save(model.state_dict(), out / "weights.pt")
leave_ranks()
"""


STOP = """
import os, signal, sys
from pathlib import Path
from pytorch_lightning import Callback, Trainer, seed_everything
from cifar_lit.callbacks.checkpoint import LastCheckpoint
from cifar_lit.callbacks.stops import Stopped, Stops
from cifar_lit.data import DigitsDataModule
from cifar_lit.models import DepthwiseNet
from cifar_lit.ranks import leave_ranks

class Signal(Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_rank == 1 and trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

out, last = Path(sys.argv[2]), LastCheckpoint()
for name, goes_on in (("whole", None), ("stopped", None), ("stopped", "stopped/last.ckpt")):
    seed_everything(1)
    last.dirpath = str(out / name)
    signals = [Signal()] if (name, goes_on) == ("stopped", None) else []
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", logger=False, max_epochs=1, limit_train_batches=15,
        limit_val_batches=0, callbacks=[*signals, last, Stops()], enable_progress_bar=False,
    )
    model, data = DepthwiseNet(widths=[[8], [8]], dropout=[0.2, 0.2]), DigitsDataModule(batch_size=48)
    try:
        trainer.fit(model, data, ckpt_path=goes_on and out / goes_on, weights_only=True)
    except Stopped as stopped:
        (out / f"rank {trainer.global_rank}").write_text(f"{stopped.code} behind step {trainer.global_step}")
leave_ranks()
"""


RESUME = """
import json, sys
from pathlib import Path
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from cifar_lit.data import DigitsDataModule
from cifar_lit.models import DepthwiseNet
from cifar_lit.ranks import leave_ranks

out, figures = Path(sys.argv[2]), []
for checkpoint in (None, out / "step=3.ckpt"):
    seed_everything(1)
    model = DepthwiseNet(widths=[[8], [8]], dropout=[0.2, 0.2])
    keep = [] if checkpoint else [ModelCheckpoint(out, "{step}", every_n_train_steps=3, save_top_k=-1)]
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", logger=False, max_epochs=1, limit_train_batches=8,
        limit_val_batches=0, callbacks=keep, enable_checkpointing=bool(keep), enable_progress_bar=False,
    )
    trainer.fit(model, DigitsDataModule(batch_size=48), ckpt_path=checkpoint, weights_only=True)
    figures.append({name: value.item() for name, value in trainer.callback_metrics.items()})
if trainer.is_global_zero:
    (out / "figures.json").write_text(json.dumps(figures))
leave_ranks()
"""


def on_ranks(program: str, ranks: int, folder: Path) -> Path:
    folder.mkdir()
    run_on_ranks(program, ranks, folder, str(ranks), str(folder))
    return folder


@pytest.mark.slow
def test_evaluation_is_the_same_on_one_two_and_three_ranks(tmp_path: Path) -> None:
    found = []
    for ranks in (1, 2, 3):
        folder = on_ranks(EVALUATE, ranks, tmp_path / str(ranks))
        rows = [row.split(",") for row in (folder / "predictions.csv").read_text().splitlines()[1:]]
        assert [int(row[0]) for row in rows] == list(range(1003))
        confusion = np.zeros((5, 5), dtype=int)
        np.add.at(confusion, ([ord(row[1]) - 97 for row in rows], [ord(row[2]) - 97 for row in rows]), 1)
        figures: dict[str, Any] = json.loads((folder / "figures.json").read_text())
        assert {"test/loss", "test/accuracy", "val/loss", "val/accuracy"} <= figures.keys()
        assert figures["test/accuracy"] == pytest.approx(np.trace(confusion) / 1003, abs=1e-7)
        found.append((figures, confusion.tolist()))
    assert np.sum(found[0][1]) == 1003
    assert np.count_nonzero(found[0][1]) > 5
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_training_is_the_same_on_two_ranks_with_shared_batchnorm(tmp_path: Path) -> None:
    one, two = (
        torch.load(on_ranks(TRAIN, ranks, tmp_path / str(ranks)) / "weights.pt", weights_only=True) for ranks in (1, 2)
    )
    assert one.keys() == two.keys()
    for name in one:
        # In float64: in float32 the gradients of what a BatchNorm follows cancel too well to compare.
        assert torch.allclose(one[name], two[name], rtol=1e-7, atol=1e-9), name


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_behind_the_same_step(tmp_path: Path) -> None:
    folder = on_ranks(STOP, 2, tmp_path / "run")
    # Every ten steps they ask each other.
    assert {(folder / f"rank {rank}").read_text() for rank in range(2)} == {"143 behind step 10"}
    whole, resumed = (
        torch.load(folder / name / "last.ckpt", weights_only=True)["state_dict"] for name in ("whole", "stopped")
    )
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.slow
def test_two_ranks_that_go_on_in_the_middle_of_an_epoch_count_all_of_it(tmp_path: Path) -> None:
    whole, resumed = json.loads((on_ranks(RESUME, 2, tmp_path / "run") / "figures.json").read_text())
    assert whole.keys() == {"train/loss", "train/accuracy"}
    assert whole == resumed


# BatchNorm's statistics are of each rank's own images, and an average of them is, too.
BEHIND = """
import sys
from pathlib import Path
import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from cifar_lit.callbacks import EMA
from cifar_lit.data import DigitsDataModule
from cifar_lit.models import DepthwiseNet
from cifar_lit.ranks import leave_ranks

out = Path(sys.argv[2])
for averages in ([], [EMA(start=0.5)]):
    seed_everything(1)
    keep = ModelCheckpoint(out / str(len(averages)))
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", logger=False, max_epochs=1, limit_train_batches=8,
        callbacks=[keep, *averages], enable_progress_bar=False, num_sanity_val_steps=0,
    )
    model, data = DepthwiseNet(widths=[[8], [8]], dropout=[0, 0]), DigitsDataModule(batch_size=48)
    trainer.fit(model, data)
    within = trainer.callback_metrics["val/loss"].item()
    saved = {"state_dict": torch.load(keep.best_model_path, weights_only=True)["state_dict"]}
    for evaluate, name in ((trainer.validate, "val/loss"), (trainer.test, "test/loss")):
        (behind,) = evaluate(model, data)
        other = DepthwiseNet(widths=[[8], [8]], dropout=[0, 0])
        other.load_state_dict(saved["state_dict"])
        (expected,) = evaluate(other, data)
        assert behind[name] == expected[name], (behind, expected)
        assert name == "test/loss" or within == expected[name], (within, expected)
(out / f"rank {trainer.global_rank}").write_text("")
leave_ranks()
"""


@pytest.mark.slow
def test_what_ranks_evaluate_is_the_network_that_is_saved(tmp_path: Path) -> None:
    assert len([*on_ranks(BEHIND, 2, tmp_path / "run").glob("rank *")]) == 2


# One rank saves behind the epoch's validation; as many as there are go on from there, with nothing more to count.
FROM_THE_END = """
import json, sys
from pathlib import Path
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from cifar_lit.data import DigitsDataModule
from cifar_lit.models import DepthwiseNet
from cifar_lit.ranks import leave_ranks

ranks, out = int(sys.argv[1]), Path(sys.argv[2])
seed_everything(1)
end = out.parent / "end.ckpt"
keep = [] if end.exists() else [ModelCheckpoint(end.parent, "end", save_on_train_epoch_end=False)]
trainer = Trainer(
    accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", logger=False, max_epochs=1,
    limit_train_batches=8, limit_val_batches=1, num_sanity_val_steps=0, callbacks=keep,
    enable_checkpointing=bool(keep), enable_progress_bar=False,
)
model, data = DepthwiseNet(widths=[[8], [8]], dropout=[0, 0]), DigitsDataModule(batch_size=48)
trainer.fit(model, data, ckpt_path=None if keep else end, weights_only=True)
assert trainer.global_step == 8
if trainer.is_global_zero:
    figures = {name: value.item() for name, value in trainer.callback_metrics.items() if "train" in name}
    (out / "figures.json").write_text(json.dumps(figures))
leave_ranks()
"""


@pytest.mark.slow
def test_all_ranks_tell_what_one_had_counted_before(tmp_path: Path) -> None:
    found = [
        json.loads((on_ranks(FROM_THE_END, ranks, tmp_path / str(ranks)) / "figures.json").read_text())
        for ranks in (1, 2)
    ]
    assert found[0].keys() == {"train/loss", "train/accuracy"}
    assert found[0] == found[1]


def test_shared_batchnorm_takes_a_layers_place_and_gives_it_back() -> None:
    inner: Any = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
    model = nn.Sequential(nn.Conv2d(3, 4, 1), inner)
    layer, names = inner[0], [*model.state_dict()]
    sync = SharedBatchNorms()
    sync.apply(model)
    assert isinstance(inner[0], SharedBatchNorm2d)
    assert [*model.state_dict()] == names
    assert inner[0].weight is layer.weight
    model(torch.randn(5, 3, 2, 2))  # alone, it is a BatchNorm
    assert layer.num_batches_tracked == 1
    model.eval()
    sync.revert(model)
    assert inner[0] is layer
    assert not layer.training


DIES = """
import os, signal
from pytorch_lightning import Callback

class Dies(Callback):
    def __init__(self, rank: int) -> None:
        self.rank = rank
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_rank == self.rank and trainer.global_step == 3:
            print("MOMENT", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
"""

FIT = [
    *["-m", "cifar_lit", "fit", "--model=DepthwiseNet", "--model.widths=[[8],[8]]", "--model.dropout=[0,0]"],
    *["--data=DigitsDataModule", "--data.batch_size=16", "--trainer.accelerator=cpu", "--trainer.strategy=ddp"],
    *["--trainer.max_epochs=500", *QUIET],
]


@pytest.mark.slow
# To torchrun, which starts both, all ranks are alike.
@pytest.mark.parametrize(("launcher", "rank"), [("ddp", 0), ("ddp", 1), ("torchrun", 1)])
def test_a_rank_that_dies_ends_all_with_a_message(launcher: str, rank: int, tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(DIES, encoding="utf-8")
    launch = [
        sys.executable,
        *(["-m", "torch.distributed.run", "--nproc_per_node=2"] if launcher == "torchrun" else []),
    ]
    process = subprocess.Popen(
        [*launch, *FIT, "--trainer.devices=2", "--trainer.callbacks+=dies.Dies", f"--trainer.callbacks.rank={rank}"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "MOMENT" in line:
                break
        assert "MOMENT" in said, said
        died = time.monotonic()
        limit = threading.Timer(60, os.killpg, (process.pid, signal.SIGKILL))
        limit.start()
        # The pipe is open as long as any of them lives. `communicate` would leave out what came with the line before.
        rest = process.stdout.read()
        limit.cancel()
        assert time.monotonic() - died < 60
        assert process.wait() != 0
        assert any(words in rest for words in ("process of this run is lost", "terminated with code", "SIGKILL")), rest
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_two_machines_meet_at_a_rendezvous(tmp_path: Path) -> None:
    """Two agents, each with one process, as on two hosts."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    meet = [
        *["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}"],
        *["--rdzv_id=test", "--local_addr=127.0.0.1"],
    ]
    fit = [*FIT, "--trainer.max_epochs=1", "--trainer.limit_train_batches=4"]
    hosts = []
    for host in ("a", "b"):
        (tmp_path / host).mkdir()
        hosts.append(
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "torch.distributed.run",
                    *meet,
                    *fit,
                    "--trainer.num_nodes=2",
                    "--trainer.devices=1",
                ],
                cwd=tmp_path / host,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=200)[0] for process in hosts]
        assert [process.returncode for process in hosts] == [0, 0], outputs
        # One of them is rank zero, which alone keeps a run.
        assert sum(any((tmp_path / host).rglob("last.ckpt")) for host in ("a", "b")) == 1
    finally:
        for process in hosts:
            if process.poll() is None:
                process.kill()
