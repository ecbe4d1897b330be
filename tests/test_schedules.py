"""Learning rates, at every epoch and step."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from cifar_lit import schedules
from cifar_lit.errors import UserError
from cifar_lit.schedules import Exponential, InverseTime, OneCycle, Plateau, StepTable, Triangular

REFERENCE = Path(__file__).parent.parent / "configs" / "reference"


def rates(schedule: Callable[[SGD], LRScheduler], lr: float, count: int) -> list[float]:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = schedule(optimizer)
    seen = []
    for _ in range(count):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_one_cycle_rises_to_the_optimizers_rate_and_falls_to_nothing() -> None:
    seen = rates(lambda o: OneCycle(o, 100, warmup=0.3, start_factor=0.1, final_factor=1e-3), lr=0.4, count=100)
    assert seen[0] == pytest.approx(0.04)
    assert max(seen) == pytest.approx(0.4)
    assert seen.index(max(seen)) == 29
    assert seen[-1] == pytest.approx(0.4e-3)


def test_one_cycle_leaves_momentum_alone() -> None:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    OneCycle(optimizer, 10)
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_triangular_is_linear_on_both_sides() -> None:
    seen = rates(lambda o: Triangular(o, 100, warmup=0.2), lr=1.0, count=100)
    assert seen[0] == pytest.approx(1 / 21)
    assert seen[10] == pytest.approx(11 / 21)
    assert seen[20] == pytest.approx(1.0)
    assert seen[60] == pytest.approx(0.5)
    assert seen[99] == pytest.approx(1 / 80)


def test_triangular_without_warmup_starts_at_the_peak() -> None:
    assert rates(lambda o: Triangular(o, 10, warmup=0.0), lr=1.0, count=2) == pytest.approx([1.0, 0.9])


def published(name: str, count: int) -> list[float]:
    """The rates of a reference recipe, as its file has them."""
    model = yaml.safe_load((REFERENCE / f"{name}.yaml").read_text(encoding="utf-8"))["model"]["init_args"]
    schedule = getattr(schedules, model["schedule"]["class_path"])
    settings = model["schedule"]["init_args"]
    return rates(lambda o: schedule(o, 0, **settings), lr=model["optimizer"]["init_args"]["lr"], count=count)


def test_r1_inverse_time_decay_equals_the_published_log() -> None:
    seen = published("r1", 50)
    for epoch, rate in enumerate(seen, start=1):
        drop = 1.0 if epoch < 32 else 0.1 if epoch < 42 else 0.001
        assert rate == pytest.approx(3e-3 / (1 + 0.2 * (epoch - 1)) * drop)
    assert seen[0] == 3e-3
    assert seen[31] == pytest.approx(3e-4 / 7.2)


def test_r2_table_equals_the_published_log() -> None:
    lengths = [9, 7, 7, 3, 3, 7, 5, 9]
    steps = [3e-3, 1.5e-3, 1.35e-3, 1.08e-3, 8.64e-4, 6.048e-4, 4.2336e-4, 3.38688e-4]
    log = [rate for rate, length in zip(steps, lengths, strict=True) for _ in range(length)]
    assert published("r2", 50) == pytest.approx(log)
    assert rates(lambda o: StepTable(o, 0, {1: 0.5, 2: 0.1}), lr=123.0, count=2) == [0.5, pytest.approx(0.1)]


def test_step_table_wants_a_first_epoch() -> None:
    with pytest.raises(UserError, match="epoch 1"):
        rates(lambda o: StepTable(o, 0, {2: 0.1}), lr=1.0, count=1)


def test_r4_exponential() -> None:
    assert published("r4", 80) == pytest.approx([0.07 * (1 - 1 / 56) ** epoch for epoch in range(80)])


def test_r5_inverse_time() -> None:
    assert published("r5", 50) == pytest.approx([0.01 / (1 + 0.319 * epoch) for epoch in range(50)])


@pytest.mark.parametrize(("steps", "warmup"), [(5, 0.2), (10, 0.1), (4, 0.25), (1, 0.2), (2, 0.3)])
def test_one_cycle_of_a_very_short_run(steps: int, warmup: float) -> None:
    seen = rates(lambda o: OneCycle(o, steps, warmup=warmup), lr=0.1, count=steps)
    assert all(0 <= rate <= 0.1 + 1e-9 for rate in seen)


def test_plateau_lowers_the_rate_after_patience() -> None:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    plateau = Plateau(optimizer, 0, factor=0.5, patience=1)
    assert plateau.monitor == "val/loss"
    for loss in (1.0, 1.0, 1.0):
        plateau.step(loss)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("schedule", [InverseTime, StepTable, Exponential, Plateau])
def test_published_tables_move_by_epoch(schedule: type[LRScheduler]) -> None:
    assert schedule.interval == "epoch"  # type: ignore[attr-defined]
