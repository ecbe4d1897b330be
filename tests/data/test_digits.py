from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cifar_lit.data.digits import DigitsDataModule
from cifar_lit.data.images import Images, stratified_split


def content(images: Images | None) -> Counter[bytes]:
    assert images is not None
    return Counter(image.tobytes() for image in images.pixels)


def test_images_are_32_by_32_in_three_equal_channels() -> None:
    for split, count in (("train", 1438), ("test", 359)):
        images = DigitsDataModule().load(split)  # type: ignore[arg-type]
        assert images.pixels.shape == (count, 32, 32, 3)
        assert images.pixels.dtype == np.uint8
        assert images.labels.dtype == np.int64
        assert (images.pixels == images.pixels[..., :1]).all()
        # The whole range of brightness is used.
        assert images.pixels.min() == 0
        assert images.pixels.max() == 255


def test_they_are_the_scans_of_scikit_learn_and_keep_their_labels() -> None:
    digits = load_digits()
    order = np.concatenate(stratified_split(digits.target, 0.2, seed=0))
    parts = [DigitsDataModule().load("train"), DigitsDataModule().load("test")]
    assert np.array_equal(np.concatenate([part.labels for part in parts]), digits.target[order])
    # Back to 8×8 by the mean of each 4×4 cell, an image is close to its scan, and to no other one but by chance.
    small = np.concatenate([part.pixels[..., 0].reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)) for part in parts])
    scans = digits.images[order] * (255 / 16)
    error = np.abs(small - scans).mean(axis=(1, 2))
    assert error.max() < 20
    assert np.abs(small - np.roll(scans, 1, axis=0)).mean(axis=(1, 2)).mean() > 3 * error.mean()


def test_every_digit_is_split_in_proportion() -> None:
    data = DigitsDataModule(val_size=0.2)
    data.setup()
    totals = np.bincount(load_digits().target)
    assert data.train_images is not None
    assert data.val_images is not None
    assert data.test_images is not None
    counts = [np.bincount(part.labels) for part in (data.train_images, data.val_images, data.test_images)]
    assert np.array_equal(sum(counts), totals)
    for part, share in zip(counts, (0.64, 0.16, 0.2), strict=True):
        assert np.all(np.abs(part - totals * share) < 2)


def test_train_val_and_test_share_no_image() -> None:
    data = DigitsDataModule()
    data.setup()
    train, val, test = (content(part) for part in (data.train_images, data.val_images, data.test_images))
    assert train.total() + val.total() + test.total() == 1797
    assert not train & val
    assert not train & test
    assert not val & test


@pytest.mark.parametrize("settings", [{"seed": 5}, {"split_seed": 5}, {"val_size": 0.5}])
def test_the_test_split_is_always_the_same(settings: dict[str, int]) -> None:
    first, other = DigitsDataModule(), DigitsDataModule(**settings)
    for data in (first, other):
        data.setup()
    assert content(other.test_images) == content(first.test_images)


def test_classes_are_the_ten_digits() -> None:
    assert DigitsDataModule().class_names == tuple("0123456789")
    assert DigitsDataModule().num_classes == 10
