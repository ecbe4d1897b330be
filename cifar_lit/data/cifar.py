"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images")."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.download import Archive, fetch_and_unpack
from cifar_lit.data.images import Images
from cifar_lit.errors import UserError
from cifar_lit.files import expanded

# The authors' page, and the copy that PaddlePaddle keeps.
PREFIXES = ("https://www.cs.toronto.edu/~kriz", "https://dataset.bj.bcebos.com/cifar")


def _archive(name: str, folder: str, sha256: str) -> Archive:
    return Archive(name, folder, sha256, tuple(f"{prefix}/{name}" for prefix in PREFIXES))


class _PickledType:
    """Stands in for numpy.dtype: its name, and nothing that a file claims about it."""

    def __init__(self, name: bytes | str, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which single bytes have not."""


class _PickledArray:
    """Stands in for an array: its bytes. numpy itself believes what a damaged file claims, and can crash on it."""

    def __init__(self, *_: Any) -> None:
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _PickledType, bool, bytes]) -> None:
        _, shape, kind, is_fortran, content = state
        if kind.name not in (b"u1", "u1"):
            raise ValueError(f"it holds {kind.name!r} instead of bytes")
        self.array = np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_fortran else "C")


class _DataUnpickler(pickle.Unpickler):
    """Reads what the published batches are made of, arrays and plain containers, and refuses all else."""

    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy", "ndarray"): _PickledArray,
        ("numpy", "dtype"): _PickledType,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which image data has no use for")
        return self.ALLOWED[module, name]


class _CifarDataModule(ImageDataModule):
    """What both sets share: their files differ in names alone."""

    ARCHIVE: ClassVar[Archive]
    FILES: ClassVar[dict[str, tuple[str, ...]]]
    LABELS_KEY: ClassVar[bytes]
    MEAN: ClassVar[tuple[float, float, float]]
    STD: ClassVar[tuple[float, float, float]]

    def __init__(self, root: str = "data", val_size: int | float = 5000, **kwargs: Any) -> None:
        super().__init__(val_size=val_size, **kwargs)
        self.root = expanded(root)

    def prepare_data(self) -> None:
        """Downloads, verifies and unpacks the archive, unless it or the unpacked batches are there."""
        if self._unpacked is None:
            fetch_and_unpack(self.ARCHIVE, self.root)

    @property
    def _unpacked(self) -> Path | None:
        # The root may be the folder of batches itself, or hold it.
        folders = (self.root, self.root / self.ARCHIVE.folder)
        return next((f for f in folders if (f / self.FILES["test"][0]).is_file()), None)

    def load(self, split: Literal["train", "test"]) -> Images:
        """All images of a split, in the published order."""
        folder = self._unpacked
        if folder is None and not (self.root / self.ARCHIVE.folder).exists():
            raise UserError(f"{self.root} has no {self.ARCHIVE.folder}: call prepare_data first, which fetches it.")
        if folder is None:
            raise UserError(
                f"{self.root / self.ARCHIVE.folder} lacks {self.FILES['test'][0]}: remove that folder, "
                "and it is fetched again."
            )
        batches = [self._read(folder / name) for name in self.FILES[split]]
        return Images(np.concatenate([b.pixels for b in batches]), np.concatenate([b.labels for b in batches]))

    def _read(self, path: Path) -> Images:
        try:
            with path.open("rb") as file:
                batch = _DataUnpickler(file, encoding="bytes").load()
            # A row holds the red plane, the green and the blue.
            pixels = batch[b"data"].array.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = np.asarray(batch[self.LABELS_KEY], dtype=np.int64)
            if len(pixels) != len(labels) or not 0 <= labels.min() <= labels.max() < len(self.class_names):
                raise ValueError("it holds other labels than the published")
        except Exception as error:  # What a damaged pickle raises is not limited to any list.
            raise UserError(
                f"{path} is no batch of {self.ARCHIVE.folder} ({error}): remove {path.parent} and it is fetched again."
            ) from error
        return Images(np.ascontiguousarray(pixels), labels)

    def channel_statistics(self, train: Images) -> tuple[Sequence[float], Sequence[float]]:
        """The constants of the whole published training split."""
        return self.MEAN, self.STD


class CIFAR10DataModule(_CifarDataModule):
    """60,000 photographs of 10 classes, 32×32; downloaded once (170 MB).

    Args:
        root: Where the archive ``cifar-10-python.tar.gz`` or the folder ``cifar-10-batches-py`` is, or will be.
        val_size: Training images held out for validation, stratified: a number, or below 1 a share; 0 validates on
            the test split.
        **kwargs: Those of `ImageDataModule`.
    """

    ARCHIVE = _archive(
        "cifar-10-python.tar.gz",
        "cifar-10-batches-py",
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    )
    FILES: ClassVar = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
    LABELS_KEY = b"labels"
    # Over the 50,000 training images, on [0, 1]; the figures that the field uses.
    MEAN = (0.4914, 0.4822, 0.4465)
    STD = (0.2470, 0.2435, 0.2616)

    @property
    def class_names(self) -> tuple[str, ...]:
        """As published."""
        return ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CIFAR100DataModule(_CifarDataModule):
    """60,000 photographs of 100 classes, 32×32; downloaded once (169 MB).

    Args:
        root: Where the archive ``cifar-100-python.tar.gz`` or the folder ``cifar-100-python`` is, or will be.
        val_size: Training images held out for validation, stratified: a number, or below 1 a share; 0 validates on
            the test split.
        **kwargs: Those of `ImageDataModule`.
    """

    ARCHIVE = _archive(
        "cifar-100-python.tar.gz",
        "cifar-100-python",
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    )
    FILES: ClassVar = {"train": ("train",), "test": ("test",)}
    LABELS_KEY = b"fine_labels"
    # Over the 50,000 training images, on [0, 1]; the figures that the field uses.
    MEAN = (0.5071, 0.4865, 0.4409)
    STD = (0.2673, 0.2564, 0.2762)

    @property
    def class_names(self) -> tuple[str, ...]:
        """As published, in alphabetical order."""
        return CIFAR100_CLASSES


# fmt: off
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger",
    "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
)
# fmt: on
