"""Figures of what a network gets right and wrong, as matplotlib figures that pyplot knows nothing of.

Laid out in pixels. What repeats is one array of pixels: an axes costs matplotlib more time than thousands of them.
"""

from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray
from PIL import Image

from cifar_lit.explain.fonts import families
from cifar_lit.explain.scoring import Calibration, ClassScore, percent

# A power of two: pixels divided into inches and multiplied again are the same number of pixels.
DPI = 64
POINTS_A_PIXEL = 72 / DPI
CHART_DPI = 128  # at which matplotlib's own sizes suit charts of 6 inches

INK, QUIET, RIGHT, WRONG = "#222222", "#777777", "#8fb8de", "#c8323f"
SIZE, SMALL, LARGE = 12, 11, 16  # of letters, in pixels
LINE, MARGIN = 16, 12  # from a line of text to the next; around what is drawn

TILE = 160  # least width of a tile
GAP_X, GAP_Y = 20, 4  # between tiles, and between the pictures of one
NAME = 130  # greatest width of a class name
CELL = 46  # side of a confusion matrix's cell that holds a number
MOST_NUMBERED = 20  # classes up to which it does
MATRIX = 1200  # side of larger matrices: 100 classes have room for their names
ROWS_A_BLOCK, ROW, COLUMN = 25, 22, 76


def to_rgb(figure: Figure) -> NDArray[np.uint8]:
    """A figure's pixels, uint8 (H, W, 3)."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def to_png(figure: Figure) -> bytes:
    """A figure as a PNG file; the same figure, the same bytes."""
    file = BytesIO()
    Image.fromarray(to_rgb(figure)).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Tile:
    """Pictures of one image.

    Args:
        pictures: uint8 (H, W, 3), RGB; stacked from top to bottom.
        caption: Stands below them; may have several lines.
    """

    pictures: Sequence[NDArray[np.uint8]]
    caption: str


def tile_figure(tiles: Sequence[Tile], title: str = "", columns: int = 5, row_labels: Sequence[str] = ()) -> Figure:
    """Tiles in rows of ``columns``, enlarged without smoothing; captions are shortened to their tile.

    Args:
        tiles: At least one; all with as many pictures, and all pictures of the same size.
        title: Stands above them.
        columns: Tiles in a row.
        row_labels: What the stacked pictures are, from top to bottom; stands at the left of each row.
    """
    height, width = tiles[0].pictures[0].shape[:2]
    scale = max(1, TILE // width)
    height, width = height * scale, width * scale
    lines = max(tile.caption.count("\n") + 1 for tile in tiles)
    step_x = max(width, TILE) + GAP_X
    step_y = len(tiles[0].pictures) * (height + GAP_Y) + lines * LINE + MARGIN
    left = MARGIN + (LINE + 4 if row_labels else 0)
    top = MARGIN + (LINE + MARGIN if title else 0)
    columns = min(columns, len(tiles))
    figure_width = max(left + columns * step_x, 2 * MARGIN + _text_width(title, LARGE))
    figure, pixels = _canvas(figure_width, top + ceil(len(tiles) / columns) * step_y)
    _text(figure, MARGIN, MARGIN, title, LARGE)
    for place, tile in enumerate(tiles):
        x, y = left + place % columns * step_x, top + place // columns * step_y
        for i, picture in enumerate(tile.pictures):
            at = y + i * (height + GAP_Y)
            pixels[at : at + height, x : x + width] = picture.repeat(scale, axis=0).repeat(scale, axis=1)
            if place % columns == 0 and i < len(row_labels):
                label = _shortened(row_labels[i], height, SMALL)
                _text(figure, MARGIN, at + height / 2, label, SMALL, va="center", rotation=90, color=QUIET)
        caption = "\n".join(_shortened(line, step_x - MARGIN) for line in tile.caption.split("\n"))
        _text(figure, x, y + step_y - MARGIN - lines * LINE, caption)
    figure.figimage(pixels, origin="upper")
    return figure


def confusion_figure(confusion: NDArray[np.int64], class_names: Sequence[str]) -> Figure:
    """A confusion matrix: right ones blue, errors red on a scale of their own, both by their share of the true class.

    Args:
        confusion: Number of images, int64 (C, C): a row a true class, a column a predicted one.
        class_names: C names.
    """
    classes, total = len(class_names), confusion.sum()
    worst, colours = _shades(confusion)
    numbered = classes <= MOST_NUMBERED
    cell, size = (CELL, SIZE) if numbered else (max(MATRIX // classes, 1), SMALL)
    names = [_shortened(name, NAME, size) for name in class_names]
    margin = 2 * MARGIN + LINE + max(_text_width(name, size) for name in names)
    top, side = 2 * MARGIN + 2 * LINE, cell * classes
    title = f"{confusion.trace() / max(total, 1):.2%} of {total:,} images right"
    legend = f"Blue: right. Red: wrong, darkest at {worst:.1%} of a class."
    width = max(margin + side + MARGIN, 2 * MARGIN + _text_width(legend))
    figure, pixels = _canvas(width, top + side + margin)
    _text(figure, MARGIN, MARGIN, title, LARGE)
    _text(figure, MARGIN, MARGIN + LINE + 4, legend, SMALL, color=QUIET)
    _text(figure, MARGIN, top + side / 2, "true", va="center", rotation=90, color=QUIET)
    _text(figure, margin + side / 2, top + side + margin - MARGIN, "predicted", ha="center", va="bottom", color=QUIET)
    every = ceil(SMALL / cell)  # where cells are smaller than letters, not every class has room for its name
    for c in range(0, classes, every):
        middle = (c + 0.5) * cell
        _text(figure, margin - 4, top + middle, names[c], size, ha="right", va="center")
        _text(figure, margin + middle, top + side + 4, names[c], size, ha="center", rotation=90)
    for row, column in np.argwhere(confusion) if numbered else ():
        x, y = margin + (column + 0.5) * cell, top + (row + 0.5) * cell
        colour = "white" if colours[row, column].mean() < 140 else INK
        _text(figure, x, y, f"{confusion[row, column]}", ha="center", va="center", color=colour)
    pixels[top : top + side, margin : margin + side] = colours.repeat(cell, axis=0).repeat(cell, axis=1)
    figure.figimage(pixels, origin="upper")
    return figure


def _shades(confusion: NDArray[np.int64]) -> tuple[float, NDArray[np.uint8]]:
    """The largest share of a class that is taken for another, and the colours of the cells, uint8 (C, C, 3)."""
    right = np.eye(len(confusion), dtype=bool)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    worst = share[~right].max(initial=0)
    # The root lets rare errors show beside common ones.
    red = matplotlib.colormaps["Reds"](0.75 * np.sqrt(share / max(worst, 1e-9)), bytes=True)
    blue = matplotlib.colormaps["Blues"](0.75 * share, bytes=True)
    return worst, np.where(right[..., None], blue, red)[..., :3]


def class_scores_figure(scores: Sequence[ClassScore]) -> Figure:
    """A table of precision, recall, F1 and support, a row a class; beyond 25 classes in several blocks."""
    blocks = ceil(len(scores) / ROWS_A_BLOCK)
    rows = ceil(len(scores) / blocks)
    names = [_shortened(score.name, NAME) for score in scores]
    name_width = MARGIN + max(_text_width(name) for name in names)
    block_width = name_width + 4 * COLUMN + 2 * MARGIN
    figure, pixels = _canvas(MARGIN + blocks * block_width, (rows + 1) * ROW + 2 * MARGIN)
    bar = matplotlib.colormaps["Blues"](0.25, bytes=True)[:3]
    for block in range(blocks):
        left = MARGIN + block * block_width
        rights = [left + name_width + (i + 1) * COLUMN - 8 for i in range(4)]
        for right, heading in zip(rights, ("precision", "recall", "F1", "support"), strict=True):
            _text(figure, right, MARGIN + ROW / 2, heading, SMALL, ha="right", va="center", color=QUIET)
        part = slice(block * rows, (block + 1) * rows)
        for row, (name, score) in enumerate(zip(names[part], scores[part], strict=True)):
            y = MARGIN + (row + 1) * ROW
            _text(figure, left, y + ROW / 2, name, va="center")
            _text(figure, rights[3], y + ROW / 2, f"{score.support:,}", ha="right", va="center")
            for right, share in zip(rights, (score.precision, score.recall, score.f1), strict=False):
                start = right - COLUMN + 12
                pixels[y + 2 : y + ROW - 2, start : start + round((share or 0) * (COLUMN - 10))] = bar
                _text(figure, right, y + ROW / 2, percent(share), ha="right", va="center")
    figure.figimage(pixels, origin="upper")
    return figure


def calibration_figure(calibration: Calibration) -> Figure:
    """A reliability diagram (Guo et al. 2017, arXiv:1706.04599): accuracy by confidence above the number of images."""
    figure = Figure((6, 7), dpi=CHART_DPI, layout="constrained")
    upper, lower = figure.subplots(2, height_ratios=[3, 1], sharex=True)
    style: dict[str, Any] = {"x": calibration.edges[:-1], "width": np.diff(calibration.edges), "align": "edge"}
    accuracy, confidence = np.nan_to_num(calibration.accuracy), np.nan_to_num(calibration.confidence)
    upper.bar(height=accuracy, color=RIGHT, edgecolor="white", label="accuracy", **style)
    gap = {"color": "none", "edgecolor": WRONG, "hatch": "///", "label": "gap to the mean confidence"}
    upper.bar(height=confidence - accuracy, bottom=accuracy, **gap, **style)
    upper.plot([0, 1], [0, 1], "--", color=QUIET, label="as often right as sure")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.set_title(f"Expected calibration error {calibration.ece:.2%}", loc="left")
    upper.legend(loc="upper left")
    lower.bar(height=calibration.counts, color=RIGHT, edgecolor="white", **style)
    lower.set(xlabel="confidence", ylabel="images")
    return figure


def curves_figure(curves: Mapping[str, Sequence[tuple[int, float]]], title: str, xlabel: str) -> Figure:
    """Curves by name, at least one, each as points (x, y).

    Those of the same last part, such as ``train/loss`` and ``val/loss``, share a chart.
    """
    charts: dict[str, dict[str, Sequence[tuple[int, float]]]] = {}
    for name, points in curves.items():
        line, _, measure = name.rpartition("/")
        charts.setdefault(measure, {})[line] = points
    lines = list(dict.fromkeys(line for chart in charts.values() for line in chart))
    figure = Figure((8, 0.5 + 3 * len(charts)), dpi=CHART_DPI, layout="constrained")
    figure.suptitle(title, parse_math=False)
    grid = figure.subplots(len(charts), sharex=True, squeeze=False)[:, 0]
    for axes, (measure, chart) in zip(grid, charts.items(), strict=True):
        for line, points in chart.items():
            # A line of one point would not show.
            style = {"color": f"C{lines.index(line)}", "marker": "." if len(points) == 1 else ""}
            axes.plot(*np.reshape(points, (-1, 2)).T, label=line, **style)
        axes.set_ylabel(measure)
        axes.grid(alpha=0.3)
        if any(chart):
            axes.legend()
    grid[-1].set_xlabel(xlabel)
    return figure


def _canvas(width: int, height: int) -> tuple[Figure, NDArray[np.uint8]]:
    """An empty figure of a size in pixels, and white pixels, uint8 (height, width, 3), to lay under its texts."""
    figure = Figure((width / DPI, height / DPI), dpi=DPI, facecolor="white")
    return figure, np.full((height, width, 3), 255, np.uint8)


def _text(figure: Figure, x: float, y: float, text: str, size: float = SIZE, **kwargs: Any) -> None:
    """Writes text at a place in pixels from the upper left; a dollar sign in a name begins no formula."""
    style: dict[str, Any] = {"va": "top", "color": INK, "linespacing": LINE / SIZE, "parse_math": False} | kwargs
    place = x / figure.bbox.width, 1 - y / figure.bbox.height
    figure.text(*place, text, fontsize=size * POINTS_A_PIXEL, family=families(), **style)


def _text_width(text: str, size: float = SIZE) -> int:
    font = FontProperties(family=families(), size=size)
    return ceil(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def _shortened(text: str, width: float, size: float = SIZE) -> str:
    """Text that is at most ``width`` pixels wide: its middle gives way, so that numbers at its end stay."""

    def of_length(kept: int) -> str:
        tail = kept // 3
        return f"{text[: kept - tail]}…{text[len(text) - tail :]}"

    if _text_width(text, size) <= width:
        return text
    return of_length(bisect(range(1, len(text)), width, key=lambda kept: _text_width(of_length(kept), size)))
