"""The table of `predict`."""

import csv
import math
import pickle
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch.utils.data import DataLoader, TensorDataset

from cifar_lit.callbacks.predictions import PredictionTable, Row
from cifar_lit.commands.outputs import _predict_step
from cifar_lit.errors import UserError
from cifar_lit.trainer import CifarTrainer


def written(folder: Path, rows: list[Row], **data: Any) -> list[list[str]]:
    table = PredictionTable(folder)
    table._rows, table._batches = rows, 1
    trainer: Any = SimpleNamespace(is_global_zero=True, datamodule=SimpleNamespace(class_names=("cat", "dog"), **data))
    table.on_predict_end(trainer, None)  # type: ignore[arg-type]
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_row_an_image_in_their_order(tmp_path: Path) -> None:
    head, *rows = written(tmp_path, [(1, 0, [1e-7, 1.0]), (0, 1, [0.5, 0.5])])
    assert head == ["index", "true", "predicted", "p_cat", "p_dog"]
    assert rows == [["0", "dog", "cat", "0.5", "0.5"], ["1", "cat", "dog", "1e-07", "1"]]


def test_files_are_named_where_the_data_know_them(tmp_path: Path) -> None:
    head, *rows = written(tmp_path, [(1, 0, [1.0, 0.0]), (0, 1, [0.5, 0.5])], test_files=[Path("a.png"), Path("b.png")])
    assert head[:2] == ["index", "file"]
    assert [row[:2] for row in rows] == [["0", "a.png"], ["1", "b.png"]]


def test_no_class_is_named_where_the_output_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="output for 1 of 2 images is no number: training diverged"):
        written(tmp_path, [(0, 0, [math.nan, math.nan]), (1, 0, [1.0, 0.0])])
    assert not (tmp_path / "predictions.csv").exists()


class Ours(LightningModule):
    """Says that an image is of the class that its first pixel names."""

    def __init__(self, gives: str = "probabilities") -> None:
        super().__init__()
        self.gives = gives

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Probabilities, float (n, 3), or what else is asked for."""
        images = batch[0] if isinstance(batch, list) else batch
        probabilities = torch.nn.functional.one_hot(images[:, 0, 0, 0].long(), 3).float()
        return probabilities if self.gives == "probabilities" else {"logits": probabilities}


def predict(folder: Path, *tensors: torch.Tensor, gives: str = "probabilities") -> None:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[PredictionTable(folder)],
    )
    data: Any = TensorDataset(*tensors) if len(tensors) > 1 else tensors[0]
    trainer.predict(Ours(gives), DataLoader(data, 4))


IMAGES = torch.tensor([2, 0, 1, 1, 2, 0])[:, None, None, None].expand(6, 3, 4, 4).float()


def test_images_of_a_loader_of_ones_own_are_numbered_in_its_order(tmp_path: Path) -> None:
    predict(tmp_path, IMAGES, torch.tensor([2, 0, 1, 0, 2, 0]))
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["index", "true", "predicted", "p_0", "p_1", "p_2"]
    assert [row[:3] for row in rows] == [
        [str(index), true, predicted] for index, (true, predicted) in enumerate(zip("201020", "201120", strict=True))
    ]


@pytest.mark.parametrize(
    "beside", [[], [torch.tensor([100, 101, -1, 103, 104, 105])], [torch.rand(6)], [torch.ones(6) > 0]]
)
def test_images_without_labels_are_predicted_all_the_same(tmp_path: Path, beside: list[torch.Tensor]) -> None:
    predict(tmp_path, IMAGES, *beside)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    assert [row[1:3] for row in rows] == [["", predicted] for predicted in "201120"]


def test_ranks_are_dealt_images_in_turn(tmp_path: Path) -> None:
    table = PredictionTable(tmp_path)
    module: Any = None
    for rank in (0, 1):
        trainer: Any = SimpleNamespace(predict_dataloaders=None, world_size=2, global_rank=rank)
        for rows in ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0]]):
            table.on_predict_batch_end(trainer, module, torch.tensor(rows), None, 0)
        assert [index for index, *_ in table._rows] == [rank, rank + 2, rank + 4]
        table.on_predict_start(trainer, module)


def test_of_several_loaders_the_first_is_written(tmp_path: Path) -> None:
    table = PredictionTable(tmp_path)
    module: Any = None
    trainer: Any = SimpleNamespace(predict_dataloaders=None, world_size=1, global_rank=0, is_global_zero=True)
    for loader in (0, 1):
        table.on_predict_batch_end(trainer, module, torch.tensor([[1.0, 0.0]]), None, 0, loader)
    assert len(table._rows) == 1


def test_numbers_for_other_classes_than_the_datas_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="NoneType predicts 3 numbers for an image, and the data have 2 classes"):
        written(tmp_path, [(0, 0, [1.0, 0.0, 0.0])])
    assert not (tmp_path / "predictions.csv").exists()


class Plain(LightningModule):
    """Has no `predict_step`; its forward gives logits, or one number an image."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Of their first pixels."""
        return 10 * images[:, 0, 0, : self.classes]


def test_of_a_module_without_a_predict_step_probabilities_are_made(tmp_path: Path) -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = CifarTrainer(accelerator="cpu", callbacks=[PredictionTable(tmp_path)], **quiet)
    images = torch.rand(6, 3, 4, 4)
    loaders = [DataLoader(TensorDataset(images, torch.arange(6) % 3), 4) for _ in range(2)]
    model = Plain()
    first, second = trainer.predict(model, loaders)
    torch.testing.assert_close(torch.cat(first), (10 * images[:, 0, 0, :3]).softmax(1))
    torch.testing.assert_close(torch.cat(first), torch.cat(second))
    # Lightning's again, and no other module's.
    assert "predict_step" not in vars(model)
    # The module of the run before.
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = trainer.predict(dataloaders=loaders[0], ckpt_path=tmp_path / "x.ckpt")
    torch.testing.assert_close(torch.cat(again), torch.cat(first))
    # One number is no choice among classes.
    alone = torch.cat(CifarTrainer(accelerator="cpu", **quiet).predict(Plain(1), loaders[0]))
    torch.testing.assert_close(alone, 10 * images[:, 0, 0, :1])
    assert is_param_in_hook_signature(partial(_predict_step, model), "batch_idx", min_args=2)
    pickle.loads(pickle.dumps(partial(_predict_step, model)))


def test_a_module_without_probabilities_is_told_that_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(tmp_path, IMAGES, gives="logits")
    assert "No table is written: Ours.predict_step gives no probabilities" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
