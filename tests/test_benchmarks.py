"""Benchmarks at a tiny size: that they measure what they say, and write where they are told."""

import itertools
import json
import operator
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
import yaml
from forks import command
from pytorch_lightning import Callback
from torch._C._autograd import DeviceType

from benchmarks import (
    accuracy,
    commands,
    epoch_limit,
    fuzz,
    gpu,
    gpu_parts,
    gpu_speed,
    input_pipeline,
    loop_overhead,
    measure,
    recipes,
    reference_epochs,
    step_clock,
    step_parts,
    survival,
    time_to_accuracy,
    training_loop,
    turns,
)
from cifar_lit.callbacks import resizing
from cifar_lit.callbacks.provenance import Provenance
from cifar_lit.data import ImageFolderDataModule
from cifar_lit.errors import TRACEBACK_VARIABLE, UserError
from cifar_lit.explain.layers import layer_table
from cifar_lit.models import DepthwiseNet
from cifar_lit.models.cifar_resnet import CifarResNetV1
from cifar_lit.precision import choose_precision

QUICKSTART = str(measure.REPOSITORY / "configs" / "quickstart.yaml")
# What the result of the quickstart is called on this machine.
TIMED = f"time_to_accuracy-quickstart-cpu{'-float32' if choose_precision('cpu')[0] == '32-true' else ''}"
SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu")


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Benchmarks of this machine's CPU; runs land in the test's own folder, and results stay as they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(measure.COMMIT_VARIABLE, "abcdef")
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


def result(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert content["commit"] == "abcdef"
    assert {"command", "date", "machine", "versions", "what"} <= content.keys()
    return content


def test_alternates_and_leaves_the_warm_up_out() -> None:
    order: list[str] = []

    def contender(name: str) -> Callable[[], float]:
        def speed() -> float:
            order.append(name)
            return float(len(order))

        return speed

    speeds = measure.alternate({"a": contender("a"), "b": contender("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert speeds == {"a": [3, 5], "b": [4, 6]}
    assert measure.ratio(speeds, "b", "a") == pytest.approx((4 / 3 + 6 / 5) / 2)


def test_the_commit_says_that_the_tree_had_changes_but_not_new_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def git(*args: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *args], cwd=tmp_path, check=True)

    monkeypatch.delenv(measure.COMMIT_VARIABLE)
    monkeypatch.setattr(measure, "REPOSITORY", tmp_path)
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    for name in ("code.py", "benchmarks/results/a.json"):
        (tmp_path / name).write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    clean = measure.commit()
    assert len(clean) >= 7
    (tmp_path / "benchmarks" / "results" / "a.json").write_text("2")
    assert measure.commit() == clean
    (tmp_path / "code.py").write_text("2")
    assert measure.commit() == clean + "+"


def test_clock_times_steps_pauses_and_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "now", lambda: Ticker.time)
    monkeypatch.setattr(Provenance, "on_train_start", lambda *args: Ticker.tick(1000))
    cli, clock = measure.run(
        *("fit", f"--config={QUICKSTART}", *SHORT, "--data=benchmarks.measure.NoiseDataModule", "--data.images=40"),
        *("--data.batch_size=4", "--trainer.max_epochs=3", f"--trainer.default_root_dir={tmp_path}"),
        f"--trainer.callbacks+={__name__}.Ticker",
    )
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    assert clock.images == [8, 8, 8]
    assert clock.epochs == [2, 2, 2]
    assert clock.pauses == [10, 10]
    assert clock.fit == 100 + 3 * (2 + 10)
    assert clock.test == 7


class Ticker(Callback):
    """Makes steps, validation and preparation take a while, on a clock of its own."""

    time = 0

    @classmethod
    def tick(cls, seconds: int) -> None:
        cls.time += seconds

    def on_train_start(self, *args: Any) -> None:
        self.tick(100)

    def on_train_batch_start(self, *args: Any) -> None:
        self.tick(1)

    def on_validation_start(self, *args: Any) -> None:
        self.tick(10)

    def on_test_batch_start(self, *args: Any) -> None:
        self.tick(7)

    def on_test_epoch_end(self, *args: Any) -> None:
        self.tick(1000)


def test_every_way_of_augmenting_delivers_normalised_batches() -> None:
    epochs = input_pipeline.contenders(images=40, batch_size=16)
    assert len(epochs) == 7
    for name, epoch in epochs.items():
        batches = list(epoch())
        assert [len(batch) for batch in batches] == [16, 16, 8], name
        for batch in batches:
            assert batch.dtype == torch.float32, name
            assert batch.shape[1:] == (3, 32, 32), name
        # Of noise, which no mean and deviation of photographs fits to the last digit.
        values = torch.cat(batches)
        assert -3 < values.min() < -1, name
        assert 1 < values.max() < 3, name
        assert abs(values.mean()) < 0.3, name
        assert not torch.equal(values[:16], next(epoch())), f"{name} repeats itself"


def test_r4s_list_is_that_of_the_recipe() -> None:
    listed = yaml.safe_load(input_pipeline.R4.read_text(encoding="utf-8"))["data"]["init_args"]["transforms"]
    made = input_pipeline.transforms_of_r4()
    assert [type(transform).__name__ for transform in made] == [entry["class_path"] for entry in listed]
    rotations = [tuple(entry["init_args"]["rotate"]) for entry in listed if entry["class_path"] == "Affine"]
    assert [transform.rotate for transform in made if isinstance(transform, A.Affine)] == rotations


def test_input_pipeline(tmp_path: Path) -> None:
    input_pipeline.main(["--images=16", "--rounds=1", "--seconds=0", "--batch_size=8", f"--output={tmp_path}"])
    found = result(tmp_path, "input_pipeline-cpu")
    speeds = found["median_images_per_second"]
    expected = speeds["R4, device executor"] / speeds["R4, albumentations"]
    assert found["ratios"]["R4, device executor over albumentations"] == pytest.approx(expected, rel=0.02)
    assert len(found["ratios"]) == 6


def test_turns_alternate_and_leave_out_what_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def loop() -> Iterator[int]:
        for step in range(1000):
            order.append("other")
            # A step that brings the loop to speed takes a hundred times as long.
            Ticker.tick(500 if step % 7 < turns.WARM_UP else 5)
            yield 8

    other = loop()
    monkeypatch.setattr(turns, "now", lambda: Ticker.time)
    monkeypatch.setattr(turns.Turns, "others", {"other": lambda steps: turns.turn(other, steps)})
    callback = turns.Turns(steps=2, rounds=3)
    trainer: Any = SimpleNamespace(should_stop=False, num_training_batches=7)
    callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    # The second epoch ends within a turn, which then begins anew.
    for epoch in (2 * 7, 7 + 6, 7):
        callback.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
        for step in range(epoch):
            assert not trainer.should_stop
            order.append("fit")
            Ticker.tick(200 if step % 7 < turns.WARM_UP else 2)
            callback.on_train_batch_end(trainer, None, None, [range(6)], step)  # type: ignore[arg-type]
    assert trainer.should_stop
    assert callback.speeds == {"fit": [3, 3, 3], "other": [1.6, 1.6, 1.6]}
    fit, others = ["fit"] * 7, ["other"] * 7
    assert order == [*fit, *others, *fit, *others, *fit, *others, *fit[:6], *fit, *others]


def test_a_turn_that_no_epoch_has_room_for_is_an_error() -> None:
    trainer: Any = SimpleNamespace(num_training_batches=6)
    with pytest.raises(UserError, match=r"5 steps that warm up and 2 that count, an epoch only 6: give fewer steps"):
        turns.Turns(steps=2, rounds=3).on_train_start(trainer, None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_training_loop(tmp_path: Path, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compile_(function: Any, **_: Any) -> Any:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    images = image_folder(train=40, test=4)
    arguments = [f"--images={images}", "--rounds=1", "--batch_size=4", "--steps=2", "--compile_mode=default"]
    training_loop.main([*arguments, f"--output={tmp_path / 'results'}"])
    # The networks of `fit` and of the model that the bare loop trains, and that one itself.
    assert len(compiled) == 3
    (written,) = (tmp_path / "results").iterdir()
    found = result(tmp_path / "results", written.stem)
    precision = "-float32" if found["machine"]["precision"] == "32-true" else ""
    assert (written.stem, found["compile_mode"]) == (f"training_loop-cpu{precision}-compiled", "default")
    assert found["settings"] == measure.settings_of(measure.REPOSITORY / "configs" / "resnet20.yaml")
    speeds = found["median_images_per_second"]
    assert all(speed > 1 for speed in speeds.values())
    assert {path.name for path in tmp_path.iterdir()} == {"images", "results"}
    assert found["fit_over_bare_loop"] == pytest.approx(speeds["fit"] / speeds["bare loop"], rel=0.1)
    gain = speeds["bare loop"] / speeds["bare loop, not compiled"]
    assert found["bare_loop_over_not_compiled"] == pytest.approx(gain, rel=0.1)


@pytest.mark.slow
def test_loop_overhead(tmp_path: Path) -> None:
    loop_overhead.main(["--rounds=3", "--batch_size=4", "--steps=4", "--images=60", f"--output={tmp_path}"])
    found = result(tmp_path, "loop_overhead-cpu")
    medians = found["median_milliseconds"]
    assert min(medians["bare loop"], medians["fit"]) > 0
    a, b = (found["milliseconds"][name] for name in ("fit", "bare loop"))
    assert len(a) == len(b) == 3
    assert found["fit_adds_milliseconds"] == pytest.approx(sorted(map(operator.sub, a, b))[1], abs=0.002)
    assert found["fit_over_bare_loop"] == pytest.approx(sorted(map(operator.truediv, a, b))[1], abs=0.002)


def test_a_bare_loop_has_the_optimizer_of_the_recipe() -> None:
    made = []

    class Noted(torch.optim.Adagrad):
        def __init__(self, groups: Any) -> None:
            super().__init__(groups, lr=0.1)
            made.append(self)

    model = loop_overhead.MeanColourClassifier(optimizer=Noted)
    data = measure.NoiseDataModule(images=40, batch_size=4, val_size=0)
    data.prepare_data()
    data.setup("fit")
    weights = model.net.head.weight.detach().clone()
    assert next(training_loop.bare(model, data, torch.device("cpu"))) == 4
    assert len(made) == 1
    assert not torch.equal(model.net.head.weight, weights)


@pytest.mark.parametrize(("mode", "expected"), [("none", []), ("default", [("default", "forward")])])
def test_a_bare_loop_is_compiled_as_the_model_is(
    mode: Any, expected: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loop_overhead.MeanColourClassifier(compile_mode=mode)
    compiled = []

    def compile_(function: Any, mode: str, dynamic: bool) -> Any:
        assert not dynamic
        compiled.append((mode, function.__name__))
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    data = measure.NoiseDataModule(images=40, batch_size=4, val_size=0)
    data.prepare_data()
    data.setup("fit")
    assert next(training_loop.bare(model, data, torch.device("cpu"))) == 4
    assert compiled == expected


def test_traffic_counts_passes_over_maps() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.AvgPool2d(4)
    )
    size = 4 * 4 * 4
    assert epoch_limit.traffic(layer_table(net, (3, 8, 8))) == 3 * (3 * 8 * 8 + size) + 8 * size + 2 * (size + 4)


def test_traffic_of_resnet20_is_what_its_layers_move() -> None:
    # 15 passes over the outputs of its convolutions, as one counts them by hand.
    by_hand = 15 * (7 * 16 * 32**2 + 6 * 32 * 16**2 + 6 * 64 * 8**2)
    assert epoch_limit.traffic(layer_table(CifarResNetV1(20))) == pytest.approx(by_hand, rel=0.1)


def test_the_machines_speeds_are_those_of_the_work_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_limit, "COPY", {"cpu": 100})
    times = iter(range(1000))
    monkeypatch.setattr(measure, "now", lambda: float(next(times)))
    assert measure.operations_a_second(torch.device("cpu"), torch.bfloat16, 10) == 2 * 10**3
    assert epoch_limit.bytes_a_second(torch.device("cpu")) == 2 * 100


def test_epoch_limit_of_a_network_and_its_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_limit, "operations_a_second", lambda device, dtype, side: 1e9)
    monkeypatch.setattr(epoch_limit, "bytes_a_second", lambda device: 1e12)
    tiny = ["--images=40", "--steps=2", f"--output={tmp_path}", "--data.batch_size=4", "--trainer.accelerator=cpu"]
    tiny += ["--trainer.precision=32-true"]
    epoch_limit.main(["depthwise_distilled", *tiny])
    row = result(tmp_path, "epoch_limit-cpu-float32")["recipes"]["depthwise_distilled"]
    macs = [layer_table(net).macs for net in (DepthwiseNet().net, CifarResNetV1(20))]
    assert row["compute_seconds"] == pytest.approx(50_000 * (6 * macs[0] + 2 * macs[1]) / 1e9, rel=1e-3)


def test_epoch_limit_leaves_the_first_epoch_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_limit, "operations_a_second", lambda device, dtype, side: 1e9)
    monkeypatch.setattr(epoch_limit, "bytes_a_second", lambda device: 1e12)

    def run(*arguments: str) -> tuple[Any, measure.Clock]:
        cli, clock = measure.run(*arguments)
        clock.epochs, clock.images = [900.0, 2.0, 3.0, 40.0], [10] * 4
        return cli, clock

    monkeypatch.setattr(epoch_limit, "run", run)
    tiny = ["--images=20", "--steps=1", f"--output={tmp_path}", "--data.batch_size=4", "--trainer.precision=32-true"]
    epoch_limit.main(["depthwise", *tiny, "--epochs=2", "--trainer.accelerator=cpu"])
    row = result(tmp_path, "epoch_limit-cpu-float32")["recipes"]["depthwise"]
    assert row["seconds"] == 50_000 * 3 / 10


def test_epoch_limit_is_of_whole_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_limit, "operations_a_second", lambda device, dtype, side: 1e9)
    monkeypatch.setattr(epoch_limit, "bytes_a_second", lambda device: 1e12)
    resized = list[float]()
    monkeypatch.setattr(resizing, "resized", lambda images, scale: resized.append(scale) or images)  # type: ignore[func-returns-value]
    tiny = ["--images=40", "--steps=2", f"--output={tmp_path}", "--data.batch_size=4", "--trainer.accelerator=cpu"]
    epoch_limit.main(["speed", *tiny, "--trainer.precision=32-true", "--model.widths=[8]"])
    row = result(tmp_path, "epoch_limit-cpu-float32")["recipes"]["speed"]
    assert row["smaller_images"] == "left out"
    assert row["settings"] == measure.settings_of(measure.REPOSITORY / "configs" / "speed.yaml")
    assert not resized
    # Others are as they are, in whatever form their callbacks are.
    for callbacks in ("null", "EMA", "[EMA]", "{class_path: EMA}", "[{class_path: my.Own}]"):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(f"trainer: {{callbacks: {callbacks}}}")
        assert recipes.on_whole_images(recipe, tmp_path / "no") == recipe
        assert accuracy.teacher_of(recipe) is None


def test_epoch_limits_are_added_to_those_of_other_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [("resnet20", 3.0, "bf16-mixed"), ("depthwise_distilled", 4.0, "bf16-mixed")]
    runs += [("resnet20", 9.0, "32-true"), ("resnet20", 5.0, "bf16-mixed")]
    for recipe, seconds, precision in runs:
        measured = {"seconds": seconds, "limit": 1.0, "bound": "compute", "ratio": 1.0, "precision": precision}
        monkeypatch.setattr(epoch_limit, "measure", lambda *_, measured=measured: measured)
        epoch_limit.main([recipe, f"--output={tmp_path}"])
    epoch_limit.main(["resnet20", "--slow_day", f"--output={tmp_path}"])
    assert result(tmp_path, "epoch_limit-cpu-slow_day")["recipes"].keys() == {"resnet20"}
    slow = result(tmp_path, "epoch_limit-cpu-float32")["recipes"]
    assert {recipe: row["seconds"] for recipe, row in slow.items()} == {"resnet20": 9.0}
    rows = result(tmp_path, "epoch_limit-cpu")["recipes"]
    assert {recipe: row["seconds"] for recipe, row in rows.items()} == {"resnet20": 5.0, "depthwise_distilled": 4.0}
    assert rows["depthwise_distilled"]["teacher_settings"] == rows["resnet20"]["settings"]
    assert rows["resnet20"]["machine"]["threads"] == torch.get_num_threads()


def test_epoch_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_limit, "operations_a_second", lambda device, dtype, side: 1e12)
    monkeypatch.setattr(epoch_limit, "bytes_a_second", lambda device: 1e12)
    epoch_limit.main(
        [
            *("resnet20", "--images=40", "--steps=2", f"--output={tmp_path}"),
            *("--data.batch_size=4", "--trainer.precision=32-true", "--trainer.accelerator=cpu"),
        ]
    )
    row = result(tmp_path, "epoch_limit-cpu-float32")["recipes"]["resnet20"]
    table = layer_table(CifarResNetV1(20))
    assert row["compute_seconds"] == pytest.approx(50_000 * 6 * table.macs / 1e12, rel=1e-3)
    moved = 50_000 * (4 * epoch_limit.traffic(table) + 8 * 4 * table.trainable_parameters / 4)
    assert row["memory_seconds"] == pytest.approx(moved / 1e12, rel=1e-3)
    assert row["bound"] == "compute"
    assert row["limit"] == pytest.approx(row["compute_seconds"], rel=1e-3)
    assert row["ratio"] == pytest.approx(row["seconds"] / row["limit"], rel=0.01)
    # 50,000 images at less than a second for eight of them, and more than a millisecond.
    assert 50_000 / 8 * 1e-3 < row["seconds"] < 50_000 / 8 * 5
    assert row["batch_size"] == 4


class Dawdler(Callback):
    """Makes parts of a step take longer: forward by 0.05 s, backward by 0.1 s, what is behind it by 0.15 s."""

    def on_before_zero_grad(self, *args: Any) -> None:
        time.sleep(0.05)

    def on_after_backward(self, *args: Any) -> None:
        time.sleep(0.1)

    def on_before_optimizer_step(self, *args: Any) -> None:
        time.sleep(0.15)


def test_parts_of_a_step_are_what_they_are_called(tmp_path: Path) -> None:
    step_parts.main(
        [
            *("depthwise", "--images=80", "--steps=18", f"--output={tmp_path}", "--data.batch_size=4"),
            *("--trainer.precision=32-true", "--trainer.accelerator=cpu"),
            f"--trainer.callbacks+={__name__}.Dawdler",
        ]
    )
    row = result(tmp_path, "step_parts-cpu-float32")["recipes"]["depthwise"]
    parts = row["host_ms_by_part"]
    assert parts.keys() == {"batch", "forward", "zero_grad", "backward", "optimizer"}
    assert parts["forward"] >= 50
    assert parts["backward"] >= 100
    assert parts["optimizer"] >= 150
    assert parts["batch"] + parts["zero_grad"] < 50
    assert row["milliseconds"] >= 300
    assert "aten::mkldnn_convolution" in row["host_ms_by_operation"]
    assert "gpu_ms" not in row
    assert row["compiler"] == {"graph_breaks": 0, "reasons": []}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--steps=15"],
            "5 steps warm up, 1 at least count and 10 are profiled, and an epoch has 15: give more --steps",
        ),
        (["--images=40"], "an epoch has 10: give"),
        (["--trainer.accumulate_grad_batches=2"], "leave accumulate_grad_batches out"),
    ],
)
def test_steps_that_cannot_be_timed_are_refused(options: list[str], said: str, tmp_path: Path) -> None:
    short = ["--images=80", "--steps=18", "--data.batch_size=4", "--trainer.accelerator=cpu"]
    with pytest.raises(UserError, match=said):
        step_parts.main(["depthwise", *short, f"--output={tmp_path}", *options])


def test_steps_that_warm_up_or_are_profiled_do_not_count() -> None:
    clock = step_clock.StepClock()
    clock.seconds["forward"] = [9.0] * step_clock.WARM_UP + [1.0, 2.0, 3.0] + [9.0] * step_clock.PROFILED
    assert step_parts.milliseconds(clock) == {"forward": 2000.0}


@pytest.mark.parametrize("first", range(4))
def test_what_batches_cost_that_are_made_together_is_shared_by_their_steps(first: int) -> None:
    clock = step_clock.StepClock()
    clock.made_together, clock.profiled_steps = 4, 12
    whole = [8.0 if step % 4 == first else 0.0 for step in range(step_clock.WARM_UP + 10)]
    clock.seconds = {"batch": whole + [9.0] * 12, "forward": [1.0] * (len(whole) + 12)}
    assert step_parts.milliseconds(clock) == {"batch": 2000.0, "forward": 1000.0}


def test_a_clock_knows_how_many_batches_are_made_together() -> None:
    executor, plan = SimpleNamespace(together=8192), SimpleNamespace(batch_size=1000)
    loader = SimpleNamespace(executor=executor, plan=plan)
    trainer: Any = SimpleNamespace(train_dataloader=loader, num_training_batches=32, accumulate_grad_batches=1)
    clock = step_clock.StepClock()
    clock.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert (clock.made_together, clock.profiled_steps) == (9, 18)
    trainer.num_training_batches = 31
    with pytest.raises(UserError, match="9 at least count and 18 are profiled, and an epoch has 31"):
        clock.on_train_start(trainer, None)  # type: ignore[arg-type]


def test_what_a_gpu_did_is_told_by_step() -> None:
    cpu, gpu = DeviceType.CPU, DeviceType.CUDA
    # An operation has the time of its kernel, and so has what was marked around it.
    events = [
        SimpleNamespace(
            key=key,
            count=10,
            self_cpu_time_total=host,
            self_device_time_total=on_gpu,
            device_type=where,
            is_user_annotation=key == "mark",
        )
        for key, host, on_gpu, where in (
            ("cudaGraphLaunch", 200.0, 0.0, cpu),
            ("cudaLaunchKernelExC", 100.0, 0.0, cpu),
            ("aten::conv2d", 1000.0, 4000.0, cpu),
            ("kernel", 0.0, 4000.0, gpu),
            ("mark", 0.0, 4000.0, gpu),
        )
    ]
    figures = step_parts.of_profile(events, 5)
    assert figures["gpu_ms"] == 0.8
    assert figures["launches"] == {"cudaGraphLaunch": 2.0, "cudaLaunchKernelExC": 2.0}
    assert next(iter(figures["host_ms_by_operation"].items())) == ("aten::conv2d", 0.2)


def test_what_keeps_a_compiled_network_from_one_graph_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {"graph_break": Counter({"print was called": 2}), "inductor": Counter({"cudagraph_skips": 3, "x": 1})}
    monkeypatch.setattr(step_parts, "counters", counted)
    assert step_parts.of_compiler() == {"graph_breaks": 2, "reasons": ["print was called"], "cudagraph_skips": 3}


@pytest.mark.parametrize(
    "line", ["      test/accuracy_flip    0.9523000121116638", "│   test/accuracy_flip   │  0.9523000121116638  │"]
)
def test_reads_accuracies_in_either_frame(line: str) -> None:
    printed = f"{line.replace('_flip', '')}\n{line}\n{line.replace('accuracy_flip', 'loss').replace('0.95', '9.5')}"
    assert time_to_accuracy.accuracies(printed) == {"accuracy": 95.23, "accuracy_flip": 95.23}


def test_accuracies_can_be_tiny_and_whole() -> None:
    assert time_to_accuracy.accuracies("test/accuracy 1.0\ntest/accuracy_top5 1.5e-05") == {
        "accuracy": 100,
        "accuracy_top5": 0,
    }


@pytest.mark.slow
def test_time_to_accuracy_runs_no_seed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_to_accuracy, "command", command)
    recipe = Path(shutil.copy(QUICKSTART, tmp_path))
    arguments = [f"--config={recipe}", f"--output={tmp_path}", "--seeds=1", *SHORT, "--model.tta=flip"]
    time_to_accuracy.main(arguments)
    first = result(tmp_path, f"{TIMED}-other")
    assert first["fit_seconds"][0] > 0 < first["test_seconds"][0]
    assert 0 <= first["mean_accuracy"] <= 100
    assert first["accuracy_flip"]
    assert first["commits"] == ["abcdef"]
    assert (first["recipe"], first["data"], first["seeds"]) == ("quickstart", "original", [0])
    assert first["settings"] == measure.settings_of(Path(QUICKSTART))
    monkeypatch.setattr(time_to_accuracy, "train_and_test", lambda *args: {"fit_seconds": 1.0, "accuracy": 50.0})
    # What was measured is written into a recipe's comments.
    recipe.write_text(f"# Accuracy: measured.\n{recipe.read_text()}")
    time_to_accuracy.main(arguments)
    assert result(tmp_path, f"{TIMED}-other")["fit_seconds"] == first["fit_seconds"]
    time_to_accuracy.main([*arguments, "--model.depth=14"])
    assert result(tmp_path, f"{TIMED}-other")["fit_seconds"] == [1.0]


def test_a_command_says_what_it_printed_and_how_long_it_took() -> None:
    seconds, printed = commands.command("summary", "--model=ResNetV1", "--model.depth=8", "--format=json")
    assert seconds > 0.5
    assert json.loads(printed)["totals"]["trainable_parameters"] == 77_850


def test_time_to_accuracy_trains_on_everything_and_tests_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[tuple[str, ...]] = []

    def command(*arguments: str) -> tuple[float, str]:
        commands.append(arguments)
        return 1.0, "test/accuracy 0.5"

    monkeypatch.setattr(time_to_accuracy, "command", command)
    (tmp_path / "images").mkdir()
    time_to_accuracy.main([f"--config={QUICKSTART}", "--data_root=images", f"--output={tmp_path}", "--seeds=2"])
    # With options of its own it is something else: see above.
    assert result(tmp_path, TIMED)["mean_accuracy"] == 50
    fits, tests = commands[::2], commands[1::2]
    for seed, (fit, test) in enumerate(zip(fits, tests, strict=True)):
        assert {"--data.val_size=0", "--trainer.limit_val_batches=0", f"--seed_everything={seed}"} <= {*fit}
        assert f"--data.root={tmp_path / 'images'}" in fit
        assert test[:2] == ("test", "--ckpt_path=last")
        assert test[2] == fit[-1]
    assert fits[0][-1] != fits[1][-1], "two seeds share a folder"


FAKE_AIRBENCH = """
import sys
import torch

with open(sys.argv[0]) as file:
    assert "CifarNet" in file.read()

class CifarNet(torch.nn.Linear):
    def __init__(self):
        super().__init__(1, 1)
        self.runs = []

    def cuda(self):
        return self

    def compile(self, mode):
        pass

def print_training_details(variables, is_final_entry):
    raise AssertionError

def main(run, model):
    train, test = (torch.load(f"cifar10/{split}.pt") for split in ("train", "test"))
    assert train["images"].dtype == torch.uint8 and train["images"].shape == (20, 32, 32, 3)
    assert train["labels"].dtype == torch.int64 and len(test["labels"]) == 4 and len(train["classes"]) == 10
    assert model.runs == ["warmup", 0, 1][: len(model.runs)]
    model.runs.append(run)
    val_acc, time_seconds = 0.93, 2.0 + len(model.runs) / 10
    print_training_details(locals(), is_final_entry=True)
    return 0.94
"""


def settings(**changes: Any) -> gpu_parts.Settings:
    given = {"data_root": None, "airbench": None, "seeds": 2, "jobs": 2, "further": (), "sizes": gpu_parts.TINY}
    return gpu_parts.Settings(**{"output": Path("results"), **given, **changes})


def test_the_race_is_run_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "airbench94_muon.py"
    program.write_text(FAKE_AIRBENCH)
    seeds = []

    def train_and_test(given: gpu_parts.Settings, recipe: str, seed: int, *options: str) -> dict[str, float]:
        seeds.append(seed)
        return {"seconds": 1.0 + seed, "accuracy": 90.0, "accuracy_multi_view": 92.0 + seed}

    monkeypatch.setattr(gpu_speed, "train_and_test", train_and_test)
    before = sys.argv, Path.cwd()
    *_, last = gpu_speed.of_race(settings(airbench=program, sizes=gpu_parts.Sizes(images=20)))
    assert (sys.argv, Path.cwd()) == before
    assert seeds == [2, 0, 0, 1]
    # Its first run warms up.
    assert last["airbench"]["seconds"] == [2.2, 2.3]
    assert last["airbench"]["mean_accuracy"] == 93
    assert last["airbench"]["mean_accuracy_with_views"] == 94
    assert last["speed"]["median_seconds"] == 1.5
    assert last["speed_over_airbench"] == round(1.5 / 2.25, 3)
    # Of 92 and 93 beside 94 and 94.
    assert last["accuracy_over_airbench"] == {"points": -1.5, "standard_error": 0.5}


def test_in_the_race_one_network_trains_as_new_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for where its weights lie."""
    options = ["--model.whitening_bias_epochs=1", "--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    sizes = gpu_parts.Sizes(images=40, every=gpu_parts.TINY.every, whole=(*gpu_parts.TINY.whole, *options))
    networks = []

    def run(*arguments: str) -> tuple[Any, measure.Clock]:
        cli, clock = measure.run(*arguments)
        state = {name: weight.clone() for name, weight in cli.model.net.state_dict().items()}
        networks.append((cli.model.net, state))
        return cli, clock

    monkeypatch.setattr(gpu_parts, "run", run)
    monkeypatch.setattr(gpu_speed.SameNetwork, "kept", None)
    same = ["--trainer.callbacks+=benchmarks.gpu_speed.SameNetwork"]
    for seed, further in ((0, same), (1, same), (1, [])):
        gpu_parts.train_and_test(settings(sizes=sizes), "speed", seed, *further)
    (first, after_first), (second, after_second), (fresh, expected) = networks
    assert first is second
    assert first is not fresh
    assert all(torch.equal(weight, expected[name]) for name, weight in after_second.items())
    assert not torch.equal(after_first["head.weight"], expected["head.weight"])


def test_airbench_gets_images_of_all_classes_first(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    data = ImageFolderDataModule(str(image_folder(train=50)))
    gpu_speed.write_for_airbench(data, tmp_path / "cifar10")
    written = torch.load(tmp_path / "cifar10" / "train.pt")
    assert 5 < written["labels"][:30].sum() < 25
    cat, dog = (data.load("train").pixels[data.load("train").labels == label] for label in (0, 1))
    for label, pixels in ((0, cat), (1, dog)):
        shown = written["images"][written["labels"] == label].numpy()
        assert np.array_equal(np.sort(shown.sum(axis=(1, 2, 3))), np.sort(pixels.sum(axis=(1, 2, 3), dtype=np.int64)))


def test_accuracy_on_a_gpu_is_that_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    commands = []

    def main(arguments: list[str]) -> None:
        given.extend(arguments)
        commands.append(measure.origin()["command"])

    monkeypatch.setattr(accuracy, "main", main)
    asked = settings(data_root="images", sizes=gpu_parts.Sizes(), further=("--model.label_smoothing=0.1",))
    assert list(gpu_parts.of_accuracy(asked)) == [{"results": "accuracy/"}]
    assert given[: len(gpu_parts.ACCURACY_OF)] == list(gpu_parts.ACCURACY_OF)
    assert {"--seeds=2", "--at_once=2", "--data_root=images", f"--output={Path('results', 'accuracy')}"} <= {*given}
    assert given[-2:] == [gpu_parts.GRAPHS, "--model.label_smoothing=0.1"]
    # A result names the command that gives it again, and not this one.
    assert commands == [f"python -m benchmarks.accuracy {' '.join(given)}"]


def test_a_run_to_its_end_gives_what_its_clock_and_its_test_say(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {"test/accuracy": 0.25, "test/accuracy_flip": 0.5, "test/loss": 1.0}
    cli = SimpleNamespace(trainer=SimpleNamespace(test=lambda *args, **kwargs: [metrics]), model=None, datamodule=None)
    monkeypatch.setattr(gpu_parts, "run", lambda *arguments: (cli, SimpleNamespace(fit=3.0, test=1.0)))
    figures = gpu_parts.train_and_test(settings(), "resnet20", 0)
    assert figures == {"seconds": 4, "fit_seconds": 3, "test_seconds": 1, "accuracy": 25, "accuracy_flip": 50}


def test_a_run_to_its_end_leaves_no_files(tmp_path: Path) -> None:
    whole = (*gpu_parts.TINY.whole, "--trainer.accelerator=cpu")
    sizes = gpu_parts.Sizes(images=40, every=gpu_parts.TINY.every, whole=whole)
    figures = gpu_parts.train_and_test(settings(sizes=sizes), "resnet20", 0)
    assert figures.keys() == {"seconds", "fit_seconds", "test_seconds", "accuracy", "accuracy_flip"}
    assert figures["fit_seconds"] > 0 < figures["test_seconds"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_gpu_notes_what_fails_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(measure.REPOSITORY)
    program = tmp_path / "airbench.py"
    program.write_text("raise RuntimeError(3)")
    # Whatever else the machine does.
    for part in ("race", "input_pipeline"):
        monkeypatch.setitem(gpu.PARTS, part, (gpu.PARTS[part][0], 600.0))
    arguments = [
        "--tiny",
        "--minutes=30",
        "--parts",
        "race",
        "input_pipeline",
        f"--airbench={program}",
        f"--output={tmp_path}",
    ]
    gpu.main(arguments)
    found = result(tmp_path, "gpu-cpu")
    assert found["race"]["race_error"] == "RuntimeError(3)"
    assert len(found["race"]["speed"]["seconds"]) == 1
    assert "error" not in found["input_pipeline"]
    assert found["input_pipeline"]["ratios"]


def test_gpu_keeps_what_other_parts_measured_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpu-cpu.json").write_text(json.dumps({"commit": "before", "epochs": {"x": 1}, "race": {"y": 2}}))
    monkeypatch.setattr(gpu, "run_part", lambda *args: {"y": 3})
    gpu.main(["--tiny", "--parts", "race", f"--output={tmp_path}"])
    found = result(tmp_path, "gpu-cpu")
    assert found["epochs"] == {"x": 1, "commit": "before"}
    assert (found["race"]["y"], found["race"]["commit"]) == (3, "abcdef")
    monkeypatch.setattr(gpu, "run_part", lambda *args: {"error": "no device"})
    gpu.main(["--tiny", "--parts", "race", "training_loop", f"--output={tmp_path}"])
    found = result(tmp_path, "gpu-cpu")
    assert found["race"]["y"] == 3
    assert found["training_loop"]["error"] == "no device"


@pytest.mark.parametrize(
    ("before", "figures", "kept"),
    [
        ({"ours": 1}, {"ours": 2}, False),
        # Theirs fails where it did not before.
        ({"ours": 1, "theirs": 1}, {"ours": 2, "race_error": "no memory"}, True),
        ({"ours": {"a": 1, "b": 1}, "error": "its time was up"}, {"error": "no device"}, True),
        ({"ours": {"a": 1}, "error": "its time was up"}, {"ours": {"a": 2, "b": 2}, "error": "its time was up"}, False),
        ({"error": "no device"}, {"ours": 2}, False),
        ({"ours": [1, 1, 1], "error": "its time was up"}, {"ours": [2], "error": "its time was up"}, True),
    ],
)
def test_gpu_keeps_the_better_figures_of_a_part(
    before: dict[str, Any], figures: dict[str, Any], kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpu-cpu.json").write_text(json.dumps({"race": before}))
    monkeypatch.setattr(gpu, "run_part", lambda *args: figures)
    monkeypatch.setattr(gpu, "origin", dict)
    gpu.main(["--tiny", "--parts", "race", f"--output={tmp_path}"])
    found = json.loads((tmp_path / "gpu-cpu.json").read_text())["race"]
    assert found == (before if kept else figures)


def test_gpu_keeps_every_row_of_a_part_that_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {name: {"seconds": 1} for name in ("a", "b")}
    old = {**rows, "date": "old", "commit": "old", "machine": {"cpu": "old"}, "error": "its time was up"}
    (tmp_path / "gpu-cpu.json").write_text(json.dumps({"epochs": old}))
    row = {"seconds": 2, "date": "now", "commit": "new", "machine": {"cpu": "new"}}
    monkeypatch.setattr(gpu, "run_part", lambda *args: {"a": row, "c": row, "error": "no device"})
    gpu.main(["--tiny", "--parts", "epochs", f"--output={tmp_path}"])
    found = json.loads((tmp_path / "gpu-cpu.json").read_text())["epochs"]
    assert (found["a"], found["c"], found["error"]) == (row, row, "no device")
    assert found["b"] == {"seconds": 1, "date": "old", "commit": "old"}
    assert found["commit"] == "abcdef"
    monkeypatch.setattr(gpu, "run_part", lambda *args: {"a": row})
    gpu.main(["--tiny", "--parts", "epochs", f"--output={tmp_path}"])
    found = json.loads((tmp_path / "gpu-cpu.json").read_text())["epochs"]
    assert "b" not in found
    assert "error" not in found


def test_gpu_has_time_for_all_but_what_goes_on_for_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, clock = dict[str, float](), iter([0.0, 0.0, *itertools.accumulate(gpu.PARTS[part][1] for part in gpu.PARTS)])
    monkeypatch.setattr(gpu, "run_part", lambda part, arguments, seconds: asked.update({part: seconds}) or {})
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    gpu.main(["--tiny", f"--output={tmp_path}"])
    assert asked == {part: share for part, (_, share) in gpu.PARTS.items() if share < float("inf")}
    assert "accuracy: no time is left; --parts accuracy" in capsys.readouterr().out


def test_a_part_whose_time_is_up_is_ended_and_keeps_what_it_has(tmp_path: Path) -> None:
    script = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text('{\"done\": 1}'); time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "epochs.json")], start_new_session=True)
    while not (tmp_path / "epochs.json").is_file():
        time.sleep(0.01)
    found = gpu.outcome(process, "epochs", 0.1, tmp_path)
    assert found == {"done": 1, "error": "its time was up"}
    assert process.poll() is not None


def test_a_part_that_is_killed_has_failed_and_says_by_what(tmp_path: Path) -> None:
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    (tmp_path / "epochs.err").write_text("UserWarning: of something else\n")
    found = gpu.outcome(process, "epochs", 100, tmp_path)
    assert found == {"error": "UserWarning: of something else\nit ended with -9"}
    assert gpu.failed(found)


def test_gpu_needs_images_or_to_be_tiny(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--data_root" in capsys.readouterr().err


def test_survival_sees_what_is_lost_added_or_changed() -> None:
    whole: dict[str, Any] = {"step": 3, "weights a": torch.tensor([1.0, 2.0]), "scalar val loss 2": {0.5}}
    assert survival.differences(whole, {**whole, "weights a": whole["weights a"].clone()}) == []
    changed = torch.tensor([1.0, 2.0000002])
    for found, name in (
        ({**whole, "step": 4}, "step"),
        ({**whole, "weights a": changed}, "weights a"),
        # Logged again, and not the same.
        ({**whole, "scalar val loss 2": {0.5, 0.6}}, "scalar val loss 2"),
        ({key: value for key, value in whole.items() if key != "scalar val loss 2"}, "scalar val loss 2"),
        ({**whole, "scalar val loss 3": {0.5}}, "scalar val loss 3"),
    ):
        assert survival.differences(whole, found) == [name]


def test_survival_sees_a_run_that_began_anew(tmp_path: Path) -> None:
    for steps, went_on in (([0, 12], True), ([0, 0], False), ([0], False)):
        starts = [{"from_step": step} for step in steps]
        torch.save({"provenance": starts}, tmp_path / "last.ckpt")
        assert survival.went_on(tmp_path) == went_on


@pytest.mark.parametrize(
    ("main", "arguments", "said"),
    [
        (accuracy.main, ["resnet21"], "there is no resnet21 in configs/, but depthwise, "),
        (accuracy.main, ["../configs/resnet20"], "there is no ../configs/resnet20 in configs/, but "),
        (accuracy.main, ["resnet20", "--data_root=nowhere"], "there is no folder nowhere"),
        (accuracy.main, ["resnet20", "--seeds=0"], "0 is less than 1"),
        (epoch_limit.main, ["resnet20", "--epochs=1"], "--epochs has to be at least 2"),
        (training_loop.main, [], "there is no folder data/cifar10-jpeg: python -m benchmarks.jpeg_images makes"),
        (time_to_accuracy.main, ["--config=no.yaml"], "there is no file no.yaml"),
        (reference_epochs.main, ["r9"], "there is no r9 in configs/reference/, but r1, "),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_line(
    main: Callable[[list[str]], None], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_recipe_may_be_given_by_its_file() -> None:
    absolute = str(measure.REPOSITORY / "configs" / "resnet20.yaml")
    for name in ("resnet20", "configs/resnet20.yaml", absolute):
        assert measure.recipe_name(name) == "resnet20"
    assert measure.recipe_name("reference/r1") == "reference/r1"


@pytest.mark.parametrize(
    ("printed", "end", "expected"),
    [
        ("", None, "run"),
        ("", SystemExit(0), "run"),
        ("", SystemExit("cifar-lit: There is no checkpoint x: give one."), "line"),
        (
            "",
            SystemExit(f"cifar-lit: KeyError at x.py:3: ({TRACEBACK_VARIABLE}=1 shows the whole traceback)"),
            "unforeseen",
        ),
        ("Traceback (most recent call last)", SystemExit("cifar-lit: There is no checkpoint."), "traceback printed"),
        ("", SystemExit("cifar-lit: one\ntwo lines of it"), "no line"),
        ("", SystemExit("There is no checkpoint x."), "no line"),
        ("", KeyError("x"), "exception"),
    ],
)
def test_fuzz_sees_how_a_run_ended(
    printed: str, end: BaseException | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command_line(arguments: list[str]) -> None:
        print(printed, file=sys.stderr)
        if end is not None:
            raise end

    monkeypatch.setattr(fuzz, "command_line", command_line)
    assert fuzz.attempt([])[0].startswith(expected)


def test_fuzz_sees_a_refusal_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "PATIENCE", -1.0)
    monkeypatch.setattr(fuzz, "command_line", lambda _: sys.exit("cifar-lit: There is no checkpoint x: give one."))
    assert fuzz.attempt([])[0] == "slow refusal"
