"""Learning curves as lines of SVG in a box of 100 × 100, whatever size the page gives to the box."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

Point = tuple[float, float | None]
Tick = tuple[float, str]

POINTS = 1000  # of a line; a screen has hardly more columns
INTERVALS = 5  # between ticks, about


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: What the legend calls it.
        colour: Its number among the colours; lines of the same name share one in all charts.
        points: (x, y) in the order of x; y is None where the value was not finite.
        path: Attribute ``d`` of an SVG path.
        dots: Likewise, for points that stand alone.
    """

    name: str
    colour: int
    points: list[Point]
    path: str
    dots: str


@dataclass(frozen=True)
class Chart:
    """Curves over one another.

    Attributes:
        title: What y is.
        x_range: Left and right edge of the box.
        x_ticks: Position in percent from the left, and text.
        y_ticks: Position in percent from the bottom, and text.
        lines: At least one.
    """

    title: str
    x_range: tuple[float, float]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]


def learning_charts(curves: Mapping[str, Sequence[tuple[int, float]]]) -> list[Chart]:
    """A chart for each last part of a name: ``train/loss`` and ``val/loss`` are ``train`` and ``val`` in ``loss``.

    Curves without a finite value are left out.
    """
    groups: dict[str, dict[str, list[Point]]] = {}
    for name, points in curves.items():
        line, _, title = name.rpartition("/")
        thinned = _thinned(points)
        if any(y is not None for _, y in thinned):
            groups.setdefault(title, {})[line or title] = thinned
    colours = {name: number for number, name in enumerate(dict.fromkeys(n for lines in groups.values() for n in lines))}
    return [_chart(title, lines, colours) for title, lines in groups.items()]


def _thinned(points: Sequence[tuple[int, float]]) -> list[Point]:
    kept = np.unique(np.linspace(0, len(points) - 1, min(len(points), POINTS)).round().astype(int))
    return [(x, y if math.isfinite(y) else None) for x, y in sorted(points[i] for i in kept)]


def _chart(title: str, lines: Mapping[str, list[Point]], colours: Mapping[str, int]) -> Chart:
    xs = [x for points in lines.values() for x, _ in points]
    x_range = min(xs), max(max(xs), min(xs) + 1)
    ys = [y for points in lines.values() for _, y in points if y is not None]
    y_ticks = _ticks(min(ys), max(ys))
    y_range = y_ticks[0], y_ticks[-1]
    return Chart(
        title,
        x_range,
        [
            (_position(x, x_range), f"{x:,.0f}")
            for x in _ticks(*x_range)
            if x_range[0] <= x <= x_range[1] and x % 1 == 0
        ],
        [(_position(y, y_range), f"{y:,.10g}") for y in y_ticks],
        [_line(name, colours[name], points, x_range, y_range) for name, points in lines.items()],
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, at least two, from one at or below ``low`` to one at or above ``high``."""
    wanted = (high - low) / INTERVALS or abs(high) or 1
    magnitude: float = 10.0 ** math.floor(math.log10(wanted))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= wanted)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [number * step for number in range(first, last + 1)]


def _position(value: float, span: tuple[float, float]) -> float:
    """In percent of the span."""
    return round(100 * (value - span[0]) / (span[1] - span[0]), 2)


def _line(
    name: str, colour: int, points: list[Point], x_range: tuple[float, float], y_range: tuple[float, float]
) -> Line:
    path = dots = ""
    for finite, group in groupby(points, lambda point: point[1] is not None):
        places = [f"{_position(x, x_range):g} {100 - _position(y, y_range):g}" for x, y in group if y is not None]
        if len(places) > 1:
            path += "M" + "L".join(places)
        elif finite:
            dots += f"M{places[0]}h0"  # of no length, but with round ends
    return Line(name, colour, points, path, dots)
