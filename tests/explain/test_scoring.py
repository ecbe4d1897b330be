"""Scores against scikit-learn's and torchmetrics' figures, and against orders made by hand."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support
from torchmetrics.classification import MulticlassCalibrationError

from cifar_lit.explain.scoring import (
    Predictions,
    calibration,
    class_scores,
    errors_of_each_class,
    likely_label_errors,
    one_of_each_class,
    worst_errors,
)

NAMES = ("ant", "bee", "cat", "dog")


def random_predictions(count: int = 500, scale: float = 2.0) -> Predictions:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, count)
    logits = rng.normal(scale=scale, size=(count, 4)) + scale * np.eye(4)[labels]
    return Predictions(labels, logits.astype(np.float32), NAMES)


def from_probabilities(labels: list[int], probabilities: list[list[float]]) -> Predictions:
    names = NAMES[: len(probabilities[0])]
    return Predictions(np.array(labels), np.log(np.array(probabilities, np.float32)), names)


def test_probabilities_losses_and_confusion_are_those_of_scikit_learn() -> None:
    predictions = random_predictions()
    assert len(predictions) == 500
    assert predictions.probabilities.dtype == predictions.losses.dtype == predictions.confidence.dtype == np.float64
    expected = torch.from_numpy(predictions.logits).double().softmax(dim=1).numpy()
    np.testing.assert_allclose(predictions.probabilities, expected, rtol=1e-12)
    np.testing.assert_allclose(predictions.losses.mean(), log_loss(predictions.labels, expected), rtol=1e-12)
    np.testing.assert_array_equal(predictions.confidence, predictions.probabilities.max(axis=1))
    np.testing.assert_array_equal(predictions.correct, predictions.predicted == predictions.labels)
    np.testing.assert_array_equal(
        predictions.confusion, confusion_matrix(predictions.labels, predictions.predicted, labels=range(4))
    )
    assert predictions.confusion.dtype == predictions.predicted.dtype == np.int64


def test_of_equal_logits_the_first_is_predicted() -> None:
    predictions = Predictions(np.array([0, 2]), np.array([[1, 3, 3], [0, 0, 0]], np.float32), NAMES[:3])
    assert predictions.predicted.tolist() == [1, 0]


def test_losses_are_finite_where_the_softmax_underflows_or_would_overflow() -> None:
    logits = np.array([[0, 2000], [-3e38, 0], [1e38, 1e38]], np.float32)
    predictions = Predictions(np.array([0, 1, 0]), logits, NAMES[:2])
    assert predictions.probabilities[0, 0] == 0
    np.testing.assert_allclose(predictions.losses, [2000, 0, np.log(2)])


@pytest.mark.parametrize(
    ("labels", "shape", "names", "message"),
    [
        ([0, 1], (3, 2), 2, "shapes"),
        ([0, 1], (2, 3), 2, "shapes"),
        ([[0, 1]], (1, 2, 2), 2, "shapes"),
        ([0, 1], (2,), 2, "shapes"),
        ([0, 2], (2, 2), 2, "labels from 0 to 2"),
        ([-1, 0], (2, 2), 2, "labels from -1 to 0"),
    ],
)
def test_what_does_not_belong_together_is_an_error(
    labels: list[int], shape: tuple[int, ...], names: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Predictions(np.array(labels), np.zeros(shape, np.float32), NAMES[:names])


def test_no_images_at_all() -> None:
    predictions = Predictions(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), NAMES)
    assert len(predictions) == 0
    assert predictions.confusion.tolist() == [[0] * 4] * 4
    assert worst_errors(predictions, 3).tolist() == errors_of_each_class(predictions, 3) == []
    result = calibration(predictions.confidence, predictions.correct)
    assert result.ece == 0
    assert np.isnan(result.accuracy).all()


def test_class_scores_are_those_of_scikit_learn() -> None:
    predictions = random_predictions(scale=0.7)
    scores = class_scores(predictions.confusion, NAMES)
    assert [score.name for score in scores] == list(NAMES)
    found = np.array([(score.precision, score.recall, score.f1, score.support) for score in scores])
    expected = precision_recall_fscore_support(predictions.labels, predictions.predicted)
    np.testing.assert_allclose(found, np.transpose(expected), rtol=1e-12)


def test_class_scores_are_none_where_undefined() -> None:
    # No image is an ant; none is taken for a bee; cats are all right; of dogs there is no word.
    confusion = np.array([[0, 0, 0, 0], [2, 0, 1, 0], [0, 0, 3, 0], [0, 0, 0, 0]])
    ant, bee, cat, dog = class_scores(confusion, NAMES)
    assert (ant.precision, ant.recall, ant.f1, ant.support) == (0, None, 0, 0)
    assert (bee.precision, bee.recall, bee.f1, bee.support) == (None, 0, 0, 3)
    assert (cat.precision, cat.recall, cat.support) == (0.75, 1, 3)
    assert cat.f1 == pytest.approx(6 / 7)
    assert (dog.precision, dog.recall, dog.f1, dog.support) == (None, None, None, 0)


@pytest.mark.parametrize("bins", [5, 15])
def test_calibration_error_is_that_of_torchmetrics(bins: int) -> None:
    predictions = random_predictions()
    result = calibration(predictions.confidence, predictions.correct, bins)
    metric = MulticlassCalibrationError(num_classes=4, n_bins=bins)
    expected = metric(torch.from_numpy(predictions.probabilities), torch.from_numpy(predictions.labels))
    assert result.ece == pytest.approx(float(expected), abs=1e-6)
    assert result.ece > 0.01  # or the comparison would say little
    assert result.edges.shape == (bins + 1,)


def test_calibration_by_hand() -> None:
    # Four bins. On an edge: 0.5 belongs to the second. Full confidence belongs to the last.
    confidence = np.array([0.5, 0.3, 0.9, 1.0, 1.0])
    correct = np.array([True, False, False, True, True])
    result = calibration(confidence, correct, bins=4)
    assert result.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert result.counts.tolist() == [0, 2, 0, 3]
    np.testing.assert_allclose(result.accuracy, [np.nan, 0.5, np.nan, 2 / 3])
    np.testing.assert_allclose(result.confidence, [np.nan, 0.4, np.nan, 2.9 / 3])
    assert result.ece == pytest.approx((2 * 0.1 + 3 * 0.3) / 5)


def test_worst_errors_and_likely_label_errors() -> None:
    probabilities = [
        [0.4, 0.3, 0.3],  # right
        [0.1, 0.6, 0.3],  # wrong, loss of 0.1
        [0.3, 0.6, 0.1],  # wrong, loss of 0.3
        [0.2, 0.1, 0.7],  # wrong, loss of 0.2: the surest
        [0.3, 0.6, 0.1],  # as the third
    ]
    predictions = from_probabilities([0, 0, 0, 0, 0], probabilities)
    assert worst_errors(predictions, 10).tolist() == [1, 3, 2, 4]
    assert likely_label_errors(predictions, 10).tolist() == [3, 1, 2, 4]
    assert worst_errors(predictions, 2).tolist() == [1, 3]
    assert likely_label_errors(predictions, 1).tolist() == [3]
    assert worst_errors(predictions, 10).dtype == np.int64


def test_ties_of_many_images_keep_the_order_of_index() -> None:
    # An unstable sort shows from 17 elements on.
    predictions = from_probabilities([0] * 60, [[0.2, 0.8], [0.1, 0.9], [0.3, 0.7]] * 20)
    expected = [*range(1, 60, 3), *range(0, 60, 3), *range(2, 60, 3)]
    assert worst_errors(predictions, 60).tolist() == likely_label_errors(predictions, 60).tolist() == expected


def test_errors_of_each_class() -> None:
    labels = np.array([3, 1, 3, 1, 3, 0, 1])
    logit_of_true = np.array([-1, 5, -2, -1, 5, 5, -2])  # all others are 0
    logits = np.where(np.arange(4) == labels[:, None], logit_of_true[:, None], 0)
    predictions = Predictions(labels, logits.astype(np.float32), NAMES)
    # Class 1 has errors 6 and 3, the worse one first, class 3 has 2 and 0; the only image of class 0 is right.
    assert errors_of_each_class(predictions, 3) == [[6, 2], [3, 0]]
    assert errors_of_each_class(predictions, 1) == [[6, 2]]


def test_a_class_with_fewer_errors_is_left_out_of_later_groups() -> None:
    predictions = from_probabilities([1, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    assert errors_of_each_class(predictions, 5) == [[1, 0], [2]]


def test_one_of_each_class() -> None:
    labels: NDArray[np.int64] = np.array([2, 0, 2, 1, 0, 2])
    assert one_of_each_class(labels, 3) == [[1, 3, 0]]
    assert one_of_each_class(labels, 4, groups=9) == [[1, 3, 0], [4, 2], [5]]
    assert one_of_each_class(labels, 3, groups=2) == [[1, 3, 0], [4, 2]]


def test_a_list_that_is_drawn_is_not_endless() -> None:
    labels = np.arange(1000)
    assert one_of_each_class(labels, 1000) == [[*range(100)]]
    predictions = Predictions(labels, np.eye(1000, k=1, dtype=np.float32), tuple(map(str, labels)))
    assert errors_of_each_class(predictions, 2) == [[*range(100)]]
