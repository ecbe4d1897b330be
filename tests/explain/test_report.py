"""The report as a file: that nothing in it can run or reach out, and that its numbers are the given ones."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifar_lit.explain.layers import LayerRow, LayerTable
from cifar_lit.explain.report import SUSPECTS, WORST, Report, choose_shown, render
from cifar_lit.explain.scoring import Predictions, calibration, class_scores, likely_label_errors, worst_errors

EVIL = '</script><img src=x onerror="alert(1)">&\'<!--'
NAMES = ("cat", "dog", "owl")
LAYERS = LayerTable(
    rows=(LayerRow(f"net.{EVIL}", "Conv2d", (3, 3), (1, 1), (1, 1), (16, 32, 32), 432, 0, 442_368, (3, 3), (1, 1)),),
    input_size=(3, 32, 32),
    trainable_parameters=432,
    batchnorm_statistics=0,
)


def some_predictions(count: int = 60, names: Sequence[str] = NAMES, right: float = 0.7) -> Predictions:
    """Of which about ``right`` are right."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(names), count)
    said = np.where(rng.random(count) < right, labels, rng.integers(0, len(names), count))
    logits = rng.normal(size=(count, len(names))) + 4 * np.eye(len(names))[said]
    if right == 1:
        logits = 20 * np.eye(len(names))[labels]
    return Predictions(labels, logits.astype(np.float32), tuple(names))


def some_report(
    predictions: Predictions | None = None,
    title: str = "resnet20",
    metrics: Mapping[str, float] | None = None,
    with_maps: bool = True,
    limit: int = 3000,
    **others: Any,
) -> Report:
    predictions = predictions or some_predictions()
    shown = choose_shown(predictions, limit)
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (len(predictions), 8, 8, 3), dtype=np.uint8)
    pixels = np.stack([np.asarray(Image.fromarray(image).resize((32, 32))) for image in coarse])
    maps = (pixels[shown, ..., 0] / 255).astype(np.float32) if with_maps else None
    if metrics is None:
        metrics = {"accuracy": float(predictions.correct.mean())}
    given = {"provenance": {}, "curves": {}, "layers": None, **others}
    return Report(title, predictions, pixels, shown, maps, maps, metrics, **given)


class Page(HTMLParser):
    """Every element's tag with its attributes, and the text in between."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.elements[-1][0] if self.elements else "", data.strip()))

    def text_of(self, tag: str) -> list[str]:
        return [text for last, text in self.texts if last == tag]

    @property
    def data(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(next(text for text in self.text_of("script") if text.startswith("{")))
        return content

    @property
    def words(self) -> str:
        return " ".join(" ".join(text for tag, text in self.texts if tag not in ("script", "style")).split())


def test_text_of_users_is_only_ever_text() -> None:
    report = some_report(
        some_predictions(names=(EVIL, "dog")),
        title=EVIL,
        metrics={f"{EVIL}/accuracy": 0.5},
        provenance={EVIL: EVIL},
        curves={f"{EVIL}/{EVIL}": [(0, 1.0), (1, 0.5)]},
        layers=LAYERS,
        curves_over=EVIL,
    )
    page, harmless = Page(render(report)), Page(render(some_report(some_predictions(names=("cat", "dog")))))
    assert "img" not in {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [attributes for tag, attributes in harmless.elements if tag == "script"]
    assert page.data["names"] == [EVIL, "dog"]
    assert EVIL in page.text_of("h1")
    assert f"net.{EVIL}" in page.text_of("th")


def test_the_page_may_run_its_own_script_and_fetch_nothing() -> None:
    html = render(some_report(layers=LAYERS))
    [policy] = [a["content"] for _, a in Page(html).elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(maxsplit=1) for rule in (policy or "").split(";"))
    [script] = re.findall(r'<script type="module">(.*?)</script>', html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    addresses = [a.get(name) or "" for _, a in Page(html).elements for name in ("src", "href") if name in a]
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "://" not in html
    assert "@import" not in html


def test_the_same_report_is_the_same_file() -> None:
    assert render(some_report(layers=LAYERS)) == render(some_report(layers=LAYERS))


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("accuracy", 0.9207, "92.07 %"),
        ("test/accuracy", 0.98615, f"{98.615:.2f} %"),
        ("ece", 0.0312, "3.12 %"),
        ("loss", 0.29346, "0.2935"),
        ("errors", 793, "793"),
        ("parameters", 272282.0, "272,282"),
    ],
)
def test_headline_figures_are_those_given(name: str, value: float, shown: str) -> None:
    page = Page(render(some_report(metrics={name: value})))
    assert [attributes["value"] for tag, attributes in page.elements if tag == "data"] == [str(value)]
    assert page.text_of("data") == [shown]


def test_the_matrix_counts_every_image_once() -> None:
    predictions = some_predictions(500)
    html = render(some_report(predictions))
    cells = re.findall(r'<td data-pair="(\d),(\d)"[^>]*>(\d*)</td>', html)
    assert len(cells) == 9
    assert sum(int(count or 0) for *_, count in cells) == 500
    for true, predicted, count in cells:
        assert int(count or 0) == predictions.confusion[int(true), int(predicted)]
    assert Page(html).data["confusion"] == predictions.confusion.tolist()


def test_classes_calibration_and_pairs_are_those_of_the_predictions() -> None:
    predictions = some_predictions(500)
    html = render(some_report(predictions))
    words = Page(html).words
    for score in class_scores(predictions.confusion, NAMES):
        figures = " ".join(f"{value:.2%}".replace("%", " %") for value in (score.recall, score.precision, score.f1))
        assert f"{score.name} {figures} {score.support}" in words
    # Shares of nothing are no zeros: no image is of the last class, and none is taken for it.
    few = Predictions(np.array([0, 1]), np.eye(3, dtype=np.float32)[[0, 1]], NAMES)
    assert f"{NAMES[2]} – – – 0" in Page(render(some_report(few))).words
    found = calibration(predictions.confidence, predictions.correct)
    marks = np.stack([found.edges[:-1], 1 - found.confidence, found.edges[1:]], axis=1)[found.counts > 0]
    drawn = re.findall(r'<path class="mark" d="M([\d.]+) ([\d.]+)H([\d.]+)"/>', html)
    np.testing.assert_allclose(np.array(drawn, float), 100 * marks)
    assert f"(ECE) is {100 * found.ece:.2f} %" in words
    counts = [predictions.confusion[int(t), int(p)] for t, p in re.findall(r'<li data-pair="(\d),(\d)"', html)]
    assert counts == sorted(predictions.confusion[~np.eye(3, dtype=bool)], reverse=True)


def test_layers_and_provenance_are_shown() -> None:
    words = Page(render(some_report(layers=LAYERS, provenance={"commit": "abc123", "seed": "0"}))).words
    assert "commit abc123 seed 0" in words
    assert "Conv2d 3 1 1 16×32×32 432 0 442,368 3 1" in words
    assert "432 trainable parameters" in words


def test_without_an_error_there_is_a_page_and_an_empty_gallery() -> None:
    page = Page(render(some_report(some_predictions(names=("cat", "dog"), right=1), metrics={"accuracy": 1.0})))
    assert page.text_of("data") == ["100.00 %"]
    assert "0 errors in 60 images of 2 classes" in page.words
    assert page.data["cards"]["index"] == page.data["suspects"] == page.data["sprites"]["sheets"]["picture"] == []
    assert "labels" not in {attributes.get("id") for _, attributes in page.elements}


def test_a_network_that_does_not_say_where_to_look_has_a_report() -> None:
    page = Page(render(some_report(with_maps=False)))
    assert page.data["sprites"]["sheets"]["predicted"] == []
    assert "Grad-CAM" not in page.words


def test_curves_reach_the_page_and_what_is_no_number_does_not_break_it() -> None:
    page = Page(render(some_report(curves={"train/loss": [(0, 1.0), (1, float("nan"))]})))
    assert page.data["charts"] == [{"range": [0, 1], "lines": [[[0, 1.0], [1, None]]]}]


def test_a_name_that_is_no_text_can_be_written() -> None:
    html = render(some_report(some_predictions(names=("caf\udce9", "dog"))))
    assert "caf?" in html
    html.encode("utf-8")


def test_the_gallery_holds_the_worst_errors_and_every_suspect() -> None:
    predictions = some_predictions(2000, names=tuple("abcdefgh"))
    everything = worst_errors(predictions, 2000)
    suspects = likely_label_errors(predictions, SUSPECTS)
    assert not set(suspects) <= set(everything[:50])  # else the next line shows nothing
    assert set(suspects) <= set(choose_shown(predictions, 50))
    room = SUSPECTS + WORST + 3 * 56
    shown = choose_shown(predictions, room)
    assert len(shown) == room
    # Of 56 pairs of classes three each.
    assert set(everything[: room - SUSPECTS - 3 * 56]) <= set(shown)
    assert (np.diff(predictions.losses[shown]) <= 0).all()
    pairs = list(zip(predictions.labels, predictions.predicted, strict=True))
    for pair in {pairs[index] for index in everything}:
        of_pair = [index for index in everything if pairs[index] == pair]
        assert set(of_pair[:3]) <= set(shown)
    # Where there is not room for three of each, the worst of each comes first.
    few = choose_shown(predictions, SUSPECTS + WORST + 56)
    assert {pairs[index] for index in few} == {pairs[index] for index in everything}
    assert choose_shown(predictions, 2000).tolist() == everything.tolist()
    assert len(choose_shown(predictions, 5)) == 5
    # What is called the errors of largest loss are these, however many pairs there are.
    many = some_predictions(3000, names=[str(i) for i in range(60)])
    chosen = choose_shown(many, WORST + SUSPECTS)
    assert set(worst_errors(many, WORST)) <= set(chosen)
    assert chosen[:WORST].tolist() == worst_errors(many, WORST).tolist()
    assert len(choose_shown(predictions, 0)) == 0


def test_the_section_on_labels_shows_the_surest_first() -> None:
    predictions = some_predictions(500)
    report = some_report(predictions, limit=100)
    positions = Page(render(report)).data["suspects"]
    assert report.shown[positions].tolist() == likely_label_errors(predictions, SUSPECTS).tolist()


def test_three_thousand_errors_of_a_hundred_classes_are_below_ten_megabytes() -> None:
    predictions = some_predictions(10_000, names=[f"a class with a long name, {n}" for n in range(100)], right=0.65)
    report = some_report(predictions, layers=LAYERS, curves={"train/loss": [(i, 1 / (i + 1)) for i in range(20_000)]})
    noise = np.random.default_rng(2).integers(0, 256, report.pixels.shape, dtype=np.uint8)
    assert len(report.shown) == 3000
    assert len(render(replace(report, pixels=noise)).encode()) < 10_000_000


def test_shapes_that_do_not_belong_together_are_named() -> None:
    good = some_report()
    assert good.maps_predicted is not None
    arguments: tuple[Any, ...] = (good.metrics, {}, {}, None)
    with pytest.raises(ValueError, match=r"pixels \(59, 32, 32, 3\) of 60 images"):
        Report("x", good.predictions, good.pixels[1:], good.shown, good.maps_predicted, good.maps_true, *arguments)
    with pytest.raises(ValueError, match=r"both must be \(\d+, 32, 32\)"):
        Report("x", good.predictions, good.pixels, good.shown, good.maps_predicted[1:], good.maps_true, *arguments)
    with pytest.raises(ValueError, match=r"both must be"):
        Report("x", good.predictions, good.pixels, good.shown, good.maps_predicted, None, *arguments)


def test_the_page_names_how_its_maps_were_made() -> None:
    report = some_report(some_predictions(50))
    assert "(Grad-CAM, <span" in render(report)
    assert "(RandomCAM, <span" in render(replace(report, maps_method="RandomCAM"))


def test_a_page_that_shows_no_error_has_no_section_on_labels() -> None:
    page = render(some_report(some_predictions(50), limit=0))
    assert "Most sure against their label" not in page
    assert 'href="#labels"' not in page
