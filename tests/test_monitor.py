"""Which value of a metric is the best."""

from pathlib import Path

import pytest
from torch import nn
from torch.optim import SGD

from cifar_lit.callbacks.checkpoint import BestCheckpoint
from cifar_lit.errors import UserError
from cifar_lit.monitor import Mode, is_of_validation, mode_of
from cifar_lit.schedules import Plateau


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [("val/loss", "min"), ("top5_error", "min"), ("val/f1_loss", "min"), ("val/accuracy", "max"), ("val/f1", "max")],
)
def test_the_name_tells(monitor: str, mode: Mode, tmp_path: Path) -> None:
    assert mode_of(monitor, None, "checkpoint", otherwise="min") == mode
    assert BestCheckpoint(dirpath=tmp_path, monitor=monitor).mode == mode
    assert Plateau(SGD(nn.Linear(1, 1).parameters(), lr=0.1), 1, monitor=monitor).mode == mode


def test_the_name_tells_of_which_images_it_is() -> None:
    assert all(map(is_of_validation, ("val/accuracy", "val_loss", "valLoss", "valid/f1", "validation-loss", "val")))
    assert not any(map(is_of_validation, ("value_loss", "valley", "train/val", "accuracy", "")))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_name_that_does_not_tell_leaves_the_choice(mode: Mode) -> None:
    assert mode_of("val/margin", mode, "checkpoint", otherwise="max") == mode


def test_where_nothing_tells_it_is_as_ever() -> None:
    assert BestCheckpoint(monitor="clock").mode == "max"
    assert Plateau(SGD(nn.Linear(1, 1).parameters(), lr=0.1), 1, monitor="val/nll").mode == "min"


@pytest.mark.parametrize(("monitor", "wrong", "right"), [("val/loss", "max", "min"), ("val/accuracy", "min", "max")])
def test_the_worst_is_not_kept(monitor: str, wrong: Mode, right: Mode) -> None:
    words = f"Plateau.mode is {wrong}, and {monitor} is best at its {right}: give {right}, or no mode."
    with pytest.raises(UserError, match=words):
        Plateau(SGD(nn.Linear(1, 1).parameters(), lr=0.1), 1, monitor=monitor, mode=wrong)
