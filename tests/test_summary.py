"""The summary command, and the same table in TensorBoard."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from cifar_lit.cli import main
from cifar_lit.commands.summary import summarize
from cifar_lit.data import DigitsDataModule
from cifar_lit.models import ResNetV1
from cifar_lit.trainer import CifarTrainer

R4 = str(Path(__file__).parent.parent / "configs" / "reference" / "r4.yaml")
# From the table of its author: kernel, stride, dilation, output size, receptive field.
R4_LAYERS = [
    (3, 1, 1, 32, 3), (3, 2, 2, 16, 7), (1, 1, 1, 16, 7), (3, 1, 1, 16, 11), (3, 2, 2, 8, 19), (1, 1, 1, 8, 19),
    (3, 1, 1, 8, 27), (3, 1, 2, 6, 43), (1, 1, 1, 6, 43), (3, 1, 1, 6, 51), (6, 6, None, 1, 71), (1, 1, 1, 1, 71),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def first(numbers: list[int] | None) -> int | None:
    return numbers[0] if numbers else None


def test_r4_is_its_authors_table_row_by_row(capsys: pytest.CaptureFixture[str]) -> None:
    main(["summary", "--config", R4, "--format", "json"])
    table = json.loads(capsys.readouterr().out)
    windows = [row for row in table["layers"] if "depthwise" in row["kind"] or "Pool" in row["kind"]]
    rows = [
        (first(r["kernel"]), first(r["stride"]), first(r["dilation"]), r["output_size"][-1], r["receptive_field"][0])
        for r in windows
    ]
    assert rows == R4_LAYERS
    assert table["totals"]["trainable_parameters"] == 98_779


def test_r5_has_the_exact_receptive_fields(capsys: pytest.CaptureFixture[str]) -> None:
    main(["summary", "--model=DepthwiseNet", "--data=DigitsDataModule", "--format", "json"])
    table = json.loads(capsys.readouterr().out)
    windows = [row for row in table["layers"] if "depthwise" in row["kind"] or row["kind"] == "MaxPool2d"]
    assert [row["receptive_field"][0] for row in windows] == [3, 5, 7, 8, 12, 16, 20, 22, 30]
    assert [row["output_size"][-1] for row in windows] == [32, 30, 28, 14, 12, 10, 8, 4, 2]
    assert table["totals"]["parameters_with_statistics"] == 35_387


def test_formats_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    main(["summary", "--config", R4])
    assert "98,779" in capsys.readouterr().out
    main(["summary", "--config", R4, "--format=markdown"])
    assert "| c1.1.0 |" in capsys.readouterr().out
    main(["summary", "--config", R4, "--format=csv", "--output=tables/r4.csv"])
    assert "tables/r4.csv" in capsys.readouterr().out
    with Path("tables/r4.csv").open() as file:
        *rows, total = csv.DictReader(file)
    assert sum(int(row["parameters"]) for row in rows) == int(total["parameters"]) == 98_779
    with pytest.raises(SystemExit, match=r"Cannot write tables \(Is a directory\)"):
        main(["summary", "--config", R4, "--format=csv", "--output=tables"])


def test_a_kept_budget_is_silent_and_a_broken_one_ends_in_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    budget = ["--max_params=98779", "--min_receptive_field=71"]
    main(["summary", "--config", R4, *budget])
    for option, words in (
        ("--max_params=98778", "98,779 trainable parameters are more than the 98,778 allowed"),
        ("--min_receptive_field=72", "receptive field of 71 pixels is less than 72"),
    ):
        with pytest.raises(SystemExit, match=words) as caught:
            main(["summary", "--config", R4, *budget, option])
        assert isinstance(caught.value.code, str), "a message: Python prints it and exits with 1"


def test_ones_own_model_and_one_that_cannot_be_traced(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("own.py").write_text(
        "import torch, pytorch_lightning as pl\n"
        "class Own(pl.LightningModule):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(3, 4, 5, padding=2)\n"
        "        self.up = torch.nn.Upsample(scale_factor=2)\n"
        "    def forward(self, x):\n"
        "        return self.up(self.conv(x))\n"
        "class Wrong(Own):\n"
        "    def forward(self, x):\n"
        "        return self.conv(x[:, :2])\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    main(["summary", "--model=own.Own", "--format=json"])
    conv, up = json.loads(capsys.readouterr().out)["layers"]
    assert conv["receptive_field"] == [5, 5]
    assert up["receptive_field"] is None
    assert "up (Upsample)" in up["note"]
    with pytest.raises(SystemExit, match="No table of Wrong: the network cannot run"):
        main(["summary", "--model=own.Wrong"])


def test_images_that_are_not_square(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("wide.py").write_text(
        "from cifar_lit.data import DigitsDataModule\n"
        "class Wide(DigitsDataModule):\n"
        "    image_size = (32, 64)\n"
        "class Odd(DigitsDataModule):\n"
        "    image_size = 'large'\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    main(["summary", "--model=DepthwiseNet", "--data=wide.Wide", "--format=json"])
    assert json.loads(capsys.readouterr().out)["layers"][0]["output_size"] == [3, 32, 64]
    with pytest.raises(SystemExit, match="the images' size is 'large', where a number of pixels or a pair"):
        main(["summary", "--model=DepthwiseNet", "--data=wide.Odd"])


def test_a_run_knows_its_layers_and_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    fit = ["fit", "--model=ResNetV1", "--model.depth=8", "--data=DigitsDataModule", "--trainer.accelerator=cpu"]
    main([*fit, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"])
    run = Path("lightning_logs/ResNetV1/version_0")
    events = EventAccumulator(str(run), size_guidance={"tensors": 0}).Reload()
    text = events.Tensors("layers/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| stem.0 |" in text
    before = sorted(Path.cwd().rglob("*"))
    capsys.readouterr()
    main(["summary"])
    assert "stem.0" in capsys.readouterr().out
    assert sorted(Path.cwd().rglob("*")) == before


def test_the_size_is_what_data_were_given_else_the_checkpoints_else_theirs_by_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Own(DigitsDataModule):
        """Its size is its class's, as of one's own data that do not say."""

    given, own, model = Own(), Own(), ResNetV1(depth=8)
    given.image_size = 48
    torch.save({"state_dict": {}, "Own": {"class_names": ["a"], "mean": 0, "std": 1, "image_size": 16}}, "x.ckpt")
    for data, checkpoint, side in ((given, "x.ckpt", 48), (own, "x.ckpt", 16), (own, None, 32), (None, "x.ckpt", 16)):
        CifarTrainer(accelerator="cpu", logger=False).summary(model, data, ckpt_path=checkpoint)
        assert f"3×{side}×{side}" in capsys.readouterr().out


def test_as_a_process_everything_is_written_before_it_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cifar_lit", "summary", "--config", R4],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert "98,779" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("largest receptive field")
    # To a terminal that has no × either.
    assert "Input 3?32?32" in done.stdout


def test_images_of_other_channels_are_those_of_the_models_example(capsys: pytest.CaptureFixture[str]) -> None:
    class Grey(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
            self.example_input_array = torch.zeros(2, 1, 28, 28)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.net(images)
            return logits

    summarize(Grey(), 28)
    assert "Input 1×28×28" in capsys.readouterr().out
