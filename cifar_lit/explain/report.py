"""One HTML file on a classifier: what it gets right, what it gets wrong, where it looks and how it got there."""

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from cifar_lit.explain.charts import learning_charts
from cifar_lit.explain.gallery import cards, sprites
from cifar_lit.explain.layer_rows import TEXT_HEADINGS, LayerTable
from cifar_lit.explain.scoring import (
    Calibration,
    ClassScore,
    Predictions,
    calibration,
    class_scores,
    likely_label_errors,
    worst_errors,
)

OF_EACH_PAIR = 3  # errors of each pair of true and predicted class that the gallery shows before it goes by loss
WORST = 64  # errors of largest loss that the gallery holds before all but the suspects
SUSPECTS = 12  # images that the section on labels shows
PAIRS = 10  # most confused pairs that stand beside the matrix
MATRIX = 200  # most classes whose matrix is on the page: of 1,000 it would be a million buttons
PERCENTAGES = ("accuracy", "precision", "recall", "f1", "ece")
LABELS = {"ece": "calibration error (ECE)", "macs": "MACs"}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


_ENVIRONMENT = Environment(
    loader=PackageLoader("cifar_lit", "explain"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_ENVIRONMENT.filters |= {"percent": _percent, "thousands": "{:,}".format}
# NaN is no JSON: rather an error here than a page that does not open.
_ENVIRONMENT.policies["json.dumps_kwargs"] = {"allow_nan": False, "ensure_ascii": False, "separators": (",", ":")}


@dataclass(frozen=True, eq=False)
class Report:
    """What a report is made of.

    Args:
        title: Its heading, such as ``resnet20``.
        predictions: For N images.
        pixels: Those images, uint8 (N, H, W, 3).
        shown: Indices of the misclassified images that the gallery holds, int64 (n,), as of `choose_shown`.
        maps_predicted: Grad-CAM of the images ``shown`` for the predicted class, float32 (n, H, W) in [0, 1]; None
            where the network does not say where to look.
        maps_true: Grad-CAM of the images ``shown`` for the true class, likewise.
        metrics: Headline figures in their order, the first shown largest; those that end in one of `PERCENTAGES` as
            percentages.
        provenance: Where the figures come from, shown as given.
        curves: Points (x, y) by name, such as ``train/loss``; those of the same last part share a chart.
        layers: Of the network.
        curves_over: What x of the curves counts.
        maps_method: How the maps were made.
        files: Names of the N images' files, where there are such.

    Raises:
        ValueError: The shapes do not belong together.
    """

    title: str
    predictions: Predictions
    pixels: NDArray[np.uint8]
    shown: NDArray[np.int64]
    maps_predicted: NDArray[np.float32] | None
    maps_true: NDArray[np.float32] | None
    metrics: Mapping[str, float]
    provenance: Mapping[str, str]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    layers: LayerTable | None
    curves_over: str = "epoch"
    maps_method: str = "Grad-CAM"
    files: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.pixels.shape != (len(self.predictions), *self.pixels.shape[1:3], 3):
            raise ValueError(f"pixels {self.pixels.shape} of {len(self.predictions)} images: must be (N, H, W, 3).")
        maps = [None if values is None else values.shape for values in (self.maps_predicted, self.maps_true)]
        expected = (len(self.shown), *self.pixels.shape[1:3])
        if maps not in ([expected] * 2, [None] * 2):
            raise ValueError(f"maps {maps} of {len(self.shown)} images shown: both must be {expected}, or None.")


def choose_shown(predictions: Predictions, limit: int) -> NDArray[np.int64]:
    """Indices of up to ``limit`` misclassified images for the gallery, largest loss first, int64.

    Those whose labels are the first suspects are among them, then `WORST` of all, then the first few of each pair of
    true and predicted class, even where others have a larger loss: a click on any cell of the confusion matrix finds
    some.
    """
    errors = worst_errors(predictions, len(predictions))
    suspects = set(likely_label_errors(predictions, min(SUSPECTS, limit)).tolist())
    # The place of an error among those of its pair, as far as that counts.
    seen: Counter[tuple[int, int]] = Counter()
    places = []
    for rank, index in enumerate(errors.tolist()):
        pair = int(predictions.labels[index]), int(predictions.predicted[index])
        of_pair = min(seen[pair], OF_EACH_PAIR)
        places.append(-2 if index in suspects else -1 if rank < WORST else of_pair)
        seen[pair] += 1
    chosen = np.argsort(places, kind="stable")[:limit]
    return errors[np.sort(chosen)]


def render(report: Report) -> str:
    """The report as one HTML file that asks no network for anything; the same report gives the same file."""
    predictions = report.predictions
    pictures = sprites(report.pixels[report.shown], report.maps_predicted, report.maps_true)
    charts = learning_charts(report.curves)
    calibrated = calibration(predictions.confidence, predictions.correct)
    script = _asset("report.js") + _asset("report.panels.js")
    page = _ENVIRONMENT.get_template("report.html").render(
        report=report,
        names=predictions.class_names,
        errors=int((~predictions.correct).sum()),
        figures=[(_label(name), _figure(name, value), value) for name, value in report.metrics.items()],
        charts=charts,
        shares=_shares(predictions.confusion),
        with_matrix=len(predictions.class_names) <= MATRIX,
        pairs=_most_confused(predictions.confusion),
        classes=_classes(predictions),
        calibration=calibrated,
        bins=_bins(calibrated),
        mean_confidence=float(predictions.confidence.mean()),
        layer_headings=TEXT_HEADINGS,
        pictures=pictures,
        style=_asset("report.css"),
        script=script,
        # With the script named by its hash no other one runs, whatever a class is called.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        data={
            "names": predictions.class_names,
            "confusion": predictions.confusion.tolist(),
            "cards": cards(predictions, report.shown, report.files),
            "suspects": _positions(report.shown, likely_label_errors(predictions, SUSPECTS)),
            "sprites": pictures.to_json(),
            "charts": [{"range": chart.x_range, "lines": [line.points for line in chart.lines]} for chart in charts],
        },
    )
    # A folder whose name is no UTF-8 reaches us with lone surrogates, which no file can hold.
    return page.encode("utf-8", "replace").decode("utf-8")


def _asset(name: str) -> Markup:
    return Markup(files("cifar_lit.explain").joinpath(name).read_text(encoding="utf-8"))


def _label(name: str) -> str:
    prefix, _, last = name.rpartition("/")
    return f"{prefix} {LABELS.get(last, last.replace('_', ' '))}".strip()


def _figure(name: str, value: float) -> str:
    if name.endswith(PERCENTAGES):
        return _percent(value)
    return f"{int(value):,}" if float(value).is_integer() else f"{value:.4g}"


def _positions(shown: NDArray[np.int64], wanted: NDArray[np.int64]) -> list[int]:
    """Where those of the images ``wanted`` that are shown stand in ``shown``, in the order of ``wanted``."""
    position = {image: at for at, image in enumerate(shown.tolist())}
    return [position[image] for image in wanted.tolist() if image in position]


def _without_diagonal(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(np.eye(len(confusion), dtype=bool), 0, confusion)


def _shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """How strongly each cell of the matrix is coloured, in [0, 1]: hits by recall, errors beside the largest one."""
    errors = _without_diagonal(confusion)
    hits = confusion / confusion.sum(axis=1, keepdims=True).clip(1)
    # The square root lets the many small cells show.
    shares: NDArray[np.float64] = np.where(errors, np.sqrt(errors / errors.max().clip(1)), hits)
    return shares.round(2)


def _most_confused(confusion: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Up to `PAIRS` triples of true class, predicted class and number of images, most first."""
    errors = _without_diagonal(confusion)
    order = np.argsort(-errors, axis=None, kind="stable")[:PAIRS]
    pairs = ((*divmod(int(at), len(errors)), int(errors.flat[at])) for at in order)
    return [(true, predicted, count) for true, predicted, count in pairs if count]


def _classes(predictions: Predictions) -> list[tuple[ClassScore, str, int]]:
    """Of each class its scores, the class that it is most often taken for, and how often."""
    scores = class_scores(predictions.confusion, predictions.class_names)
    errors = _without_diagonal(predictions.confusion)
    return [
        (score, predictions.class_names[row.argmax()] if row.any() else "", int(row.max()))
        for score, row in zip(scores, errors, strict=True)
    ]


def _bins(calibrated: Calibration) -> list[dict[str, float]]:
    names = ("low", "high", "count", "accuracy", "confidence")
    edges = calibrated.edges
    columns = edges[:-1], edges[1:], calibrated.counts, calibrated.accuracy, calibrated.confidence
    return [dict(zip(names, values, strict=True)) for values in zip(*(c.tolist() for c in columns), strict=True)]
