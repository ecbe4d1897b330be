import builtins
import hashlib
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from cifar_lit.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from cifar_lit.data.download import Archive
from cifar_lit.data.images import Images
from cifar_lit.errors import UserError

Noise = Callable[..., Images]


def prepared(data: CIFAR10DataModule | CIFAR100DataModule) -> tuple[Images, Images]:
    data.prepare_data()
    return data.load("train"), data.load("test")


def assert_is_cifar10(data: CIFAR10DataModule, noise: Noise) -> None:
    train, test = prepared(data)
    expected = [noise(i, 20, 10) for i in range(6)]
    assert np.array_equal(train.pixels, np.concatenate([images.pixels for images in expected[:5]]))
    assert np.array_equal(train.labels, np.concatenate([images.labels for images in expected[:5]]))
    assert np.array_equal(test.pixels, expected[5].pixels)
    assert np.array_equal(test.labels, expected[5].labels)
    assert test.pixels.dtype == np.uint8
    assert test.labels.dtype == np.int64
    assert test.pixels.flags.c_contiguous


def test_root_may_hold_the_unpacked_folder(cifar10_root: Path, noise: Noise) -> None:
    assert_is_cifar10(CIFAR10DataModule(root=str(cifar10_root)), noise)
    # Nothing was written there.
    assert [path.name for path in cifar10_root.iterdir()] == ["cifar-10-batches-py"]


def test_root_may_be_the_unpacked_folder(cifar10_root: Path, noise: Noise) -> None:
    assert_is_cifar10(CIFAR10DataModule(root=str(cifar10_root / "cifar-10-batches-py")), noise)


def test_root_may_hold_the_archive(
    cifar10_root: Path, tmp_path: Path, noise: Noise, pack: Callable[..., Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    archive = pack(cifar10_root / "cifar-10-batches-py", root / "cifar-10-python.tar.gz")
    monkeypatch.setattr(CIFAR10DataModule, "ARCHIVE", replace(CIFAR10DataModule.ARCHIVE, sha256=archive.sha256))
    assert_is_cifar10(CIFAR10DataModule(root=str(root)), noise)


def test_root_may_begin_with_a_tilde(cifar10_root: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(cifar10_root.parent))
    assert_is_cifar10(CIFAR10DataModule(root="~/cifar10"), noise)


def test_an_archive_that_is_not_the_published_one_is_an_error(
    cifar10_root: Path, tmp_path: Path, pack: Callable[..., Archive]
) -> None:
    root = tmp_path / "data"
    pack(cifar10_root / "cifar-10-batches-py", root / "cifar-10-python.tar.gz")
    with pytest.raises(UserError, match=r"cifar-10-python.tar.gz is damaged or not the published archive: remove it"):
        CIFAR10DataModule(root=str(root)).prepare_data()
    assert not (root / "cifar-10-batches-py").exists()


@pytest.mark.parametrize("where", ["", "cifar-100-python"])
def test_cifar100_has_fine_labels(cifar100_root: Path, noise: Noise, where: str) -> None:
    train, test = prepared(CIFAR100DataModule(root=str(cifar100_root / where)))
    for images, expected in ((train, noise(0, 200, 100)), (test, noise(1, 100, 100))):
        assert np.array_equal(images.pixels, expected.pixels)
        assert np.array_equal(images.labels, expected.labels)


def test_cifar100_from_its_archive(
    cifar100_root: Path, tmp_path: Path, pack: Callable[..., Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(cifar100_root / "cifar-100-python", tmp_path / "data" / "cifar-100-python.tar.gz")
    monkeypatch.setattr(CIFAR100DataModule, "ARCHIVE", replace(CIFAR100DataModule.ARCHIVE, sha256=archive.sha256))
    train, _ = prepared(CIFAR100DataModule(root=str(tmp_path / "data")))
    assert len(train) == 200


def test_a_row_is_the_red_plane_then_the_green_then_the_blue(cifar10_root: Path) -> None:
    # Written by hand: not by the fixture, which could make the same mistake.
    path = cifar10_root / "cifar-10-batches-py" / "test_batch"
    row = np.zeros((1, 3072), np.uint8)
    row[0, 2 * 32 + 5] = 1  # red at row 2, column 5
    row[0, 1024 + 31 * 32] = 2  # green at the bottom left
    row[0, 2048 + 31] = 3  # blue at the top right
    path.write_bytes(pickle.dumps({b"data": row, b"labels": [4]}, protocol=3))
    pixels = CIFAR10DataModule(root=str(cifar10_root)).load("test").pixels
    assert pixels.shape == (1, 32, 32, 3)
    assert (pixels[0, 2, 5, 0], pixels[0, 31, 0, 1], pixels[0, 0, 31, 2]) == (1, 2, 3)
    assert np.count_nonzero(pixels) == 3


def test_tiny_batches_are_pickles_as_python_2_wrote_them(cifar10_root: Path, noise: Noise) -> None:
    content = (cifar10_root / "cifar-10-batches-py" / "test_batch").read_bytes()
    batch = pickle.loads(content, encoding="bytes")
    assert batch[b"labels"] == noise(5, 20, 10).labels.tolist()
    assert (batch[b"data"].shape, batch[b"data"].dtype) == ((20, 3072), np.dtype(np.uint8))
    assert b"numpy.core.multiarray" in content


def test_an_array_that_was_stored_by_columns_is_read_right(cifar10_root: Path, noise: Noise) -> None:
    images = noise(8, 4, 4)
    rows = np.asfortranarray(images.pixels.transpose(0, 3, 1, 2).reshape(4, -1))
    path = cifar10_root / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(pickle.dumps({b"data": rows, b"labels": images.labels.tolist()}, protocol=3))
    assert np.array_equal(CIFAR10DataModule(root=str(cifar10_root)).load("test").pixels, images.pixels)


def test_class_names() -> None:
    ten, hundred = CIFAR10DataModule(), CIFAR100DataModule()
    assert (ten.num_classes, hundred.num_classes) == (10, 100)
    # In the order of their meta files, which Krizhevsky's archives have.
    assert " ".join(ten.class_names) == "airplane automobile bird cat deer dog frog horse ship truck"
    assert len(set(hundred.class_names)) == 100
    assert list(hundred.class_names) == sorted(hundred.class_names)
    assert (hundred.class_names[0], hundred.class_names[49], hundred.class_names[99]) == ("apple", "mountain", "worm")
    assert hashlib.sha256(" ".join(hundred.class_names).encode()).hexdigest().startswith("77827c4c023a75b4")


def test_statistics_are_those_of_the_whole_training_split(cifar10_root: Path) -> None:
    data = CIFAR10DataModule(root=str(cifar10_root), val_size=10)
    data.setup()
    state = data.state_dict()
    np.testing.assert_allclose(state["mean"].flatten() / 255, [0.4914, 0.4822, 0.4465], rtol=1e-6)
    np.testing.assert_allclose(state["std"].flatten() / 255, [0.2470, 0.2435, 0.2616], rtol=1e-6)


def test_validation_has_5000_images_unless_told_otherwise(cifar10_root: Path) -> None:
    assert CIFAR10DataModule().val_size == 5000
    assert CIFAR100DataModule().val_size == 5000
    with pytest.raises(UserError, match="val_size 5000 does not fit 100 training images"):
        CIFAR10DataModule(root=str(cifar10_root)).setup()


class Call:
    """Pickles as a call, which a careless reader makes."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "attack",
    [
        lambda marker: Call(os.system, f"touch {marker}"),
        lambda marker: Call(builtins.eval, f"open({str(marker)!r}, 'w')"),
        lambda marker: Call(builtins.exec, f"open({str(marker)!r}, 'w')"),
        lambda marker: Call(np.save, str(marker), 0),
        lambda marker: Call(Path.touch, marker),
        lambda marker: {b"data": Call(os.mkdir, str(marker)), b"labels": [0]},
    ],
    ids=["os.system", "eval", "exec", "numpy", "a method", "nested"],
)
def test_nothing_in_a_batch_is_executed(
    cifar10_root: Path, tmp_path: Path, attack: Callable[[Path], Any], protocol: int
) -> None:
    marker = tmp_path / "executed.npy"
    content = pickle.dumps(attack(marker), protocol)
    path = cifar10_root / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is no batch of cifar-10-batches-py"):
        CIFAR10DataModule(root=str(cifar10_root)).load("test")
    assert not marker.exists()
    # It would have worked on a careless reader.
    pickle.loads(content)
    assert marker.exists()


def rows(count: int, dtype: Any = np.uint8) -> Any:
    return np.zeros((count, 3072), dtype)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>Not found</html>",
        pickle.dumps([1, 2, 3], 2),
        pickle.dumps({b"data": rows(2)}, 3),
        pickle.dumps({b"labels": [0, 1]}, 3),
        pickle.dumps({b"data": b"\0" * 6144, b"labels": [0, 1]}, 3),
        pickle.dumps({b"data": rows(2, np.float32), b"labels": [0, 1]}, 3),
        pickle.dumps({b"data": rows(2, np.int8), b"labels": [0, 1]}, 3),
        pickle.dumps({b"data": rows(2, object), b"labels": [0, 1]}, 3),
        pickle.dumps({b"data": rows(2)[:, :-1], b"labels": [0, 1]}, 3),
        pickle.dumps({b"data": rows(2), b"labels": [0, 1, 2]}, 3),
        pickle.dumps({b"data": rows(2), b"labels": [0, 10]}, 3),
        pickle.dumps({b"data": rows(2), b"labels": [-1, 0]}, 3),
        pickle.dumps({b"data": rows(2), b"labels": "ab"}, 3),
        pickle.dumps({b"data": rows(2), b"labels": 1}, 3),
        pickle.dumps({b"data": rows(0), b"labels": []}, 3),
    ],
    ids=[
        "empty", "a page", "a list", "no labels", "no images", "bytes", "floats", "signed", "objects", "other size",
        "too many labels", "label too high", "label too low", "labels are text", "labels are a number", "no content",
    ],
)  # fmt: skip
def test_a_file_that_is_no_batch_is_an_error_that_names_it(cifar10_root: Path, content: bytes) -> None:
    path = cifar10_root / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is no batch of cifar-10-batches-py") as caught:
        CIFAR10DataModule(root=str(cifar10_root)).load("test")
    assert str(path) in str(caught.value)
    assert f"remove {path.parent}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_truncated_batch_is_an_error_wherever_it_ends(cifar10_root: Path, split: Literal["train", "test"]) -> None:
    path = cifar10_root / "cifar-10-batches-py" / ("data_batch_4" if split == "train" else "test_batch")
    content = path.read_bytes()
    for length in [0, 1, 50, 200, len(content) // 2, len(content) - 300, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=path.name):
            CIFAR10DataModule(root=str(cifar10_root)).load(split)


def test_a_missing_batch_is_an_error_that_names_it(cifar10_root: Path) -> None:
    folder = cifar10_root / "cifar-10-batches-py"
    (folder / "data_batch_3").unlink()
    data = CIFAR10DataModule(root=str(cifar10_root))
    data.prepare_data()
    with pytest.raises(UserError, match="data_batch_3"):
        data.load("train")


def test_a_folder_without_batches_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    data = CIFAR10DataModule(root=str(tmp_path))
    data.prepare_data()
    with pytest.raises(UserError, match=r"cifar-10-batches-py lacks test_batch: remove that folder"):
        data.load("test")


def test_images_that_nobody_has_fetched_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    data = CIFAR10DataModule(root=str(tmp_path))
    with pytest.raises(UserError, match=r"has no cifar-10-batches-py: call prepare_data first, which fetches it"):
        data.load("test")


def test_two_roots_do_not_mix(cifar10_root: Path, cifar100_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "both"
    shutil.copytree(cifar10_root, root)
    shutil.copytree(cifar100_root, root, dirs_exist_ok=True)
    assert len(CIFAR10DataModule(root=str(root)).load("train")) == 100
    assert len(CIFAR100DataModule(root=str(root)).load("train")) == 200


def test_published_archives_have_a_mirror_over_https() -> None:
    for module in (CIFAR10DataModule, CIFAR100DataModule):
        assert len(module.ARCHIVE.urls) >= 2
        assert all(url.startswith("https://") and url.endswith(module.ARCHIVE.name) for url in module.ARCHIVE.urls)
        assert len(module.ARCHIVE.sha256) == 64
