"""What README.md says is so."""

import json
import re
import statistics
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks.accuracy_figures import results_of, spread
from benchmarks.accuracy_table import rounded_up
from benchmarks.measure import settings_of

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def of_results(name: str) -> Any:
    return json.loads((REPOSITORY / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_ci_runs_the_readmes_test_command() -> None:
    command = 'pip install -c constraints.txt -e ".[test]" && pytest -n 2 --dist loadfile'
    assert command in README
    # On lines of their own: with `set -e` a failure left of && would be passed over. What runs meanwhile is apart, and
    # a failure of the tests is kept until that has ended, too.
    lines = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    lines = [line for line in lines if line != "wait" and not line.startswith("#") and not line.endswith("&")]
    first = lines.index(command.split(" && ")[0].replace("pip install", "pip install -q"))
    assert lines[first + 1] == f"{command.split(' && ')[1]} || failed=$?"
    assert lines[-1] == 'exit "${failed:-0}"'


def test_the_table_names_every_recipe_with_its_parameters_and_epochs() -> None:
    found = re.findall(r"^\| `(\w+)`.*?\| ([\d,]+) \| (\d+) \|", README, re.MULTILINE)
    rows = {name: (parameters, epochs) for name, parameters, epochs in found}
    recipes = {path.stem: path.read_text(encoding="utf-8") for path in (REPOSITORY / "configs").glob("*.yaml")}
    assert rows.keys() == recipes.keys()
    for name, text in recipes.items():
        parameters, epochs = rows[name]
        assert f"{parameters} parameters, {epochs} epochs" in text, name
        assert yaml.safe_load(text)["trainer"]["max_epochs"] == int(epochs), name


def test_what_is_generated_has_its_place() -> None:
    # Where there is none, `benchmarks.accuracy_table` has nothing to say.
    for beginning in (r"\| system ", r"Another seed, or another machine,"):
        assert len(re.findall(rf"^{beginning}", README, re.MULTILINE)) == 1
    for file in (REPOSITORY / "configs").rglob("*.yaml"):
        of_reference = file.parent.name == "reference"
        for line in ["In the first", "Measured here: "] if of_reference else ["Cost: ", "Accuracy: "]:
            assert len(re.findall(f"^# {line}", file.read_text(encoding="utf-8"), re.MULTILINE)) == 1, (file, line)


def test_recipes_say_of_tries_what_was_tried() -> None:
    seen = 0
    for file in sorted((REPOSITORY / "configs").rglob("*.yaml")):
        for comment in re.findall(r"(?:^ *#.*\n)+", file.read_text(encoding="utf-8"), re.MULTILINE):
            # A header says nothing of tries.
            for name in set(re.findall(r"benchmarks/results/(tuning-[\w-]+)\.json", comment)) - {"tuning-speed-sizes"}:
                # Rounded up from the middle, which binary numbers miss.
                reached = {f"{one['val_accuracy'] + 1e-9:.1f}" for one in of_results(name)["tries"]}
                told = re.findall(r"\b\d\d\.\d\b", comment)
                assert len(told) >= 2, file
                assert set(told) <= reached, file
                seen += 1
    assert seen >= 10


def test_every_file_that_it_names_exists() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"\b((?:configs|cifar_lit|docs)/[\w./]+\.\w+)", README)
    assert named
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_constraints_are_plain_pins() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!]+", line) for line in lines)


def test_the_quickstarts_figures_are_of_its_recipe() -> None:
    found = of_results("quickstart")
    assert found["settings"] == settings_of(REPOSITORY / "configs" / "quickstart.yaml")
    worst, best = min(found["test_accuracy"]), max(found["test_accuracy"])
    reached = f"{found['mean_test_accuracy']:.1f} % test ({worst:.1f} to {best:.1f})"
    figures = f"{found['median_seconds']:.0f} s on 2 CPU cores | {reached} ([{len(found['seconds'])} seeds]("
    assert figures in README
    recipe = (REPOSITORY / "configs" / "quickstart.yaml").read_text(encoding="utf-8")
    assert (
        f"# Cost: {found['median_seconds']:.0f} s on 2 CPU cores; no download.\n# Accuracy: {reached} after" in recipe
    )
    assert f"({len(found['seconds'])} seeds; {found['command']};" in recipe


def test_it_says_what_the_choice_by_held_out_images_reaches() -> None:
    (file,) = re.findall(r"\]\((benchmarks/results/accuracy/\S+-hold-out-\S+\.json)\)", README)
    found = json.loads((REPOSITORY / file).read_text(encoding="utf-8"))
    assert found["settings"] == settings_of(REPOSITORY / "configs" / f"{found['recipe']}.yaml")
    best, last = found["best_by_validation_accuracy"], found["accuracy"]
    assert f"{best:.2f}" == f"{last:.2f}"
    command = f"`{found['command']} --output again`"
    said = f"both that epoch and the last one have {last:.2f} % on the test split ({command})."
    assert said in README.replace("\n", " ")


def test_it_says_of_a_gpu_what_was_measured_there() -> None:
    found = of_results("gpu-nvidia-h200")
    race, epochs = found["race"]["speed"], found["epochs"]
    # A first run did not note them yet.
    now = settings_of(REPOSITORY / "configs" / "speed_gpu.yaml")
    assert found["race"].get("settings", now) == now
    assert (
        f"{race['median_seconds']:.1f} s alone, {race['mean_accuracy_multi_view']:.1f} % with six views on JPEG images "
        f"(8 epochs, {len(race['seconds'])} seed)" in README
    )
    reached = f"{race['mean_accuracy']:.2f} % test, {race['mean_accuracy_multi_view']:.2f} % with six views; "
    cost = f"{race['median_seconds']:.1f} s on an H200 by the race's clock"
    assert f"{cost} (below), compiled before | {reached}JPEG images" in README
    recipe = (REPOSITORY / "configs" / "speed_gpu.yaml").read_text(encoding="utf-8")
    assert f"# Accuracy: {reached}trained on all 50,000 JPEG images" in recipe
    assert f"# Cost: {cost}," in recipe
    resnet20, resnet18 = (
        epochs[f"{network}, compiled"]["seconds"] for network in ("resnet20, batch 1024", "resnet18, batch 512")
    )
    assert f"{resnet20:.2f} s, {resnet18:.2f} s (compiled, batches of 1,024 and 512;" in README


def test_it_says_of_a_page_what_the_page_says() -> None:
    (name,) = re.findall(r"benchmarks/results/(page-\w+)\.json", README)
    page = of_results(name)
    # Of the run whose accuracy the table has.
    recipe = name.removeprefix("page-")
    (accuracy,) = (run["accuracy"] for run in results_of(recipe, REPOSITORY) if run["seed"] == int(page["seed"]))
    assert 100 * page["accuracy"] == pytest.approx(accuracy, abs=0.005)
    names, confusion = [one["name"] for one in page["classes"]], page["confusion"]
    (said,) = [text for text in README.replace("\n", " ").split("  ") if name in text]
    hardest = min(page["classes"], key=lambda one: one["recall"])
    assert f"{page['errors']:,} errors in {page['images']:,}. {hardest['name'].capitalize()}s are the hardest" in said
    assert f"{100 * hardest['recall']:.1f} % of them are found" in said
    assert (
        f"{100 * page['mean_confidence']:.1f} % sure on average where {100 * page['accuracy']:.1f} % are right" in said
    )
    pairs = sorted(
        combinations(range(len(names)), 2), key=lambda pair: -confusion[pair[0]][pair[1]] - confusion[pair[1]][pair[0]]
    )
    (a, b), *others = pairs[:4]
    (first, second), share = (confusion[b][a], confusion[a][b]), (confusion[a][b] + confusion[b][a]) / page["errors"]
    words = f"{first} {names[b]}s pass for {names[a]}s and {second} {names[a]}s for {names[b]}s"
    assert words in said
    assert f"these two cells of the matrix hold {100 * share:.0f} % of all errors" in said
    for i, j in others:
        ways = (f"{confusion[i][j]} and {confusion[j][i]}", f"{confusion[j][i]} and {confusion[i][j]}")
        assert any(f"({way})" in said for way in ways), (names[i], names[j])


def test_its_other_figures_are_those_of_the_files_that_it_links() -> None:
    said = " ".join(README.split())
    found = of_results("explain")
    took = f"[{found['median_seconds']:.0f} s and {found['peak_memory_gb']:.1f} GB](benchmarks/results/explain.json)"
    assert took in said
    kills = [part for part in of_results("survival").values() if isinstance(part, dict) and "kills" in part]
    total, equal = (sum(part[name] for part in kills) for name in ("kills", "equal_to_the_bit"))
    assert f"Of {total} runs killed" in said
    assert f"[all {equal}](benchmarks/results/survival.json)" in said
    fuzz = of_results("fuzz")
    assert f"Of {sum(fuzz['ends'].values())} runs with random settings" in said
    trained = fuzz["ends"]["run"]
    assert f"{trained} trained, {fuzz['ends']['line']} ended in one line that says what to do" in said
    assert f"{fuzz['ends']['unforeseen line']} in one that names the place in the code" in said
    assert fuzz["ends"].keys() == {"run", "line", "unforeseen line"}
    assert fuzz["failures"] == []
    measured = spread(REPOSITORY)
    assert measured is not None
    assert f"one below {rounded_up(measured[1]):.1f} (above) may be luck" in said
    afresh = 100 * max(of_results("published_logs")["r5_afresh"]["val_accuracy"])
    (here,) = results_of("reference/r5", REPOSITORY)
    ours = statistics.mean(run["accuracy"] for run in results_of("depthwise", REPOSITORY))
    ahead, behind = afresh - here["best_epoch_accuracy"], ours - afresh
    link = f"[{afresh:.2f} %](benchmarks/results/published_logs.json)"
    assert f"{link}: {ahead:.1f} points above what it reaches here, and {behind:.1f} below `depthwise`" in said
    fast, slow, in_float32 = (of_results(f"epoch_limit-cpu{day}")["recipes"] for day in ("", "-slow_day", "-float32"))
    times = max(slow[name]["seconds"] / fast[name]["seconds"] for name in fast if name in slow)
    assert f"up to {times:.1f} times as fast" in said
    minutes = {name: round(in_float32[name]["seconds"] / 60) for name in ("resnet20", "depthwise", "dilated_separable")}
    assert minutes["depthwise"] == minutes["dilated_separable"]
    needs = (
        f"need {minutes['resnet20']} min for an epoch of `resnet20` and {minutes['depthwise']} for one of `depthwise`"
    )
    assert needs in said
    for name in ("step_parts-cpu", "step_parts-cpu-float32"):
        parts = [row["host_ms_by_part"] for row in of_results(name)["recipes"].values()]
        shares = [round(100 * (part["forward"] + part["backward"]) / sum(part.values())) for part in parts]
        assert f"[{min(shares)} to {max(shares)} %](benchmarks/results/{name}.json)" in said
    overhead = of_results("loop_overhead-cpu")
    assert f"[{overhead['fit_over_bare_loop']:.1f} times](benchmarks/results/loop_overhead-cpu.json)" in said
    assert f"a bare loop's, {overhead['fit_adds_milliseconds']:.1f} ms more" in said


def test_it_says_how_fast_a_cpu_was() -> None:
    said = " ".join(README.split())
    ratios = of_results("input_pipeline-cpu")["ratios"]
    for ours, other in (("R4", "albumentations"), ("crop and flip", "torchvision")):
        alone, workers = (ratios[f"{ours}, device executor over {other}{where}"] for where in ("", " in two workers"))
        link = f"[{alone:.1f} times](benchmarks/results/input_pipeline-cpu.json)"
        assert f"| {link}, beside it in two workers {workers:.1f} times |" in said
    loop, compiled = (of_results(f"training_loop-cpu{of}") for of in ("", "-compiled"))
    assert f"| [{loop['fit_over_bare_loop']:.2f}](benchmarks/results/training_loop-cpu.json) |" in said
    earlier = {name: of_results(name) for name in (f"training_loop-cpu-earlier-{number}" for number in (1, 2, 3))}
    first, second, third = (
        f"[{one['fit_over_conventional']:.1f}](benchmarks/results/{name}.json)" for name, one in earlier.items()
    )
    median = statistics.median(one["fit_over_conventional"] for one in (loop, *earlier.values()))
    assert (
        f"| [{loop['fit_over_conventional']:.1f} times](benchmarks/results/training_loop-cpu.json), in runs before it "
        f"on the same day {first}, {second} and {third}; median {median:.2f} |" in said
    )
    # The recipe as it is.
    now = settings_of(REPOSITORY / "configs" / "resnet20.yaml")
    for one in (loop, *earlier.values()):
        assert (one["date"], one["settings"]) == (loop["date"], now)
    gain = compiled["bare_loop_over_not_compiled"]
    assert f"| [{gain:.2f} times as fast](benchmarks/results/training_loop-cpu-compiled.json) |" in said
    found = of_results("time_to_accuracy-speed-cpu")
    assert found["settings"] == settings_of(REPOSITORY / "configs" / "speed.yaml")
    reached = f"{found['median_fit_seconds'] / 60:.0f} min and reached {found['mean_accuracy_multi_view']:.1f} %"
    assert f"[{reached}](benchmarks/results/time_to_accuracy-speed-cpu.json) on a slow day" in said
    former = of_results("accuracy/former/speed-jpeg-cpu-seed0")["accuracy_multi_view"]
    assert f"[{former:.1f} %](benchmarks/results/accuracy/former/speed-jpeg-cpu-seed0.json), and [its epochs]" in said
    epoch = of_results("epoch_limit-cpu-slow_day")["recipes"]["speed"]["seconds"]
    recipe = yaml.safe_load((REPOSITORY / "configs" / "speed.yaml").read_text(encoding="utf-8"))
    assert f"alone take {recipe['trainer']['max_epochs'] * epoch / 60:.0f} min" in said


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    few = 'max_epochs=1, limit_train_batches=2, accelerator="cpu", enable_progress_bar=False'
    shorter = code.replace("max_epochs=12", few)
    assert shorter != code
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        # Lightning's, of an epoch that is shorter than the logging interval.
        warnings.simplefilter("ignore")
        exec(compile(shorter, "README.md", "exec"), names)
    (batch,) = names["probabilities"]
    assert (batch.shape, batch.dtype) == ((359, 10), torch.float32)
    assert batch.sum(dim=1) == pytest.approx(1, abs=1e-5)
