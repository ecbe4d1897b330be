"""What `explain` writes agrees with itself and with `test`."""

import csv
import json
import re
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from colour_run import Colours, Run, train
from PIL import Image

from cifar_lit.classifier import Classifier
from cifar_lit.commands import explain as module
from cifar_lit.commands.evaluation import evaluate, gather_provenance, load_weights, normalised_images
from cifar_lit.commands.explain import explain
from cifar_lit.commands.learning_curves import learning_curves
from cifar_lit.data.images import Images
from cifar_lit.errors import UserError
from cifar_lit.explain.figures import tile_figure
from cifar_lit.explain.report import choose_shown
from cifar_lit.explain.scoring import Predictions, worst_errors
from cifar_lit.identity import fingerprint
from cifar_lit.logger import CurvesLogger
from cifar_lit.models import ResNetV1

FIGURES = {"calibration.png", "class_scores.png", "confusion.png", "curves.png", "errors_1.png"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def out(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "out"
    explain(run.trainer(), run.model(), run.data(), run.checkpoint, folder)
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_file_is_there_and_no_other(out: Path) -> None:
    assert {path.name for path in out.iterdir()} == {"report.html", "predictions.csv", "metrics.json", *FIGURES}
    for name in FIGURES:
        with Image.open(out / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 100


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_figures_are_those_of_test(run: Run, tmp_path: Path, precision: Any) -> None:
    model = run.model()
    explain(run.trainer(precision=precision), model, run.data(), run.checkpoint, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    reference = run.trainer(precision=precision)
    found = reference.test(run.model(), run.data(), ckpt_path=run.checkpoint, verbose=False)[0]
    assert np.float32(metrics["accuracy"]) == np.float32(found["test/accuracy"])
    assert metrics["loss"] == pytest.approx(found["test/loss"], rel=1e-6)
    assert 0.3 < metrics["accuracy"] < 1


def test_table_figures_and_page_agree(run: Run, out: Path) -> None:
    rows, metrics = rows_of(out), json.loads((out / "metrics.json").read_text())
    names = list(run.data().class_names)
    assert [int(row["index"]) for row in rows] == list(range(50))
    assert [names.index(row["true"]) for row in rows] == run.data().load("test").labels.tolist()
    assert "file" not in rows[0], "these images are no files"
    probabilities = np.array([[float(row[f"p_{name}"]) for name in names] for row in rows])
    true, predicted = ([names.index(row[key]) for row in rows] for key in ("true", "predicted"))
    assert probabilities.argmax(axis=1).tolist() == predicted
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-8)
    losses = np.array([float(row["loss"]) for row in rows])
    np.testing.assert_allclose(losses, -np.log(probabilities[range(50), true]), rtol=1e-6, atol=1e-8)
    assert not any(row["loss"].startswith("-") for row in rows)

    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (true, predicted), 1)
    assert metrics["confusion"] == confusion.tolist()
    assert metrics["images"] == confusion.sum() == 50
    assert metrics["errors"] == 50 - confusion.trace()
    assert metrics["accuracy"] == confusion.trace() / 50
    assert metrics["loss"] == pytest.approx(losses.mean(), rel=1e-8)
    assert [score["name"] for score in metrics["classes"]] == names
    assert [score["support"] for score in metrics["classes"]] == confusion.sum(axis=1).tolist()
    assert metrics["classes"][0]["recall"] == confusion[0, 0] / confusion[0].sum()
    assert 0 < metrics["ece"] < 1
    assert metrics["mean_confidence"] == pytest.approx(probabilities.max(axis=1).mean(), abs=1e-8)

    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"{metrics['accuracy']:.2%}".replace("%", " %") in page
    assert json.dumps(confusion.tolist(), separators=(",", ":")) in page
    assert metrics["provenance"]["test data SHA-256"] in page
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    cards = json.loads(content)["cards"]
    assert sorted(cards["index"]) == [index for index in range(50) if true[index] != predicted[index]]
    for place, index in enumerate(cards["index"]):
        assert (cards["true"][place], cards["predicted"][place]) == (true[index], predicted[index])
        assert cards["loss"][place] == losses[index]
        assert cards["true_probability"][place] == probabilities[index, true[index]]
        assert cards["top_probabilities"][place] == probabilities[index, cards["top"][place]].tolist()


def test_provenance(run: Run, out: Path, tmp_path: Path) -> None:
    found = json.loads((out / "metrics.json").read_text())["provenance"]
    assert found["recipe"] == "tiny"
    assert (found["epoch"], found["step"]) == ("2", "10")
    assert found["checkpoint"] == str(run.checkpoint)
    assert f"torch {version('torch')}" in found["trained with"]
    assert f"torch {torch.__version__}, precision 32-true" in found["evaluated with"]
    assert found["command"].startswith("cifar-lit")
    assert "precision 32-true" in found["machine"]
    assert found["test data SHA-256"] == fingerprint(run.data().load("test"))
    assert "trained beside test data SHA-256" not in found
    assert found["data"].endswith("Colours")
    # Away from its run a checkpoint tells less, and no more than it knows.
    content = {"epoch": 4, "hyper_parameters": {"_class_path": "a.Net"}, "datamodule_hyper_parameters": {"root": "b"}}
    found = gather_provenance(content, tmp_path / "alone.ckpt", None)
    assert (found["epoch"], found["model"], found["data root"]) == ("5", "a.Net", "b")
    assert not {"recipe", "seed", "step", "commit", "machine"} & set(found)
    # Saved behind the end of `fit`, where Lightning counts on.
    content |= {"epoch": 5, "loops": {"fit_loop": {"epoch_progress": {"current": {"ready": 5}}}}}
    assert gather_provenance(content, tmp_path / "alone.ckpt", None)["epoch"] == "5"
    # Of a resumed run the last start counts.
    resumed = {"provenance": [{"seed": 1, "commit": "a"}, {"seed": 2, "commit": None}]}
    assert gather_provenance(resumed, tmp_path / "alone.ckpt", None)["seed"] == "2"


def test_other_data_are_told_apart_from_those_of_the_run(run: Run, tmp_path: Path) -> None:
    class Others(Colours):
        root = "elsewhere"

        def load(self, split: Literal["train", "test"]) -> Images:
            images = super().load(split)
            return Images(images.pixels // 2, images.labels)

    explain(run.trainer(), run.model(), Others(), run.checkpoint, tmp_path, limit=0)
    found = json.loads((tmp_path / "metrics.json").read_text())["provenance"]
    assert found["test data SHA-256"] == fingerprint(Others().load("test"))
    assert found["trained beside test data SHA-256"] == fingerprint(run.data().load("test"))
    assert (found["data"].rpartition(".")[2], found["data root"]) == ("Others", "elsewhere")


def test_other_classes_or_another_order_are_an_error(run: Run, tmp_path: Path) -> None:
    class Renamed(Colours):
        class_names = ("red", "blue", "green, like grass")

    with pytest.raises(UserError, match=r"other classes .* \(green, like grass where they have blue\)"):
        explain(run.trainer(), run.model(), Renamed(), run.checkpoint, tmp_path)

    class Fewer(Colours):
        class_names = ("red", "green, like grass")

    with pytest.raises(UserError, match="has learnt other classes"):
        explain(run.trainer(), ResNetV1(8, num_classes=2), Fewer(), run.checkpoint, tmp_path)


def test_class_names_that_are_no_text_are_shown_as_far_as_they_are(run: Run, tmp_path: Path) -> None:
    class Odd(Colours):
        class_names = ("caf\udce9", "b|c", "<i>")

    content = torch.load(run.checkpoint, weights_only=True)
    for part in content.values():
        if isinstance(part, dict) and "class_names" in part:
            part["class_names"] = list(Odd.class_names)
    torch.save(content, tmp_path / "odd.ckpt")
    explain(run.trainer(), run.model(), Odd(), tmp_path / "odd.ckpt", tmp_path / "out")
    assert "p_caf\ufffd" in rows_of(tmp_path / "out")[0]
    assert "caf\ufffd" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_of_a_run_that_went_back_what_came_behind_is_no_part(tmp_path: Path) -> None:
    for values in ({5: 0.1, 9: 0.2, 14: 0.3, 30: 0.4}, {9: 0.5, 13: 0.3}):
        logger = CurvesLogger(str(tmp_path), name="r", version="v")
        for step, value in values.items():
            logger.log_metrics({"val/accuracy": value}, step)
        logger.finalize("success")
        time.sleep(1.1)  # event files are named by the second
    (found,) = learning_curves(tmp_path / "r" / "v").values()
    assert [step for step, _ in found] == [5, 9, 13]
    assert [value for _, value in found] == pytest.approx([0.1, 0.5, 0.3])


def test_curves_are_those_of_the_run(run: Run, tmp_path: Path) -> None:
    curves = learning_curves(run.folder)
    assert set(curves) == {"train/loss", "train/accuracy", "val/loss", "val/accuracy"}
    assert [step for step, _ in curves["val/accuracy"]] == [4, 9]
    assert all(0 <= value <= 1 for _, value in curves["train/accuracy"])
    assert learning_curves(tmp_path) == {}


def test_a_checkpoint_alone_has_no_curves(run: Run, tmp_path: Path) -> None:
    alone = tmp_path / "alone.ckpt"
    shutil.copy(run.checkpoint, alone)
    explain(run.trainer(), run.model(), run.data(), alone, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == FIGURES - {"curves.png"}


def test_maps_are_of_the_shown_images_and_of_both_classes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Over several batches.
    monkeypatch.setattr("cifar_lit.data.batches.EVALUATION_BATCH", 20)
    reports: list[Any] = []

    def maps(net: Any, layer: Any, images: torch.Tensor, classes: Any, method: str) -> Any:
        """What it is asked, as a map: the red of each image, and the class."""
        assert method == "LayerCAM"
        return images[:, 0].numpy() + 100 * classes[:, None, None]

    monkeypatch.setattr(module, "class_activation_maps", maps)

    def page(report: Any) -> str:
        reports.append(report)
        return "page"

    monkeypatch.setattr(module, "render", page)
    data = run.data()
    explain(run.trainer(), run.model(), data, run.checkpoint, tmp_path, method="LayerCAM", limit=3)
    (report,) = reports
    assert len(report.shown) == 3
    assert (report.predictions.predicted[report.shown] != report.predictions.labels[report.shown]).all()
    mean, std = data.state_dict()["mean"], data.state_dict()["std"]
    red = ((torch.from_numpy(report.pixels[report.shown]).permute(0, 3, 1, 2) - mean) / std)[:, 0].numpy()
    for found, classes in (
        (report.maps_predicted, report.predictions.predicted),
        (report.maps_true, report.predictions.labels),
    ):
        np.testing.assert_allclose(found, red + 100 * classes[report.shown][:, None, None], atol=1e-4)


def test_normalised_images_come_in_the_order_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Over several batches, of the last of which nothing is wanted.
    monkeypatch.setattr("cifar_lit.data.batches.EVALUATION_BATCH", 20)
    for executor in ("device", "workers"):
        data = run.data(executor=executor)
        data.setup()
        assert len(data.predict_dataloader()) == 3
        indices = np.array([25, 3, 0, 24, 3])
        whole = data.on_after_batch_transfer([torch.from_numpy(data.load("test").pixels)], 0)[0]
        torch.testing.assert_close(normalised_images(data, indices), whole[indices])


def test_a_module_without_a_layer_has_a_report_without_maps(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explain(run.trainer(), Classifier(run.model().net, num_classes=3), run.data(), run.checkpoint, tmp_path)
    assert "No Grad-CAM: Classifier names no cam_layer: add the property" in capsys.readouterr().out
    assert (tmp_path / "report.html").is_file()
    assert "class activation maps" not in json.loads((tmp_path / "metrics.json").read_text())["provenance"]


def test_a_few_errors_are_not_said_to_be_the_worst(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []

    def drawn(page: Any, title: str, *args: Any) -> Any:
        titles.append(title)
        return tile_figure(page, title, *args)

    monkeypatch.setattr(module, "tile_figure", drawn)
    for chosen in (choose_shown, lambda predictions, limit: worst_errors(predictions, 5)[2:]):
        monkeypatch.setattr(module, "choose_shown", chosen)
        explain(run.trainer(), run.model(), run.data(), run.checkpoint, tmp_path)
    assert titles == ["Errors of largest loss, 1 to 5", "Errors, 1 to 3"]


def test_nothing_wrong(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def perfect(*args: Any) -> Predictions:
        found = evaluate(*args)
        return Predictions(found.predicted, found.logits, found.class_names)

    monkeypatch.setattr(module, "evaluate", perfect)
    explain(run.trainer(), run.model(), run.data(), run.checkpoint, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["errors"] == 0
    assert not list(tmp_path.glob("errors_*"))


def test_a_second_time_replaces_its_own_files_only(run: Run, out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "out")
    for name, content in (("errors_2.png", b"of before"), ("mine.png", b"mine"), ("errors_of_mine.png", b"mine")):
        (tmp_path / "out" / name).write_bytes(content)
    (tmp_path / "out" / "metrics.json").write_text("{}")
    explain(run.trainer(), run.model(), run.data(), run.checkpoint, tmp_path / "out")
    for name in ("metrics.json", "predictions.csv", "report.html", *FIGURES):
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes(), name
    others = {path.name for path in (tmp_path / "out").iterdir()} - {path.name for path in out.iterdir()}
    assert others == {"mine.png", "errors_of_mine.png"}, "a picture of errors that there no longer are is gone"


def test_files_are_named_where_the_data_know_them(run: Run, tmp_path: Path) -> None:
    data = run.data()
    data.test_files = [Path(f"test/{i}.png") for i in range(50)]  # type: ignore[attr-defined]
    explain(run.trainer(), run.model(), data, run.checkpoint, tmp_path, limit=1)
    assert rows_of(tmp_path)[7]["file"] == "test/7.png"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    (index,) = re.findall(r'"cards":\{"index":\[(\d+)\]', page)
    assert f'"file":["test/{index}.png"]' in page


def test_checkpoints_that_do_not_fit(run: Run, tmp_path: Path) -> None:
    damaged, other, foreign = (tmp_path / name for name in ("damaged.ckpt", "other.ckpt", "foreign.ckpt"))
    damaged.write_bytes(run.checkpoint.read_bytes()[:-1000])
    torch.save({"a": 1}, foreign)
    torch.save({"state_dict": ResNetV1(14).state_dict()}, other)
    for checkpoint, message in ((damaged, "cannot be read"), (other, "another arch"), (foreign, "no checkpoint of a")):
        with pytest.raises(UserError, match=message):
            explain(run.trainer(), run.model(), run.data(), checkpoint, tmp_path / "out")
    with pytest.raises(UserError, match="another architecture than ResNetV1"):
        load_weights(run.model(num_classes=7), run.checkpoint)
    assert not list((tmp_path / "out").iterdir())


def test_where_nothing_can_be_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "evaluate", lambda *_: pytest.fail("minutes are spent before it is known"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write to .*Not a directory"):
        explain(run.trainer(), run.model(), run.data(), run.checkpoint, tmp_path / "file" / "out")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    # Not by chmod: an administrator may write everywhere.
    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UserError, match=r"Cannot write to .*Permission denied"):
        explain(run.trainer(), run.model(), run.data(), run.checkpoint, tmp_path)


def test_numbers_that_are_none(run: Run, tmp_path: Path) -> None:
    content = torch.load(run.checkpoint, weights_only=True)
    content["state_dict"]["net.fc.bias"][0] = float("nan")
    torch.save(content, tmp_path / "nan.ckpt")
    with pytest.raises(UserError, match="50 of 50 images"):
        explain(run.trainer(), run.model(), run.data(), tmp_path / "nan.ckpt", tmp_path)


def test_what_else_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No data is given"):
        explain(run.trainer(), run.model(), None, run.checkpoint, tmp_path)
    with pytest.raises(UserError, match="limit is -1"):
        explain(run.trainer(), run.model(), run.data(), run.checkpoint, tmp_path, limit=-1)
    with pytest.raises(UserError, match="2 devices are too many"):
        explain(run.trainer(devices=2), run.model(), run.data(), run.checkpoint, tmp_path)


def test_a_later_evaluation_is_no_part_of_how_it_learnt(tmp_path: Path) -> None:
    for evaluates, values in ((False, {5: 0.1, 9: 0.2}), (True, {9: 0.9})):
        logger = CurvesLogger(str(tmp_path), "r", "v", evaluates)
        for step, value in values.items():
            logger.log_metrics({"val/accuracy": value}, step)
        logger.finalize("success")
    assert [value for _, value in learning_curves(tmp_path / "r" / "v")["val/accuracy"]] == pytest.approx([0.1, 0.2])


def test_the_method_is_named(run: Run, tmp_path: Path) -> None:
    explain(run.trainer(), run.model(), run.data(), run.checkpoint, tmp_path, method="HiResCAM", limit=2)
    assert "(HiResCAM, <span" in (tmp_path / "report.html").read_text(encoding="utf-8")
    provenance = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["provenance"]
    assert provenance["class activation maps"] == "HiResCAM"
