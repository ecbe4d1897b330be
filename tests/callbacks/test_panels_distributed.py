"""Panels on two ranks: drawn once, of every image once, and without a trace in the weights."""

from pathlib import Path

import pytest
import torch
from forks import run_on_ranks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SCRIPT = """
import sys
from pytorch_lightning import Trainer, seed_everything
from cifar_lit.callbacks.confusion import ConfusionPanel
from cifar_lit.callbacks.gradcam import GradCamPanel
from cifar_lit.callbacks.misclassified import MisclassifiedPanel
from cifar_lit.data import DigitsDataModule
from cifar_lit.logger import CurvesLogger
from cifar_lit.models import DepthwiseNet
from cifar_lit.ranks import leave_ranks

name, devices, every, weights = sys.argv[1:]
seed_everything(1)
model = DepthwiseNet(widths=[[8], [8]], dropout=[0.2, 0.2])
data = DigitsDataModule(batch_size=64, val_size=287)
trainer = Trainer(
    accelerator="cpu", devices=int(devices), strategy="ddp" if devices == "2" else "auto", max_epochs=2,
    limit_train_batches=3, log_every_n_steps=1, num_sanity_val_steps=0, enable_progress_bar=False,
    enable_checkpointing=False, logger=CurvesLogger(".", name=name, version=0),
    callbacks=[GradCamPanel(int(every)), MisclassifiedPanel(int(every)), ConfusionPanel(int(every))],
)
if devices == "2":
    trainer.fit(model, data)
    trainer.save_checkpoint(weights)
trainer.test(model, data, ckpt_path=weights, weights_only=True)
leave_ranks()
"""


def run(folder: Path, name: str, devices: int, *args: str) -> str:
    return run_on_ranks(SCRIPT, devices, folder, name, str(devices), *args)


def table(folder: Path, split: str) -> str:
    (event,) = EventAccumulator(str(folder)).Reload().Tensors(f"{split}/classes/text_summary")[-1:]
    return str(event.tensor_proto.string_val[0].decode())


@pytest.mark.slow
def test_two_ranks_draw_once_and_count_every_image_once(tmp_path: Path) -> None:
    said = run(tmp_path, "on", 2, "1", "on.ckpt")
    assert "Panel" not in said
    run(tmp_path, "off", 2, "0", "off.ckpt")
    run(tmp_path, "one", 1, "1", "on.ckpt")

    # One writer: the other rank draws nothing.
    events = EventAccumulator(str(tmp_path / "on" / "version_0"), size_guidance={"images": 0}).Reload()
    drawn = {tag: len(events.Images(tag)) for tag in events.Tags()["images"]}
    assert drawn["val/gradcam/group_1"] == drawn["val/misclassified/followed"] == drawn["val/confusion"] == 2
    assert drawn["test/gradcam/group_1"] == drawn["test/misclassified/group_1"] == drawn["test/confusion"] == 1

    # 287 and 359 images do not divide over two ranks.
    for split, count in (("val", 287), ("test", 359)):
        rows = table(tmp_path / "on" / "version_0", split).splitlines()[2:]
        assert sum(int(row.split("|")[-2]) for row in rows) == count
    assert table(tmp_path / "on" / "version_0", "test") == table(tmp_path / "one" / "version_0", "test")

    on, off = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("on", "off"))
    assert all(torch.equal(on["state_dict"][key], off["state_dict"][key]) for key in on["state_dict"])
