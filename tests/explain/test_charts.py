"""Curves as lines: which share a chart, where ticks stand, and what is no number."""

import math
import re

import pytest

from cifar_lit.explain.charts import POINTS, learning_charts


def test_curves_of_the_same_measure_share_a_chart_and_those_of_the_same_split_a_colour() -> None:
    points = [(1, 0.5), (2, 0.25)]
    names = ("train/loss", "val/loss", "val/accuracy", "learning_rate")
    loss, accuracy, rate = learning_charts(dict.fromkeys(names, points))
    assert (loss.title, accuracy.title, rate.title) == ("loss", "accuracy", "learning_rate")
    assert [(line.name, line.colour) for line in loss.lines] == [("train", 0), ("val", 1)]
    assert [(line.name, line.colour) for line in (*accuracy.lines, *rate.lines)] == [("val", 1), ("learning_rate", 2)]


def test_a_line_goes_where_its_points_and_the_ticks_say() -> None:
    [chart] = learning_charts({"val/loss": [(0, 2.0), (10, 1.0), (40, 0.0)]})
    assert chart.lines[0].path == "M0 0L25 50L100 100"
    assert chart.x_ticks == [(0, "0"), (25, "10"), (50, "20"), (75, "30"), (100, "40")]
    assert chart.y_ticks == [(0, "0"), (25, "0.5"), (50, "1"), (75, "1.5"), (100, "2")]


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.1), (0, 0), (-3, -1), (1e-5, 1e-4), (0.29999, 123.4), (99, 1e9)])
def test_ticks_enclose_every_value(low: float, high: float) -> None:
    [chart] = learning_charts({"x": [(0, low), (1, high)]})
    texts = [float(text.replace(",", "")) for _, text in chart.y_ticks]
    assert texts[0] <= low <= high <= texts[-1]
    assert 2 <= len(texts) <= 8
    heights = [float(y) for y in re.findall(r"[ML]\S+ ([^LM]+)", chart.lines[0].path)]
    assert all(0 <= height <= 100 for height in heights)
    assert len(heights) == 2


def test_what_is_no_number_leaves_a_gap_and_a_lone_point_is_a_dot() -> None:
    points = [(0, 1.0), (1, 0.5), (2, math.nan), (3, 0.0), (4, math.inf)]
    [chart] = learning_charts({"train/loss": points, "val/loss": [(0, math.nan)]})
    [line] = chart.lines
    assert line.points == [(0, 1.0), (1, 0.5), (2, None), (3, 0.0), (4, None)]
    assert line.path == "M0 0L25 50"
    assert line.dots == "M75 100h0"


def test_no_curve_no_chart() -> None:
    assert learning_charts({}) == learning_charts({"loss": []}) == []


def test_long_curves_are_thinned_and_keep_both_ends() -> None:
    [chart] = learning_charts({"loss": [(step, float(step)) for step in range(50_001)]})
    points = chart.lines[0].points
    assert len(points) == POINTS
    assert (points[0], points[-1]) == ((0, 0.0), (50_000, 50_000.0))
