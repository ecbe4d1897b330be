"""README and recipes say what was measured."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import accuracy_figures, accuracy_table


def test_readme_and_recipes_say_what_was_measured() -> None:
    accuracy_table.main(["--check"])


def result(recipe: str, **figures: Any) -> dict[str, Any]:
    machine = {"threads": 2, "gpu": None}
    same = {"recipe": recipe, "options": [], "settings": "trainer: {}"}
    return {**same, "data": "jpeg", "machine": machine, "fit_seconds": 1830.0, "seed": 0, **figures}


def test_the_table_has_means_medians_and_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy_table, "ELSEWHERE", ("elsewhere",))
    folder = tmp_path / accuracy_figures.RESULTS
    folder.mkdir(parents=True)
    (tmp_path / "configs" / "reference").mkdir(parents=True)
    (tmp_path / "README.md").write_text(
        "| recipe |\n| `net` (Net) | 1,000 | 50 | not measured yet | not measured yet |\n"
        "| `gone` | 1 | 2 | 3 s | 3 % ([1 seed](benchmarks/results/accuracy/gone-jpeg-cpu-seed0.json)) |\n"
        "| `elsewhere` | 1 | 2 | 3 s | 3 % (benchmarks/results/quickstart.json) |\n"
        "| `invented` | 1 | 2 | 3 s | 99 % |\n"
    )
    (tmp_path / "configs" / "net.yaml").write_text(
        "# Net.\n# Cost: not measured yet.\n# Accuracy: not\n# yet.\ntrainer: {}\n# Cost: no\n"
    )
    invented = {"invented": "Cost: 3 s.\n# Accuracy: 99 %.", "reference/r8": "Measured here: 99 %."}
    for name, words in invented.items():
        (tmp_path / "configs" / f"{name}.yaml").write_text(f"# {words}\ntrainer: {{}}\n")
    gone = "benchmarks/results/accuracy/gone-*.json"
    (tmp_path / "configs" / "gone.yaml").write_text(f"# Cost: 3 s.\n# Accuracy: 3 % ({gone}).\ntrainer: {{}}\n")
    elsewhere = "# Cost: 3 s.\n# Accuracy: 3 % (benchmarks/results/quickstart.json).\ntrainer: {}\n"
    (tmp_path / "configs" / "elsewhere.yaml").write_text(elsewhere)
    (tmp_path / "configs" / "reference" / "r9.yaml").write_text("# R9.\n# Measured here: not\n# yet.\ntrainer: {}\n")
    (tmp_path / accuracy_table.FIRST_EPOCHS).write_text('{"recipes": {}}')
    write_timed_epochs(tmp_path)
    for seed, value in enumerate((91.0, 92.5)):
        file = folder / f"net-jpeg-cpu-seed{seed}.json"
        file.write_text(json.dumps(result("net", seed=seed, accuracy=value, accuracy_flip=value + 1)))
    # Neither another recipe's, nor with other options, nor with images held out, nor of the recipe as it was.
    (folder / "net-jpeg-cpu-seed2.json").write_text(json.dumps(result("net", accuracy=3.0, settings="trainer: 2")))
    (folder / "net-jpeg-cpu-hold-out-seed0.json").write_text(json.dumps(result("net", accuracy=1.0)))
    (folder / "net-original-cuda-seed0.json").write_text(
        json.dumps({**result("net", accuracy=2.0), "options": ["--x"]})
    )
    # Fewer, on other images.
    (folder / "net-original-cpu-seed1.json").write_text(json.dumps({**result("net", accuracy=4.0), "data": "original"}))
    best = result("reference/r9", accuracy=80.0, best_epoch_accuracy=81.25, fit_seconds=90.0, begun_on="a GPU", seed=3)
    best["machine"] = {"threads": 1, "gpu": None}
    (folder / "reference-r9-jpeg-cpu-seed3.json").write_text(json.dumps(best))
    texts = {file.relative_to(tmp_path).as_posix(): text for file, text in accuracy_table.generated(tmp_path).items()}
    words = "91.75 % test (91.00 to 92.50), 92.75 % with flips; JPEG images"
    assert texts["README.md"] == (
        f"| recipe |\n| `net` (Net) | 1,000 | 50 | 30 min on 2 CPU cores | {words} "
        "(2 seeds: [0](benchmarks/results/accuracy/net-jpeg-cpu-seed0.json), "
        "[1](benchmarks/results/accuracy/net-jpeg-cpu-seed1.json)) |\n"
        "| `gone` | 1 | 2 | not measured yet | not measured yet |\n"
        "| `elsewhere` | 1 | 2 | 3 s | 3 % (benchmarks/results/quickstart.json) |\n"
        "| `invented` | 1 | 2 | not measured yet | not measured yet |\n"
    )
    header, settings = texts["configs/net.yaml"].split("trainer: ")
    trained = words.replace("JPEG", "trained on all 50,000 JPEG")
    assert header.replace("\n# ", " ") == (
        f"# Net. Cost: 30 min on 2 CPU cores. Accuracy: {trained} (2 seeds; python -m benchmarks.accuracy net "
        "--seeds 2 --data_root data/cifar10-jpeg --output again; benchmarks/results/accuracy/net-*.json).\n"
    )
    assert settings == "{}\n# Cost: no\n"
    assert texts["configs/gone.yaml"] == "# Cost: not measured yet.\n# Accuracy: not measured yet.\ntrainer: {}\n"
    assert texts["configs/elsewhere.yaml"] == elsewhere
    assert texts["configs/invented.yaml"] == texts["configs/gone.yaml"]
    assert texts["configs/reference/r8.yaml"] == "# Measured here: not measured yet.\ntrainer: {}\n"
    assert re.fullmatch(
        r"# R9. Measured here: 80.00 % test, 81.25 % in the best epoch; JPEG images \(1 seed, begun on a GPU, 90 s on "
        r"1 CPU core; python -m benchmarks.accuracy reference/r9 --seeds 1 --first_seed 3 --data_root "
        r"data/cifar10-jpeg --output again; .*reference-r9-\*.json\).\ntrainer: \{\}\n",
        texts["configs/reference/r9.yaml"].replace("\n# ", " "),
    )
    # A second time nothing changes.
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert {f.relative_to(tmp_path).as_posix(): t for f, t in accuracy_table.generated(tmp_path).items()} == texts
    # Of a machine that it shared a timed epoch tells nothing, which may be of another one.
    settings, recipe = "trainer: {max_epochs: 50}", tmp_path / "configs" / "reference" / "r9.yaml"
    recipe.write_text(recipe.read_text().replace("trainer: {}", settings))
    timed = {"seconds": 1.0, "machine": {"threads": 2, "gpu": None}, "further_options": [], "settings": settings}
    write_timed_epochs(tmp_path, {"reference/r9": timed})
    for shared, said in (({}, "begun on a GPU, 90 s on 1 CPU core"), ({"at_once": 2}, "begun on a GPU")):
        run = {**best, "settings": settings, **shared}
        (folder / "reference-r9-jpeg-cpu-seed3.json").write_text(json.dumps(run))
        assert f"(1 seed, {said}; python -m" in accuracy_table.generated(tmp_path)[recipe].replace("\n# ", " ")


def write_timed_epochs(folder: Path, *rows: dict[str, Any]) -> None:
    """Writes what `benchmarks.epoch_limit` does: of a CPU with bfloat16, of its slow day, and of one without it."""
    for file, timed in zip(accuracy_figures.EPOCHS, (*rows, {}, {}, {}), strict=False):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps({"recipes": timed}))


@pytest.mark.parametrize(
    ("machine", "speeds", "where"),
    [
        ({}, [{"cpu_tflops": 0.4}, {"cpu_tflops": 0.4}], "2 CPU cores on a slow day"),
        ({}, [{"cpu_tflops": 0.4, "cpu_tflops_before": 0.4}], "2 CPU cores on a slow day"),
        ({}, [{"cpu_tflops": 0.4, "cpu_tflops_before": 0.9}], "2 CPU cores"),
        ({}, [{"cpu_tflops": 0.4}, {"cpu_tflops": 0.9}], "2 CPU cores"),
        ({}, [{"cpu_tflops": 0.4}, {}], "2 CPU cores"),
        ({"precision": "32-true"}, [{"cpu_tflops": 0.1}], "2 CPU cores in float32"),
        # What is slow is known of one kind of machine.
        ({"gpu": "large"}, [{"cpu_tflops": 0.4}], "large"),
        ({"threads": 4}, [{"cpu_tflops": 0.4}], "4 CPU cores"),
    ],
)
def test_a_cost_is_of_a_slow_day_where_the_machine_was_slow(
    machine: dict[str, Any], speeds: list[dict[str, float]], where: str, tmp_path: Path
) -> None:
    machine = {"threads": 2, "gpu": None, "precision": "bf16-mixed", **machine}
    runs = [result("net", machine=machine, **speed) for speed in speeds]
    assert accuracy_figures.own_cost("net", runs, tmp_path) == f"30 min on {where}"


@pytest.mark.parametrize(
    ("data", "said", "option"),
    [
        ("jpeg", "all 50,000 JPEG images", " --data_root data/cifar10-jpeg"),
        ("original", "all 50,000 CIFAR-10 images", ""),
        ("other-mine-012345", "all 50,000 images of other-mine-012345", " --data_root FOLDER"),
    ],
)
def test_a_header_names_the_images_and_how_to_have_it_again(data: str, said: str, option: str) -> None:
    header = accuracy_table.with_header("# Cost: not.\nx: 1\n", "net", "3 s", [result("net", accuracy=9.0, data=data)])
    header = header.replace("\n# ", " ")
    assert f"trained on {said} (" in header
    assert f"python -m benchmarks.accuracy net --seeds 1{option} --output again;" in header


def test_a_recipe_that_was_only_timed_says_what_it_costs(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    settings = "trainer: {max_epochs: 50}"
    (tmp_path / "configs" / "net.yaml").write_text(
        f"# Net.\n# Cost: not measured yet.\n# Accuracy: not measured yet.\n{settings}\n"
    )
    (tmp_path / "README.md").write_text("| `net` | 1 | 50 | not measured yet | not measured yet |\n")
    timed = {"seconds": 60.0, "machine": {"threads": 2, "gpu": None}, "further_options": [], "settings": settings}
    write_timed_epochs(tmp_path, {"net": timed})
    for _ in range(2):
        # A second time nothing changes.
        for file, text in accuracy_table.generated(tmp_path).items():
            file.write_text(text)
        row, header = ((tmp_path / name).read_text() for name in ("README.md", "configs/net.yaml"))
        assert row == "| `net` | 1 | 50 | about 50 min on 2 CPU cores | not measured yet |\n"
        assert header == f"# Net.\n# Cost: about 50 min on 2 CPU cores.\n# Accuracy: not measured yet.\n{settings}\n"
    # Its epochs take less than those that were timed.
    write_timed_epochs(tmp_path, {"net": {**timed, "smaller_images": "left out"}})
    assert "not measured yet | not measured yet" in accuracy_table.generated(tmp_path)[tmp_path / "README.md"]


def test_a_table_lays_ours_beside_the_published_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy_table, "RIVALS", {"r8": ("net", "larger", "unmeasured"), "r9": ("unmeasured",)})
    folder = tmp_path / accuracy_figures.RESULTS
    folder.mkdir(parents=True)
    (tmp_path / "configs" / "reference").mkdir(parents=True)
    for recipe in ("net", "larger", "unmeasured", "reference/r8", "reference/r9"):
        (tmp_path / "configs" / f"{recipe}.yaml").write_text("trainer: {}\n")
    log = {"val_accuracy": [0.7, 0.8123, 0.8], "seconds_an_epoch": 40}
    (tmp_path / accuracy_table.PUBLISHED).write_text(json.dumps({"r8": log, "r9": log}))
    for seed, value in enumerate((75.0, 76.0)):
        theirs = result("reference/r8", accuracy=70.0, best_epoch_accuracy=value)
        (folder / f"reference-r8-jpeg-cpu-seed{seed}.json").write_text(json.dumps(theirs))
        (folder / f"net-jpeg-cpu-seed{seed}.json").write_text(json.dumps(result("net", accuracy=value + 3)))
    # On other images, which says nothing of who is ahead here.
    for recipe, seed in [("net", 0), ("net", 1), ("net", 2), ("larger", 0)]:
        other = {**result(recipe, accuracy=90.0), "data": "original"}
        (folder / f"{recipe}-original-cpu-seed{seed}.json").write_text(json.dumps(other))
    head = "Text.\n\n| system | … |\n| --- | --- |\n"
    r8, r9 = (f"| [{name}](configs/reference/{name.lower()}.yaml) | 81.23 % |" for name in ("R8", "R9"))
    unknown = "not measured yet"
    table = (
        f"{head}{r8} 75.50 % (2 seeds) | 2 min | `net` | 78.50 % (2 seeds) | -2.73 | +3.00 | 30 min on 2 CPU cores |\n"
        f"{r9} {unknown} | 2 min | `unmeasured` | {unknown} | {unknown} | {unknown} | {unknown} |\n"
        "\nMore text.\n"
    )
    assert accuracy_table.with_comparison(f"{head}| old |\n| rows |\n\nMore text.\n", tmp_path) == table
    assert accuracy_table.with_comparison(f"{head}\nMore text.\n", tmp_path) == table
    assert accuracy_table.with_comparison(table, tmp_path) == table


def test_a_cost_is_a_median_on_one_machine_or_about_what_a_timed_epoch_says(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "net.yaml").write_text("trainer: {max_epochs: 50}\n")
    timed = {"seconds": 60.0, "machine": {"threads": 2, "gpu": None}, "further_options": []}
    row = {**timed, "settings": "trainer: {max_epochs: 50}"}
    small, large = ({"cpu": cpu, "threads": 2, "gpu": None} for cpu in ("small", "large"))

    def cost(*results: dict[str, Any], in_float32_too: bool = False, slow_day: float = 0, **changed: Any) -> str:
        slow = {"net": {**row, "seconds": slow_day}} if slow_day else {}
        old = {"seconds": 600.0, "machine": {"threads": 2, "gpu": None, "precision": "32-true"}}
        old = {"net": {**row, **old}} if in_float32_too else {}
        write_timed_epochs(tmp_path, {"net": {**row, **changed}}, slow, old)
        return accuracy_figures.cost("net", results, tmp_path)

    runs = [{"fit_seconds": seconds, "machine": large} for seconds in (600.0, 1200.0, 6000.0)]
    assert cost({"fit_seconds": 1.0, "machine": small}, *runs) == "20 min on 2 CPU cores"
    assert cost(*runs[1:2], {"fit_seconds": 1.0, "machine": small}) == "20 min on 2 CPU cores"
    shared = {"fit_seconds": 9999.0, "machine": small, "at_once": 2}
    assert cost(shared) == "about 50 min on 2 CPU cores"
    # What a CPU takes, wherever it was trained.
    assert cost({**shared, "machine": {**small, "gpu": "large"}}) == "about 50 min on 2 CPU cores"
    assert cost(shared, seconds=2.0) == "about 100 s on 2 CPU cores"
    # Of the recipe as it was, or with options.
    assert cost(shared, settings="trainer: {}") == "not measured yet"
    assert cost(shared, further_options=["--x"]) == "not measured yet"
    # Where the CPU lacks bfloat16, and only there.
    assert cost(shared, in_float32_too=True) == "about 50 min on 2 CPU cores"
    assert cost(shared, in_float32_too=True, settings="trainer: {}") == "about 8.3 h on 2 CPU cores in float32"
    # Of two days.
    assert cost(shared, slow_day=130, in_float32_too=True) == "about 50 to 108 min on 2 CPU cores"
    assert cost(shared, slow_day=2, seconds=1.0) == "about 50 to 100 s on 2 CPU cores"
    assert cost(shared, slow_day=2.5, seconds=2.4) == "about 2 min on 2 CPU cores"
    assert cost(shared, slow_day=130, settings="trainer: {}") == "about 108 min on 2 CPU cores on a slow day"
    # Rows of two machines are not of two days.
    assert cost(shared, slow_day=130, machine={"threads": 16, "gpu": None}) == "about 50 min on 16 CPU cores"
    assert not accuracy_figures.is_alike({"cpu_family": "25"}, {"cpu_family": "23"})
    assert accuracy_figures.is_alike({"cpu_family": "25"}, {})
    slow = {"fit_seconds": 600.0, "machine": {**small, "precision": "32-true"}}
    assert cost(slow) == "10 min on 2 CPU cores in float32"


def test_a_paragraph_says_how_far_apart_runs_come_out(tmp_path: Path) -> None:
    folder = tmp_path / accuracy_figures.RESULTS
    (tmp_path / accuracy_figures.FORMER).mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "net.yaml").write_text("trainer: {}\n")

    def write(name: str, recipe: str, *values: float, **changed: Any) -> None:
        for seed, value in enumerate(values):
            run = {**result(recipe, seed=seed, accuracy=value), **changed}
            (folder / f"{name}-seed{seed}.json").write_text(json.dumps(run))

    paragraph = f"{accuracy_table.SPREAD} gives\nsomething.\n\nMore.\n"
    # One run of each tells nothing, nor do runs with options or of what chose by images held out.
    write("once-jpeg-cpu", "once", 80.0)
    write("once-original-cpu", "once", 90.0, data="original")
    write("once-jpeg-cuda", "once", 70.0, settings="trainer: 3")
    write("former/once-jpeg-cpu", "once", 60.0, teacher_settings="trainer: 4")
    write("net-jpeg-cuda", "net", 1.0, 2.0, options=["--x"])
    write("net-jpeg-cpu-hold-out", "net", 1.0, 2.0)
    assert accuracy_table.with_spread(paragraph, tmp_path) == paragraph
    # Variances 0.02 and 0.09 of 1 and 2 degrees of freedom: pooled 0.2 / 3.
    write("former/net-jpeg-cpu", "net", 50.0, 50.3, settings="trainer: 2")
    write("net-original-cpu", "net", 50.6, settings="trainer: 2")
    write("net-jpeg-cpu", "net", 60.0, 60.2)
    deviation, apart, groups = accuracy_figures.spread(tmp_path) or pytest.fail("two runs tell something")
    assert deviation == pytest.approx((0.2 / 3) ** 0.5)
    # 3.182 is in every table of Student's distribution: two-sided 5 %, three degrees of freedom.
    assert apart == pytest.approx(3.182 * (2 * 0.2 / 3) ** 0.5, rel=1e-3)
    assert groups == [("net", True, 3), ("net", False, 2)]
    told = accuracy_table.with_spread(f"Text.\n\n{paragraph}", tmp_path)
    assert told.replace("\n", " ") == (
        f"Text.  {accuracy_table.SPREAD} gives somewhat more or less: in runs of the same settings and images (3 of "
        "`net` [as it was before](benchmarks/results/accuracy/former), 2 of `net`) the standard deviation of the plain "
        "accuracy is 0.26 points. So expect a run within **1.2 points** of another: 19 of 20 are, by Student's "
        "distribution.  More. "
    )
    assert max(map(len, told.splitlines())) <= accuracy_table.WIDTH
    assert accuracy_table.with_spread(told, tmp_path) == told
    assert accuracy_table.with_spread(f"{accuracy_table.SPREAD} at the end.\n", tmp_path) == told[7:-7]
    assert accuracy_table.with_spread("Nothing of it.\n", tmp_path) == "Nothing of it.\n"


def test_seeds_that_were_trained_in_another_way_are_counted() -> None:
    here, old = ({"machine": {"precision": precision}} for precision in ("bf16-mixed", "32-true"))
    there = {**here, "begun_on": "a GPU"}
    assert accuracy_figures.seeds([here]) == "1 seed"
    assert accuracy_figures.seeds([there, there]) == "2 seeds, begun on a GPU"
    assert accuracy_figures.seeds([here, there]) == "2 seeds, 1 of them begun on a GPU"
    assert accuracy_figures.seeds([here, old]) == "2 seeds, 1 of them in float32"
    assert accuracy_figures.seeds([old]) == "1 seed, in float32"


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


def test_a_student_costs_its_teacher_too_and_is_of_the_teacher_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / accuracy_figures.RESULTS
    folder.mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    (tmp_path / "README.md").write_text("")
    student, teacher = (tmp_path / "configs" / f"{name}.yaml" for name in ("student", "teacher"))
    settings = "trainer: {callbacks: [{class_path: Distillation, init_args: {teacher: teacher}}]}"
    student.write_text(f"# Student.\n# Cost: not.\n{settings}\n")
    teacher.write_text("trainer: {}\n")
    own = {"settings": settings, "teacher": "teacher", "teacher_settings": "trainer: {}"}
    (folder / "student-jpeg-cpu-seed0.json").write_text(json.dumps({**result("student", accuracy=90.0), **own}))
    (folder / "teacher-jpeg-cpu-seed0.json").write_text(json.dumps(result("teacher", accuracy=91.0)))

    def header() -> str:
        return accuracy_table.generated(tmp_path)[student].splitlines()[1]

    assert header() == "# Cost: 30 min on 2 CPU cores, after its teacher teacher's 30 min on 2 CPU cores."
    (folder / "teacher-jpeg-cpu-seed0.json").unlink()
    write_timed_epochs(tmp_path)
    assert header() == "# Cost: 30 min on 2 CPU cores, after its teacher teacher."
    teacher.write_text("trainer: {max_epochs: 1}\n")
    assert accuracy_figures.results_of("student", tmp_path) == []


@pytest.mark.parametrize(
    ("options", "counts"), [([], True), (["--model.compile_mode=default"], True), (["--x"], False)]
)
def test_a_run_counts_for_its_recipe_if_it_computed_the_same(tmp_path: Path, options: list[str], counts: bool) -> None:
    folder = tmp_path / accuracy_figures.RESULTS
    folder.mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "net.yaml").write_text("trainer: {}\n")
    (folder / "net-jpeg-cuda-seed0.json").write_text(json.dumps({**result("net"), "options": options}))
    assert bool(accuracy_figures.results_of("net", tmp_path)) == counts
