"""The table of `predict`."""

import csv
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cifar_lit.callbacks.predictions import PredictionTable, Row
from cifar_lit.errors import UserError


def written(folder: Path, rows: list[Row], **data: Any) -> list[list[str]]:
    table = PredictionTable(folder)
    table._rows = rows
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
