"""What is drawn: pictures to the pixel, colours by cell, and the texts."""

import warnings
from io import BytesIO

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from cifar_lit.explain import fonts
from cifar_lit.explain.figures import (
    Tile,
    calibration_figure,
    class_scores_figure,
    confusion_figure,
    curves_figure,
    tile_figure,
    to_png,
    to_rgb,
)
from cifar_lit.explain.scoring import Calibration, ClassScore, calibration, class_scores

ONLY_IN_STIX = "\u1d81"
NAMES = tuple(f"class {c}" for c in range(10))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def check_layout(figure: Figure) -> None:
    """No text leaves the figure, and none runs into another; none is taken for a formula."""
    drawn = [text for text in figure.texts if text.get_text()]
    assert not any(text.get_parse_math() for text in drawn)
    to_rgb(figure)  # which lays the texts out
    boxes = np.array([text.get_window_extent().extents for text in drawn])
    for text, box in zip(drawn, boxes, strict=True):
        assert (box[:2] >= 0).all(), text
        assert (box[2:] <= figure.bbox.size).all(), text
    overlap = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    # Boxes have room for ascenders and descenders, which lines one above the other may share.
    overlapping = np.argwhere(np.triu((overlap > 3).all(axis=2), k=1)).tolist()
    assert [(drawn[a], drawn[b]) for a, b in overlapping] == []


def random_tiles(count: int, pictures: int, height: int = 32, width: int = 32) -> list[Tile]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, pictures, height, width, 3), dtype=np.uint8)
    return [Tile(list(stack), f"true automobile {i}%\npredicted automobile 100%") for i, stack in enumerate(pixels)]


def confusion_of(classes: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, 9, (classes, classes)) + 300 * np.eye(classes, dtype=np.int64)


def find(picture: NDArray[np.uint8], rgb: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """The places, as row and column, at which a picture stands in a figure."""
    height, width = picture.shape[:2]
    starts = np.argwhere((rgb == picture[0, 0]).all(axis=2))
    return [(y, x) for y, x in starts.tolist() if np.array_equal(rgb[y : y + height, x : x + width], picture)]


def test_letters_that_no_font_has_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = fonts._letters.__wrapped__
    monkeypatch.setattr(fonts, "families", lambda: ["DejaVu Sans"])
    monkeypatch.setattr(fonts, "_letters", letters)
    assert fonts.lacking(["cat", "Zoë", "кот", "two words", "✔\N{VARIATION SELECTOR-16}"]) is None
    said = fonts.lacking(["cat", "漢字"])
    assert said is not None
    assert "No font here has all letters of 漢字, which are drawn as boxes: install one" in said


def test_letters_that_one_font_lacks_are_those_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    fonts.families.cache_clear()
    monkeypatch.setattr(fonts, "get_font_names", lambda: ["Yu Gothic", "Comic Sans MS", "PingFang SC", "DejaVu Sans"])
    assert fonts.families() == ["DejaVu Sans", "PingFang SC", "Yu Gothic"]
    monkeypatch.setattr("cifar_lit.explain.figures.families", lambda: ["DejaVu Sans", "STIXGeneral"])
    # A letter of the second one, which the first one lacks.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_rgb(tile_figure(random_tiles(1, 1), f"{ONLY_IN_STIX} errors", 1))
    fonts.families.cache_clear()


def test_tiles_show_every_picture_enlarged_in_its_place() -> None:
    tiles = random_tiles(7, 2)
    figure = tile_figure(tiles, "Errors", columns=3, row_labels=["image", "map"])
    rgb = to_rgb(figure)
    assert rgb.dtype == np.uint8
    large = [[picture.repeat(5, axis=0).repeat(5, axis=1) for picture in tile.pictures] for tile in tiles]
    places = [[find(picture, rgb) for picture in pictures] for pictures in large]
    assert all(len(place) == 1 for stack in places for place in stack)
    first, second = np.array([[place[0] for place in stack] for stack in places]).transpose(1, 0, 2)
    assert (second > first).all(axis=0).tolist() == [True, False]  # below
    assert len(set(first[:, 0])) == 3  # rows, of three, three and one
    assert [len(set(first[rows, 0])) for rows in (slice(0, 3), slice(3, 6))] == [1, 1]
    assert first[0, 1] == first[3, 1] == first[6, 1] < first[1, 1] == first[4, 1] < first[2, 1]


def test_tiles_have_captions_a_title_and_labels() -> None:
    tiles = random_tiles(12, 3)
    figure = tile_figure(tiles, "Errors of $all$ kinds", columns=10, row_labels=["image", "predicted", "true"])
    assert texts(figure)[0] == "Errors of $all$ kinds"
    assert [text for text in texts(figure) if text.startswith("true ")] == [tile.caption for tile in tiles]
    assert texts(figure).count("predicted") == 2  # a label a row of tiles
    check_layout(figure)
    assert not tile_figure(tiles, "").texts[0].get_text()
    assert to_rgb(tile_figure(tiles[:1])).shape[1] < 200  # no room for columns that are not there


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (30, 23), (224, 224)])
def test_long_captions_and_titles_stay_in_the_figure(height: int, width: int) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    tiles = [Tile([pixels], "true " + "W" * 30 + " 12%\nshort"), Tile([pixels], "x" * 100)]
    figure = tile_figure(tiles, "A title that is wider than any two tiles of thirty-two pixels are", 5, ["y" * 50])
    check_layout(figure)
    long, short = texts(figure)[2].split("\n")
    assert long.startswith("true WWW")
    assert "…" in long
    assert long.endswith(" 12%")
    assert short == "short"


def test_confusion_has_counts_and_the_accuracy() -> None:
    confusion = confusion_of(10)
    confusion[3, 4] = 12_345
    confusion[2] = 0
    figure = confusion_figure(confusion, NAMES)
    drawn = texts(figure)
    assert sorted(text for text in drawn if text.isdigit()) == sorted(str(n) for n in confusion.flat if n)
    assert drawn[0] == f"{confusion.trace() / confusion.sum():.2%} of {confusion.sum():,} images right"
    assert all(drawn.count(name) == 2 for name in NAMES)
    assert {"true", "predicted"} <= set(drawn)
    check_layout(figure)


def test_rows_are_true_classes_and_errors_have_a_colour_of_their_own() -> None:
    figure = confusion_figure(np.array([[99, 1, 0], [0, 80, 0], [25, 0, 75]]), ("a", "b", "c"))
    assert texts(figure)[1] == "Blue: right. Red: wrong, darkest at 25.0% of a class."
    rgb: NDArray[np.int64] = to_rgb(figure).astype(np.int64)
    boxes = {text.get_text(): text.get_window_extent() for text in figure.texts}
    assert boxes["1"].y0 > boxes["80"].y0 > boxes["25"].y0
    assert boxes["1"].x0 > boxes["25"].x0

    def redness(number: str) -> int:
        red, _, blue = rgb[int(figure.bbox.height - boxes[number].y1), int(boxes[number].x0) - 7]
        return int(red - blue)

    assert redness("25") > 100
    assert redness("99") < -100
    # One error in a hundred is seen beside 25: on a scale without the root it would be 21.
    assert 30 < redness("1") < 60


@pytest.mark.parametrize("classes", [1, 2, 20, 21, 100, 250])
def test_confusion_of_any_number_of_classes(classes: int) -> None:
    names = tuple(f"{'long ' * (c % 9)}name {c}" for c in range(classes))
    figure = confusion_figure(confusion_of(classes), names)
    assert any(text.isdigit() for text in texts(figure)) == (classes <= 20)
    assert max(to_rgb(figure).shape) < 1500
    if classes <= 100:
        assert sum("name " in text or "…" in text for text in texts(figure)) == 2 * classes
    check_layout(figure)


def test_confusion_without_errors_or_images() -> None:
    legend = "Blue: right. Red: wrong, darkest at 0.0% of a class."
    for counts, title in (([3, 4], "100.00% of 7 images right"), ([0, 0], "0.00% of 0 images right")):
        assert texts(confusion_figure(np.diag(counts), NAMES[:2]))[:2] == [title, legend]


def test_class_scores_are_a_table() -> None:
    scores = [ClassScore("cat", 0.5, 1.0, 2 / 3, 1234), ClassScore("dog", None, 0.25, 0.123, 0)]
    figure = class_scores_figure(scores)
    headings, cat = ["precision", "recall", "F1", "support"], ["cat", "50.0%", "100.0%", "66.7%", "1,234"]
    assert sorted(texts(figure)) == sorted([*headings, *cat, "dog", "–", "25.0%", "12.3%", "0"])
    check_layout(figure)
    where = {text.get_text(): text.get_position() for text in figure.texts}
    assert where["cat"][1] == where["66.7%"][1] == where["1,234"][1] > where["dog"][1] == where["12.3%"][1]
    columns = {"precision": "50.0%", "recall": "100.0%", "F1": "66.7%", "support": "1,234"}
    assert all(where[heading][0] == where[number][0] for heading, number in columns.items())
    assert where["dog"][0] < where["–"][0] < where["25.0%"][0] < where["12.3%"][0] < where["0"][0]
    # Bars behind the numbers are as long as the shares.
    coloured = np.ptp(to_rgb(figure).astype(int), axis=2) > 30
    cat_bars, dog_bars = (coloured[int((1 - where[name][1]) * figure.bbox.height) - 8].sum() for name in ("cat", "dog"))
    assert cat_bars / dog_bars == pytest.approx((0.5 + 1 + 2 / 3) / (0.25 + 0.123), rel=0.05)


@pytest.mark.parametrize("classes", [1, 25, 26, 100])
def test_tables_of_any_number_of_classes(classes: int) -> None:
    names = tuple(f"{'long ' * (c % 9)}name {c}" for c in range(classes))
    figure = class_scores_figure(class_scores(confusion_of(classes), names))
    assert len(texts(figure)) == 5 * classes + 4 * -(-classes // 25)
    assert len({text for text in texts(figure) if "name" in text or "…" in text}) == classes
    assert max(to_rgb(figure).shape) < 2000
    check_layout(figure)


def test_calibration_shows_accuracy_counts_and_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 500)
    result = calibration(confidence, rng.random(500) < confidence**2, bins=10)
    figure = calibration_figure(result)
    upper, lower = figure.axes
    assert upper.get_title(loc="left") == f"Expected calibration error {result.ece:.2%}"
    accuracy, gaps = ([bar.get_height() for bar in bars] for bars in upper.containers)
    np.testing.assert_allclose(accuracy, np.nan_to_num(result.accuracy))
    np.testing.assert_allclose(gaps, np.nan_to_num(result.confidence - result.accuracy))
    assert [bar.get_height() for bar in lower.containers[0]] == result.counts.tolist()
    assert [bar.get_x() for bar in lower.containers[0]] == pytest.approx(result.edges[:-1].tolist())


def test_calibration_of_no_images() -> None:
    nothing: NDArray[np.float64] = np.zeros(0)
    empty: Calibration = calibration(nothing, nothing.astype(bool))
    assert to_rgb(calibration_figure(empty)).shape[2] == 3


def test_curves_of_one_measure_share_a_chart() -> None:
    curves = {
        "train/loss": [(0, 2.0), (10, 1.0)],
        "train/accuracy": [(0, 0.1), (10, 0.5)],
        "val/loss": [(10, 1.5)],
        "lr": [],
    }
    figure = curves_figure(curves, "Run $1", "step")
    loss, accuracy, lr = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy", "lr"]
    assert [line.get_label() for line in loss.lines] == ["train", "val"]
    assert loss.lines[0].get_xydata().tolist() == [[0, 2], [10, 1]]  # type: ignore[union-attr]
    assert loss.lines[1].get_marker() == "."  # a point is no line
    assert loss.lines[0].get_color() == accuracy.lines[0].get_color() != loss.lines[1].get_color()
    assert accuracy.get_legend() is not None
    assert lr.get_legend() is None
    assert lr.get_xlabel() == "step"
    assert figure.get_suptitle() == "Run $1"
    assert not any(text.get_parse_math() for text in figure.texts)
    to_rgb(figure)


def test_png_is_the_same_picture_and_the_same_bytes_every_time() -> None:
    def figure() -> Figure:
        return tile_figure(random_tiles(3, 2), "Title", 2)

    file = to_png(figure())
    assert file == to_png(figure())
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(file))), to_rgb(figure()))


def test_pyplot_knows_nothing_of_the_figures() -> None:
    before = pyplot.get_fignums()
    for figure in (
        tile_figure(random_tiles(1, 1)),
        confusion_figure(confusion_of(3), NAMES[:3]),
        curves_figure({"loss": [(0, 1.0)]}, "", "step"),
    ):
        to_png(figure)
    assert pyplot.get_fignums() == before
