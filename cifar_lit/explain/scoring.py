"""What the predictions for a set of images amount to: scores, calibration, and the images worth a look."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# Most classes in a list that is to be drawn: a picture of 1,000 would be 70,000 pixels high.
LISTED = 100


# Compared by identity: whether two arrays are equal is not one answer.
@dataclass(frozen=True, eq=False)
class Predictions:
    """A network's logits for images whose class is known.

    Args:
        labels: True classes, int64 (N,), in [0, C).
        logits: float32 (N, C).
        class_names: C names.

    Raises:
        ValueError: The shapes do not belong together, or a label is out of range.
    """

    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        expected = (*self.labels.shape, len(self.class_names))
        if self.labels.ndim != 1 or self.logits.shape != expected:
            raise ValueError(
                f"labels {self.labels.shape}, logits {self.logits.shape} and {len(self.class_names)} class names: "
                "the shapes must be (N,), (N, C) and C names."
            )
        if not ((self.labels >= 0) & (self.labels < len(self.class_names))).all():
            raise ValueError(f"labels from {self.labels.min()} to {self.labels.max()}, of {expected[1]} classes.")

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def _log_probabilities(self) -> NDArray[np.float64]:
        # The largest logit becomes 0: then no exponential overflows, and the sum is at least 1.
        shifted = self.logits.astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        log_probabilities: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return log_probabilities

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Softmax of the logits, float64 (N, C); rows sum to 1."""
        return np.exp(self._log_probabilities)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Class of the largest logit, int64 (N,); of equal ones the first."""
        predicted: NDArray[np.int64] = self.logits.argmax(axis=1)
        return predicted

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the predicted class is the true one, bool (N,)."""
        correct: NDArray[np.bool_] = self.predicted == self.labels
        return correct

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the predicted class, float64 (N,), in [1/C, 1]."""
        return self._of_class(self.probabilities, self.predicted)

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """Cross entropy with the true class in nats, float64 (N,); finite also where its probability rounds to 0."""
        return -self._of_class(self._log_probabilities, self.labels)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Number of images, int64 (C, C): a row a true class, a column a predicted one."""
        classes = len(self.class_names)
        pairs = self.labels * classes + self.predicted
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    @staticmethod
    def _of_class(values: NDArray[np.float64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.take_along_axis(values, classes[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class ClassScore:
    """How well one class is told from the others; a score that would divide by zero is None.

    Args:
        name: Of the class.
        precision: Share of the images predicted as the class that are of it, in [0, 1].
        recall: Share of the class's images that are predicted as it, in [0, 1].
        f1: Harmonic mean of the two, in [0, 1].
        support: Number of the class's images.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


def class_scores(confusion: NDArray[np.int64], class_names: Sequence[str]) -> list[ClassScore]:
    """Precision, recall, F1 and support of every class, in the order of ``class_names``.

    Args:
        confusion: Number of images, int64 (C, C): a row a true class, a column a predicted one.
        class_names: C names.
    """
    hits, actual, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return [
        ClassScore(
            name,
            precision=_share(hits[c], predicted[c]),
            recall=_share(hits[c], actual[c]),
            # The harmonic mean, said so that it is 0 without a hit.
            f1=_share(2 * hits[c], predicted[c] + actual[c]),
            support=int(actual[c]),
        )
        for c, name in enumerate(class_names)
    ]


def percent(share: float | None) -> str:
    """A share in [0, 1] as ``66.7%``; of nothing ``–``."""
    return "–" if share is None else f"{share:.1%}"


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None


@dataclass(frozen=True, eq=False)
class Calibration:
    """Whether a network is right as often as it says.

    Args:
        edges: Of B bins of confidence, float64 (B + 1,), from 0 to 1.
        counts: Images in each bin, int64 (B,).
        accuracy: Share of them that is right, float64 (B,); NaN where a bin is empty.
        confidence: Their mean confidence, float64 (B,); NaN where a bin is empty.
        ece: Expected calibration error in [0, 1]: the bins' mean distance of accuracy and confidence, by their counts.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]
    ece: float


def calibration(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = 15) -> Calibration:
    """Accuracy by confidence, and the expected calibration error (Guo et al. 2017, arXiv:1706.04599).

    Args:
        confidence: Probability of the predicted class, (N,), in [0, 1].
        correct: Whether the predicted class is the true one, bool (N,).
        bins: Number of bins of equal width. An image on an edge belongs to the bin below, as in the paper.
    """
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], confidence)
    counts = np.bincount(bin_of, minlength=bins)
    filled = np.where(counts > 0, counts, np.nan)
    accuracy = np.bincount(bin_of, correct, bins) / filled
    mean_confidence = np.bincount(bin_of, confidence, bins) / filled
    gaps = np.abs(accuracy - mean_confidence)[counts > 0]
    ece = float(gaps @ counts[counts > 0] / max(len(confidence), 1))
    return Calibration(edges, counts, accuracy, mean_confidence, ece)


def worst_errors(predictions: Predictions, count: int) -> NDArray[np.int64]:
    """Indices of up to ``count`` misclassified images, largest loss first, ties by index; int64."""
    return _errors(predictions, predictions.losses)[:count]


def likely_label_errors(predictions: Predictions, count: int) -> NDArray[np.int64]:
    """Indices of up to ``count`` misclassified images, surest prediction first, ties by index; int64.

    Where a good network is sure of another class, the label is the first suspect.
    """
    return _errors(predictions, predictions.confidence)[:count]


def _errors(predictions: Predictions, score: NDArray[np.float64]) -> NDArray[np.int64]:
    wrong = np.flatnonzero(~predictions.correct)
    return wrong[np.argsort(-score[wrong], kind="stable")]


def errors_of_each_class(predictions: Predictions, groups: int) -> list[list[int]]:
    """Up to ``groups`` lists of indices, each with one misclassified image of every true class, in class order.

    The first list has the image of largest loss of its class, the second the next one, and so on. A class with fewer
    errors is left out of later lists, and there is no empty list. A list is of `LISTED` classes at most.
    """
    errors = _errors(predictions, predictions.losses)
    return _one_of_each(errors, predictions.labels, len(predictions.class_names), groups)


def one_of_each_class(labels: NDArray[np.int64], num_classes: int, groups: int = 1) -> list[list[int]]:
    """Up to ``groups`` lists of indices, each with one image of every class, in class order.

    The first list has the first image of each class, the second the second, and so on. A class with fewer images is
    left out of later lists, and there is no empty list. A list is of `LISTED` classes at most.
    """
    return _one_of_each(np.arange(len(labels)), labels, num_classes, groups)


def _one_of_each(
    indices: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int, groups: int
) -> list[list[int]]:
    """The g-th of ``indices`` of each class, for g below ``groups``."""
    by_class = [indices[labels[indices] == c][:groups].tolist() for c in range(num_classes)]
    columns = ([of_class[g] for of_class in by_class if g < len(of_class)] for g in range(groups))
    return [column[:LISTED] for column in columns if column]
