"""Tiny data sets, and the walls around every test: no network but this machine's own, no cache but a fresh one."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

# By the tests' processes alone: that which xdist hands them out from needs no torch.
if TYPE_CHECKING:
    from cifar_lit.data.download import Archive
    from cifar_lit.data.images import Images

# pytest-xdist's processes share the cores, and so do the commands that tests start.
if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    import torch

    torch.set_num_threads(max(torch.get_num_threads() // workers, 1))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file, then those with the most slow tests: begun last, one would go on alone behind all others."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: (item.path.name != "test_cli.py", -slow[item.path]))


LOOPBACK = ("localhost", "127.0.0.1", "::1")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a connection to anything but loopback fail the test. (Code in C++ and other processes are not held.)"""

    def guard(method: Callable[..., Any]) -> Callable[..., Any]:
        def connect(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
                pytest.fail(f"this test reaches for the network: {address}")
            return method(self, address)

        return connect

    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in (*LOOPBACK, None, "", "0.0.0.0", socket.gethostname()):
            pytest.fail(f"this test asks for an address on the network: {host}")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guard(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guard(socket.socket.connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    # A proxy of the machine would be asked even for loopback.
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(autouse=True)
def cache_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache_home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def modules_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forgets modules that the test wrote and imported: another's of the same name would be taken for its own."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path_factory.getbasetemp()):
            del sys.modules[name]


@pytest.fixture
def small_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has 20 images in a batch of an evaluation: what large networks say of hundreds takes longer than all else."""
    monkeypatch.setattr("cifar_lit.data.datamodule.evaluation_batch", lambda *size: 20)


def random_images(seed: int, count: int, classes: int, size: int = 32) -> Images:
    """Noise, uint8 (count, size, size, 3), and labels that take turns in a shuffled order."""
    from cifar_lit.data.images import Images

    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Images(pixels, rng.permutation(np.arange(count) % classes))


@pytest.fixture
def noise() -> Callable[..., Images]:
    """Makes images of a seed, a count and a number of classes."""
    return random_images


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes ``train/<class>/…`` and ``test/<class>/…``."""

    def make(
        classes: tuple[str, ...] = ("cat", "dog"), train: int = 3, test: int = 2, size: int = 32, suffix: str = ".png"
    ) -> Path:
        root = tmp_path / "images"
        for split, count in (("train", train), ("test", test)):
            for label, name in enumerate(classes):
                folder = root / split / name
                folder.mkdir(parents=True)
                for i, pixels in enumerate(random_images(label + len(split), count, 1, size).pixels):
                    Image.fromarray(pixels).save(folder / f"{i}{suffix}")
        return root

    return make


def python2_pickle(value: Any) -> bytes:
    """What Python 2 and numpy 1 wrote, as which the CIFAR archives are published: opcodes of pickle's protocol 2."""

    def write(value: Any) -> bytes:
        if isinstance(value, dict):
            return b"}(" + b"".join(write(key) + write(item) for key, item in value.items()) + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(write, value)) + b"e"
        if isinstance(value, tuple):
            return b"(" + b"".join(map(write, value)) + b"t"
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if value is None:
            return b"N"
        if isinstance(value, np.ndarray):
            kind = b"cnumpy\ndtype\n" + write(("u1", 0, 1)) + b"R" + write((3, "|", None, None, None, -1, -1, 0)) + b"b"
            empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + write((0,)) + write("b") + b"tR"
            return empty + b"(" + write(1) + write(value.shape) + kind + write(0) + write(value.tobytes()) + b"tb"
        content = value if isinstance(value, bytes) else value.encode("ascii")
        return b"T" + struct.pack("<i", len(content)) + content

    return b"\x80\x02" + write(value) + b"."


def write_cifar_batch(path: Path, images: Images, labels_key: str = "labels") -> None:
    """Writes a batch in the published form: a row an image, its red plane, then the green, then the blue."""
    rows: NDArray[np.uint8] = np.ascontiguousarray(images.pixels.transpose(0, 3, 1, 2)).reshape(len(images), -1)
    batch = {"batch_label": "a batch", labels_key: images.labels.tolist(), "data": rows}
    if labels_key == "fine_labels":
        batch["coarse_labels"] = [0] * len(images)
    batch["filenames"] = [f"{i}.png" for i in range(len(images))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(python2_pickle(batch))


@pytest.fixture
def write_batch() -> Callable[..., None]:
    """Writes images to a path as a CIFAR batch."""
    return write_cifar_batch


@pytest.fixture
def cifar10_root(tmp_path: Path) -> Path:
    """A root that holds ``cifar-10-batches-py``: six batches of 20 images, those of `noise(batch, 20, 10)`, 0 to 5."""
    root = tmp_path / "cifar10"
    for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        write_cifar_batch(root / "cifar-10-batches-py" / name, random_images(i, 20, 10))
    (root / "cifar-10-batches-py" / "batches.meta").write_bytes(b"not read")
    return root


@pytest.fixture
def cifar100_root(tmp_path: Path) -> Path:
    """A root that holds ``cifar-100-python``: `noise(0, 200, 100)` for training, `noise(1, 100, 100)` for testing."""
    root = tmp_path / "cifar100"
    for i, (name, count) in enumerate((("train", 200), ("test", 100))):
        write_cifar_batch(root / "cifar-100-python" / name, random_images(i, count, 100), "fine_labels")
    return root


@pytest.fixture
def pack() -> Callable[..., Archive]:
    """Packs a folder into a ``.tar.gz``; the archive names the addresses that are given, by default none."""

    def make(folder: Path, path: Path, urls: tuple[str, ...] = ()) -> Archive:
        path.parent.mkdir(parents=True, exist_ok=True)
        from cifar_lit.data.download import Archive

        with tarfile.open(path, "w:gz") as tar:
            tar.add(folder, arcname=folder.name)
        return Archive(path.name, folder.name, hashlib.sha256(path.read_bytes()).hexdigest(), urls)

    return make
