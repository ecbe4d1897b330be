"""Runs that go on where they were stopped, and a table that says what they reached."""

import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from forks import command

from benchmarks import accuracy, accuracy_table, reference_epochs, tuning

TINY = [
    *["--data=DigitsDataModule", "--data.batch_size=64", "--trainer.max_epochs=2", "--trainer.limit_train_batches=2"],
    "--trainer.accelerator=cpu",
]


def test_readme_and_recipes_say_what_was_measured() -> None:
    accuracy_table.main(["--check"])


@pytest.mark.slow
def test_a_run_writes_a_result_goes_on_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["quickstart", "--seeds=1", f"--runs={tmp_path / 'runs'}", f"--output={tmp_path / 'results'}", *TINY]
    calls, fits = [], list[float]()

    def stopped_once(*arguments: str) -> tuple[float, str]:
        calls.append(arguments)
        if len(calls) == 1:
            command(*[a for a in arguments if not a.startswith("--trainer.max_epochs")], "--trainer.max_epochs=1")
            raise KeyboardInterrupt
        seconds, said = command(*arguments)
        fits.extend([seconds] if arguments[0] == "fit" else [])
        return seconds, said

    monkeypatch.setattr(accuracy, "command", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        accuracy.main(asked)
    assert not (tmp_path / "results").exists()
    accuracy.main(asked)
    (file,) = (tmp_path / "results").iterdir()
    assert file.name == "quickstart-original-cpu-seed0.json"
    found = json.loads(file.read_text())
    assert any(argument.startswith("--ckpt_path=") for argument in calls[1])
    assert 0 < found["accuracy"] < 100
    (clock,) = tmp_path.rglob("seconds.json")
    # Of the stopped try, as far as its files tell, and of the other.
    stopped, other = json.loads(clock.read_text())
    assert stopped > 0
    assert [other] == fits
    assert found["fit_seconds"] == round(stopped + other, 1)
    assert len(list(tmp_path.rglob("last.ckpt"))) == 1
    capsys.readouterr()
    accuracy.main(asked)
    assert "there already" in capsys.readouterr().out


def test_the_seconds_of_all_stopped_tries_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = iter((1000.0, 2000.0, 3000.0))
    lasted = iter((10, 25))
    checkpoint = tmp_path / "lightning_logs" / "x" / "version_0" / "checkpoints" / "last.ckpt"

    def stopped_twice(*arguments: str) -> tuple[float, str]:
        assert (f"--ckpt_path={checkpoint}" in arguments) == checkpoint.is_file()
        seconds = next(lasted, None)
        if seconds is None:
            return 5.0, ""
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.touch()
        moment = (1000 if seconds == 10 else 2000) + seconds
        os.utime(checkpoint, (moment, moment))
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy, "command", stopped_twice)
    monkeypatch.setattr("time.time", lambda: next(begun))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            accuracy.train(["--x"], tmp_path, {})
    # The second time nothing is trained.
    for _ in range(2):
        assert accuracy.train(["--x"], tmp_path, {}) == 10 + 25 + 5


def test_a_teacher_is_trained_once_before_its_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = list[tuple[str, ...]]()

    def fit_or_test(*arguments: str) -> tuple[float, str]:
        if arguments[0] == "test":
            return 1.0, "test/accuracy 0.5"
        fits.append(arguments)
        (root,) = [a.partition("=")[2] for a in arguments if a.startswith("--trainer.default_root_dir=")]
        checkpoints = Path(root, "lightning_logs", "x", "version_0", "checkpoints")
        # As long as the other student may take to want the same.
        time.sleep(0.5)
        checkpoints.mkdir(parents=True)
        (checkpoints / "last.ckpt").touch()
        return 2.0, ""

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    monkeypatch.setattr(accuracy, "command", fit_or_test)
    own = ["--seeds=1", "--first_seed=4", f"--runs={tmp_path / 'runs'}", f"--output={tmp_path / 'results'}"]
    students = ["depthwise_distilled", "dilated_separable_distilled"]
    accuracy.main([*students, "--at_once=2", *own])
    accuracy.main(["resnet20", *own])
    assert Path(fits[0][1]).stem == "resnet20"
    assert sorted(Path(fit[1]).stem for fit in fits[1:]) == students
    (teacher,) = (tmp_path / "runs" / "resnet20" / "seed-4").rglob("last.ckpt")
    assert all(f"--trainer.callbacks.teacher={teacher}" in fit for fit in fits[1:])
    found = json.loads((tmp_path / "results" / "depthwise_distilled-original-cpu-seed4.json").read_text())
    assert (found["teacher"], found["accuracy"], found["options"]) == ("resnet20", 50.0, [])
    assert "ResNetV1" in found["teacher_settings"]
    # A folder's run goes on, or counts, only if it is the one that is asked for.
    with pytest.raises(SystemExit, match=r"resnet20.*holds a run with other settings"):
        accuracy.main(["depthwise_distilled", *own, "--trainer.max_epochs=1"])


@pytest.mark.slow
def test_tries_are_judged_by_held_out_images_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Which the program sets for what it starts, and later tests are to find as it was.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    monkeypatch.setattr(tuning, "command", command)
    tiny = "--data=DigitsDataModule --data.batch_size=64 --trainer.limit_train_batches=2 --trainer.accelerator=cpu"
    asked = ["quickstart", "--epochs=1", "--at_once=2", f"--output={tmp_path}", "--options"]
    slow, fast = f"{tiny} --model.optimizer.lr=1e-9", f"{tiny} --model.optimizer.lr=0.05"
    tuning.main([*asked, slow])
    tuning.main([*asked, slow, fast])
    (file,) = tmp_path.iterdir()
    tries = json.loads(file.read_text())["tries"]
    assert [one["options"] for one in tries] == [slow, fast]
    assert file.name == "tuning-quickstart.json"
    for one in tries:
        assert {"train_loss", "train_accuracy", "val_loss", "epochs", "recipe", "commit"} <= one.keys()
        assert 0 < one["val_accuracy"] < 100
    assert tries[0]["val_loss"] != tries[1]["val_loss"]


def test_a_try_may_be_one_option_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(recipe: str, options: str, epochs: int, data_root: str | None) -> dict[str, Any]:
        return {"options": options}

    monkeypatch.setattr(tuning, "attempt", attempt)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tuning.main(["quickstart", f"--output={tmp_path}", "--options", "", "--model.tta=none"])
    tries = json.loads((tmp_path / "tuning-quickstart.json").read_text())["tries"]
    assert [one["options"] for one in tries] == ["", "--model.tta=none"]


def result(recipe: str, **figures: Any) -> dict[str, Any]:
    machine = {"threads": 2, "gpu": None}
    same = {"recipe": recipe, "options": [], "settings": "trainer: {}"}
    return {**same, "data": "jpeg", "machine": machine, "fit_seconds": 1830.0, **figures}


def test_the_table_has_means_medians_and_a_link(tmp_path: Path) -> None:
    folder = tmp_path / accuracy_table.RESULTS
    folder.mkdir(parents=True)
    (tmp_path / "configs" / "reference").mkdir(parents=True)
    (tmp_path / "README.md").write_text(
        "| recipe |\n| `net` (Net) | 1,000 | 50 | not measured yet | not measured yet |\n"
        "| `gone` | 1 | 2 | 3 s | 3 % ([1 seed](benchmarks/results/accuracy/gone-jpeg-cpu-seed0.json)) |\n"
        "| `elsewhere` | 1 | 2 | 3 s | 3 % (benchmarks/results/quickstart.json) |\n"
    )
    (tmp_path / "configs" / "net.yaml").write_text(
        "# Net.\n# Cost: not measured yet.\n# Accuracy: not\n# yet.\ntrainer: {}\n# Cost: no\n"
    )
    (tmp_path / "configs" / "other.yaml").write_text("# Cost: not measured yet.\ntrainer: {}\n")
    gone = "benchmarks/results/accuracy/gone-*.json"
    (tmp_path / "configs" / "gone.yaml").write_text(f"# Cost: 3 s.\n# Accuracy: 3 % ({gone}).\ntrainer: {{}}\n")
    elsewhere = "# Cost: 3 s.\n# Accuracy: 3 % (benchmarks/results/quickstart.json).\ntrainer: {}\n"
    (tmp_path / "configs" / "elsewhere.yaml").write_text(elsewhere)
    (tmp_path / "configs" / "reference" / "r9.yaml").write_text("# R9.\n# Measured here: not\n# yet.\ntrainer: {}\n")
    (tmp_path / accuracy_table.FIRST_EPOCHS).write_text('{"recipes": {}}')
    for seed, value in enumerate((91.0, 92.5)):
        file = folder / f"net-jpeg-cpu-seed{seed}.json"
        file.write_text(json.dumps(result("net", accuracy=value, accuracy_flip=value + 1)))
    # Neither another recipe's, nor with other options, nor with images held out, nor of the recipe as it was.
    (folder / "net-jpeg-cpu-seed2.json").write_text(json.dumps(result("net", accuracy=3.0, settings="trainer: 2")))
    (folder / "net-jpeg-cpu-hold-out-seed0.json").write_text(json.dumps(result("net", accuracy=1.0)))
    (folder / "net-original-cuda-seed0.json").write_text(
        json.dumps({**result("net", accuracy=2.0), "options": ["--x"]})
    )
    best = result("reference/r9", accuracy=80.0, best_epoch_accuracy=81.25, fit_seconds=90.0)
    best["machine"] = {"threads": 1, "gpu": None}
    (folder / "reference-r9-jpeg-cpu-seed0.json").write_text(json.dumps(best))
    texts = {file.relative_to(tmp_path).as_posix(): text for file, text in accuracy_table.generated(tmp_path).items()}
    words = "91.75 % test (91.00 to 92.50), 92.75 % with flips; JPEG images"
    assert texts["README.md"] == (
        f"| recipe |\n| `net` (Net) | 1,000 | 50 | 30 min on 2 CPU cores | {words} "
        "([2 seeds](benchmarks/results/accuracy/net-jpeg-cpu-seed0.json)) |\n"
        "| `gone` | 1 | 2 | not measured yet | not measured yet |\n"
        "| `elsewhere` | 1 | 2 | 3 s | 3 % (benchmarks/results/quickstart.json) |\n"
    )
    assert texts["configs/net.yaml"] == (
        f"# Net.\n# Cost: 30 min on 2 CPU cores.\n# Accuracy: {words} (2 seeds;\n# "
        "benchmarks/results/accuracy/net-*.json).\ntrainer: {}\n# Cost: no\n"
    )
    assert texts["configs/gone.yaml"] == "# Cost: not measured yet.\n# Accuracy: not measured yet.\ntrainer: {}\n"
    assert texts["configs/elsewhere.yaml"] == elsewhere
    assert texts["configs/other.yaml"] == "# Cost: not measured yet.\ntrainer: {}\n"
    assert re.fullmatch(
        r"# R9.\n# Measured here: 80.00 % test, 81.25 % in the best epoch; JPEG images \(1 seed, 90 s on 1 CPU core;\n"
        r"# .*reference-r9-\*.json\).\ntrainer: \{\}\n",
        texts["configs/reference/r9.yaml"],
    )
    # A second time nothing changes.
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert {f.relative_to(tmp_path).as_posix(): t for f, t in accuracy_table.generated(tmp_path).items()} == texts


def test_a_table_lays_ours_beside_the_published_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy_table, "RIVALS", {"r8": ("net", "larger", "unmeasured"), "r9": ("unmeasured",)})
    folder = tmp_path / accuracy_table.RESULTS
    folder.mkdir(parents=True)
    (tmp_path / "configs" / "reference").mkdir(parents=True)
    for recipe in ("net", "larger", "unmeasured", "reference/r8", "reference/r9"):
        (tmp_path / "configs" / f"{recipe}.yaml").write_text("trainer: {}\n")
    log = {"val_accuracy": [0.7, 0.8123, 0.8], "seconds_an_epoch": 40}
    (tmp_path / accuracy_table.PUBLISHED).write_text(json.dumps({"r8": log, "r9": log}))
    theirs = result("reference/r8", accuracy=70.0, best_epoch_accuracy=75.5)
    (folder / "reference-r8-jpeg-cpu-seed0.json").write_text(json.dumps(theirs))
    for seed, value in enumerate((78.0, 79.0)):
        (folder / f"net-jpeg-cpu-seed{seed}.json").write_text(json.dumps(result("net", accuracy=value)))
    # On other images, which says nothing of who is ahead.
    other = {**result("larger", accuracy=90.0), "data": "original"}
    (folder / "larger-original-cpu-seed0.json").write_text(json.dumps(other))
    head = "Text.\n\n| published system | … |\n| --- | --- |\n"
    r8, r9 = (f"| [{name}](configs/reference/{name.lower()}.yaml) | 81.23 % |" for name in ("R8", "R9"))
    table = (
        f"{head}{r8} 75.50 % | 2 min | `net` | 78.50 % | +3.00 | 30 min on 2 CPU cores |\n"
        f"{r8} 75.50 % | 2 min | `larger` | 90.00 % | not measured yet | 30 min on 2 CPU cores |\n"
        f"{r9} not measured yet | 2 min | `unmeasured` | not measured yet | not measured yet | not measured yet |\n"
        "\nMore text.\n"
    )
    assert accuracy_table.with_comparison(f"{head}| old |\n| rows |\n\nMore text.\n", tmp_path) == table
    assert accuracy_table.with_comparison(f"{head}\nMore text.\n", tmp_path) == table
    assert accuracy_table.with_comparison(table, tmp_path) == table


def test_headers_lay_the_first_epochs_beside_the_published_ones(tmp_path: Path) -> None:
    (tmp_path / accuracy_table.FIRST_EPOCHS).parent.mkdir(parents=True)
    (tmp_path / "configs" / "reference").mkdir(parents=True)
    run = {"train_accuracy": [0.123, 0.2349], "data": "jpeg", "settings": "trainer: {}", "options": []}
    measured = {"r5": run, "r6": {**run, "settings": "trainer: 2"}, "r7": {**run, "options": ["--x"]}}
    (tmp_path / accuracy_table.FIRST_EPOCHS).write_text(json.dumps({"recipes": measured}))
    published = {"r5": {"train_accuracy": [0.8] * 3}, "r5_afresh": {"train_accuracy": [0.3, 0.4, 0.5]}}
    (tmp_path / accuracy_table.PUBLISHED).write_text(json.dumps(published))
    text = "# R5.\n# In the first epochs\n# no.\n# Measured here: not.\ntrainer: {}\n"
    for name in ("r5", "r6", "r7", "r9"):
        (tmp_path / "configs" / "reference" / f"{name}.yaml").write_text(text)
    assert accuracy_table.with_first_epochs(text, "r5", tmp_path) == (
        "# R5.\n# In the first 2 epochs its training accuracy is 12.3 and 23.5 % on JPEG images, published, begun "
        "afresh, 30.0 and\n# 40.0 % (benchmarks/results/reference_epochs.json).\n# Measured here: not.\ntrainer: {}\n"
    )
    for name in ("r6", "r7", "r9"):
        unknown = "# R5.\n# In the first epochs: not measured yet.\n# Measured here: not.\ntrainer: {}\n"
        assert accuracy_table.with_first_epochs(text, name, tmp_path) == unknown, name


def test_first_epochs_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = list[str]()

    def fit(*arguments: str) -> tuple[float, str]:
        tiny = [*TINY[:2], *TINY[3:], "--data.val_size=0"]
        ran.append(Path(arguments[1].removeprefix("--config=")).stem)
        return command(*arguments, *tiny)

    monkeypatch.setattr(reference_epochs, "command", fit)
    for epochs in (1, 2, 2):
        reference_epochs.main([f"--epochs={epochs}", f"--output={tmp_path}", "r5_plain"])
    assert ran == ["r5_plain"] * 2
    found = json.loads((tmp_path / "reference_epochs.json").read_text())["recipes"]["r5_plain"]
    charts = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    assert [len(found[chart]) for chart in charts] == [2] * 4
    assert all(0 <= found[chart][0] <= 1 for chart in charts if "accuracy" in chart)


def test_the_cost_of_runs_that_shared_their_machine_is_that_of_epochs_that_did_not(tmp_path: Path) -> None:
    folder = tmp_path / accuracy_table.RESULTS
    folder.mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    (tmp_path / "README.md").write_text("")
    recipe = tmp_path / "configs" / "net.yaml"
    recipe.write_text("# Net.\n# Cost: not measured yet.\ntrainer: {max_epochs: 50}\n")
    for seed in range(2):
        shared = result("net", accuracy=90.0, at_once=2, settings="trainer: {max_epochs: 50}")
        (folder / f"net-jpeg-cpu-seed{seed}.json").write_text(json.dumps(shared))

    def header() -> str:
        return accuracy_table.generated(tmp_path)[recipe].splitlines()[1]

    for name, expected in (("other", "not measured yet"), ("net", "25 min on 2 CPU cores")):
        epochs = {"machine": {"threads": 2, "gpu": None}, "recipes": {name: {"seconds": 30.0}}}
        (tmp_path / accuracy_table.EPOCHS).write_text(json.dumps(epochs))
        assert header() == f"# Cost: {expected}."
    (folder / "net-jpeg-cpu-seed2.json").write_text(json.dumps({**shared, "at_once": 1, "fit_seconds": 3600.0}))
    assert header() == "# Cost: 60 min on 2 CPU cores."


def test_a_student_costs_its_teacher_too_and_is_of_the_teacher_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / accuracy_table.RESULTS
    folder.mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    (tmp_path / "README.md").write_text("")
    student, teacher = (tmp_path / "configs" / f"{name}.yaml" for name in ("student", "teacher"))
    settings = "trainer: {callbacks: [{class_path: Distillation, init_args: {teacher: teacher}}]}"
    student.write_text(f"# Pupil.\n# Cost: not.\n{settings}\n")
    teacher.write_text("trainer: {}\n")
    own = {"settings": settings, "teacher": "teacher", "teacher_settings": "trainer: {}"}
    (folder / "student-jpeg-cpu-seed0.json").write_text(json.dumps({**result("student", accuracy=90.0), **own}))
    (folder / "teacher-jpeg-cpu-seed0.json").write_text(json.dumps(result("teacher", accuracy=91.0)))

    def header() -> str:
        return accuracy_table.generated(tmp_path)[student].splitlines()[1]

    assert header() == "# Cost: 30 min on 2 CPU cores, after its teacher teacher's 30 min on 2 CPU cores."
    (folder / "teacher-jpeg-cpu-seed0.json").unlink()
    (tmp_path / accuracy_table.EPOCHS).write_text('{"recipes": {}}')
    assert header() == "# Cost: 30 min on 2 CPU cores, after its teacher teacher."
    teacher.write_text("trainer: {max_epochs: 1}\n")
    assert accuracy_table.results_of("student", tmp_path) == []


@pytest.mark.parametrize(
    ("options", "counts"), [([], True), (["--model.compile_mode=default"], True), (["--x"], False)]
)
def test_a_run_counts_for_its_recipe_if_it_computed_the_same(tmp_path: Path, options: list[str], counts: bool) -> None:
    folder = tmp_path / accuracy_table.RESULTS
    folder.mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "net.yaml").write_text("trainer: {}\n")
    (folder / "net-jpeg-cuda-seed0.json").write_text(json.dumps({**result("net"), "options": options}))
    assert bool(accuracy_table.results_of("net", tmp_path)) == counts


def test_runs_share_the_cores_and_go_on_where_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    threads = list[int]()
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    both = threading.Barrier(2, timeout=60)

    def measure(recipe: str, seed: int, *_: Any) -> dict[str, Any]:
        # Only together do they get past it.
        both.wait()
        if seed == 0:
            raise ValueError(recipe)
        return {"accuracy": 90.0 + seed}

    monkeypatch.setattr(accuracy, "measure", measure)
    with pytest.raises(ValueError, match="quickstart"):
        accuracy.main(["quickstart", "--seeds=4", "--at_once=2", f"--output={tmp_path}"])
    assert threads == [3]
    assert os.environ["OMP_NUM_THREADS"] == "3"
    found = [json.loads(file.read_text()) for file in sorted(tmp_path.iterdir())]
    assert [(one["seed"], one["accuracy"], one["at_once"]) for one in found] == [
        (1, 91.0, 2),
        (2, 92.0, 2),
        (3, 93.0, 2),
    ]
