"""Learning rates, at every epoch and step."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from cifar_lit import schedules
from cifar_lit.errors import UserError
from cifar_lit.schedules import Exponential, InverseTime, OneCycle, Plateau, StepTable, Triangular

REPOSITORY = Path(__file__).parent.parent
REFERENCE = REPOSITORY / "configs" / "reference"
# What the authors of the reference systems logged, by epoch.
LOGS = json.loads((REPOSITORY / "benchmarks" / "results" / "published_logs.json").read_text(encoding="utf-8"))


def rates(
    schedule: Callable[[SGD], LRScheduler], lr: float, count: int, losses: Sequence[float] | None = None
) -> list[float]:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = schedule(optimizer)
    seen = []
    for i in range(count):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if isinstance(scheduler, Plateau):
            assert losses is not None
            scheduler.step(losses[i])
        else:
            scheduler.step()
    return seen


def test_one_cycle_rises_to_the_optimizers_rate_and_falls_to_nothing() -> None:
    seen = rates(lambda o: OneCycle(o, 100, warmup=0.3, start_factor=0.1, final_factor=1e-3), lr=0.4, count=100)
    assert seen[0] == pytest.approx(0.04)
    assert max(seen) == pytest.approx(0.4)
    assert seen.index(max(seen)) == 29
    assert seen[-1] == pytest.approx(0.4e-3)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_one_cycles_rates_are_those_of_its_formula(anneal: Any) -> None:
    given = {} if anneal == "cos" else {"anneal": anneal}
    seen = rates(lambda o: OneCycle(o, 100, **given), lr=0.5, count=100)

    def between(start: float, end: float, share: float) -> float:
        way = (1 - math.cos(math.pi * share)) / 2 if anneal == "cos" else share
        return start + (end - start) * way

    # Smith and Topin 2018: up to 30 % of the steps, the first of which is at 4 % of the peak; then to next to nothing.
    rise = [between(0.02, 0.5, step / 29) for step in range(30)]
    fall = [between(0.5, 2e-6, (step - 29) / 70) for step in range(30, 100)]
    assert seen == pytest.approx(rise + fall, rel=1e-6, abs=1e-9)


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


def recipe(name: str) -> str:
    """The reference recipe that a log is of."""
    return (REFERENCE / f"{name.removesuffix('_afresh')}.yaml").read_text(encoding="utf-8")


def published(name: str, count: int) -> list[float]:
    """The rates of a reference recipe, as its file has them, given the log's validation losses where it looks."""
    model = yaml.safe_load(recipe(name))["model"]["init_args"]
    schedule = getattr(schedules, model["schedule"]["class_path"])
    settings = model["schedule"]["init_args"]
    lr, losses = model["optimizer"]["init_args"]["lr"], LOGS[name]["val_loss"]
    return rates(lambda o: schedule(o, 0, **settings), lr, count, losses)


@pytest.mark.parametrize("name", sorted(LOGS.keys() - {"r5_plain"}))
def test_reference_schedules_equal_the_published_logs(name: str) -> None:
    log = LOGS[name]["learning_rate"]
    # R5's author rounds to ten decimals.
    rounding = 0.5000001e-10 if name.startswith("r5") else 0
    assert published(name, len(log)) == pytest.approx(log, rel=1e-12, abs=rounding)


@pytest.mark.parametrize("name", sorted(LOGS))
def test_reference_recipes_state_what_the_published_logs_say(name: str) -> None:
    text = recipe(name)
    accuracy = LOGS[name]["val_accuracy"]
    best = max(accuracy)
    assert f"{100 * best:.2f} % in epoch {accuracy.index(best) + 1}" in text
    assert f"{100 * accuracy[-1]:.2f} % in the last" in text
    epochs = yaml.safe_load(text)["trainer"]["max_epochs"]
    assert {len(values) for values in LOGS[name].values() if isinstance(values, list)} == {epochs}


def test_step_table_has_rates_of_its_own() -> None:
    assert rates(lambda o: StepTable(o, 0, {1: 0.5, 2: 0.1}), lr=123.0, count=2) == [0.5, pytest.approx(0.1)]


def test_step_table_wants_a_first_epoch() -> None:
    with pytest.raises(UserError, match="epoch 1"):
        rates(lambda o: StepTable(o, 0, {2: 0.1}), lr=1.0, count=1)


def test_step_table_wants_a_rate_above_zero_and_one_for_all() -> None:
    with pytest.raises(UserError, match="epoch 1 is 0"):
        rates(lambda o: StepTable(o, 0, {1: 0.0, 2: 0.1}), lr=1.0, count=1)
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.5)]
    with pytest.raises(UserError, match="SGD has several: give InverseTime"):
        StepTable(SGD(groups), 0, {1: 0.1})
    # What it names instead keeps their ratio.
    optimizer = SGD(groups)
    schedule = InverseTime(optimizer, 0, decay=0, drops={2: 0.1})
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.05])


@pytest.mark.parametrize(
    ("schedule", "settings"),
    [
        (OneCycle, {"warmup": 0.0}),
        (OneCycle, {"warmup": 1.0}),
        (OneCycle, {"start_factor": 0.0}),
        (OneCycle, {"final_factor": -0.1}),
        (Triangular, {"warmup": 1.0}),
        (Triangular, {"warmup": -0.1}),
    ],
)
def test_arguments_out_of_range(schedule: Any, settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{schedule.__name__} has warmup .*: give"):
        rates(lambda o: schedule(o, 10, **settings), lr=0.1, count=1)


@pytest.mark.parametrize(
    ("schedule", "settings", "said"),
    [
        (InverseTime, {"decay": -1.0}, "decay is -1.0: give"),
        (InverseTime, {"decay": math.nan}, "decay is nan: give"),
        (InverseTime, {"decay": 0.0, "drops": {2: -0.1}}, r"drops\[2\] is -0.1: give"),
        (StepTable, {"rates": {1: 0.1, 3: -0.1}}, r"rates\[3\] is -0.1: give"),
        (StepTable, {"rates": {0: 0.1, 1: 0.1}}, "StepTable's rates name epoch 0: the first epoch is 1."),
        (InverseTime, {"decay": 0.0, "drops": {0: 0.5}}, "InverseTime's drops name epoch 0: the first epoch is 1."),
        (Exponential, {"gamma": -0.5}, "gamma is -0.5: give"),
        (Plateau, {"factor": 0.0}, "Plateau has factor 0.0: give"),
        (Plateau, {"factor": 1.0}, "Plateau has factor 1.0: give"),
    ],
)
def test_no_schedule_lets_a_rate_be_negative_or_rise_on_a_plateau(
    schedule: Any, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        rates(lambda o: schedule(o, 10, **settings), lr=0.1, count=1)


def test_one_cycle_may_end_at_zero() -> None:
    assert rates(lambda o: OneCycle(o, 10, final_factor=0.0), lr=0.1, count=10)[-1] == 0


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
