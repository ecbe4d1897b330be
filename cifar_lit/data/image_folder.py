"""One's own images: a folder a class, decoded once and cached."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cifar_lit.console import first_names, say
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.decoding import decode
from cifar_lit.data.image_cache import cache_folder, cached
from cifar_lit.data.images import Images
from cifar_lit.errors import UserError, check_whole
from cifar_lit.files import expanded, write_atomically

EXTENSIONS = (".png", ".jpg", ".jpeg")
# Folders that other programs look into for images to validate on.
HELD_OUT = ("val", "valid", "validation")


class ImageFolderDataModule(ImageDataModule):
    """Images in ``root/train/<class>/…`` and ``root/test/<class>/…``, PNG or JPEG, any class names, any size.

    They are decoded once, with a progress bar, and kept in ``~/.cache/cifar_lit``; a file that is added, removed or
    changed is noticed. Other files, and folders in the folder of a class, are passed over, which a line says.

    Args:
        root: The folder that holds ``train`` and ``test``.
        image_size: Side in pixels to which images are scaled and cut.
        **kwargs: Those of `ImageDataModule`.
    """

    def __init__(self, root: str = "data", image_size: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_whole(1, image_size=image_size)
        self.root = expanded(root)
        self.image_size = image_size
        #: Of the test images, in their order, below ``root``; empty before they are loaded.
        self.test_files: tuple[str, ...] = ()
        self._class_names: tuple[str, ...] = ()
        self._prepared: dict[str, Images] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the folders in ``train``, in alphabetical order.

        Raises:
            UserError: There are no such folders.
        """
        # Looked up once: a run goes on with the classes that it began with, whatever happens to the folder.
        if not self._class_names:
            with _looking_into(self.root):
                self._class_names = self._find_classes()
        return self._class_names

    def _find_classes(self) -> tuple[str, ...]:
        if not self.root.is_dir():
            raise UserError(
                f"There is no folder {self.root.absolute()}: name with --data.root that which holds train/<class>/ and "
                "test/<class>/."
            )
        for split in ("train", "test"):
            if not (self.root / split).is_dir():
                raise UserError(
                    f"{self.root} is no image data set: it wants the folders train/<class>/ and test/<class>/. "
                    "Name the folder that holds them with --data.root."
                )
        names = tuple(sorted(_folders_in(self.root / "train")))
        if len(names) < 2:
            raise UserError(f"{self.root / 'train'} has {len(names)} class folders: it wants at least two.")
        return names

    def prepare_data(self) -> None:
        """Decodes what is not in the cache yet, in one process of a machine."""
        if self.test_images is None:
            # What is wrong with the folders is said before thousands of files are decoded.
            listed = {split: self._list(split) for split in ("train", "test")}
            self._prepared = {split: self._load(split, *found) for split, found in listed.items()}
            self._say_what_was_passed_over()

    def load(self, split: Literal["train", "test"]) -> Images:
        """All images of a split, class after class in the order of their file names."""
        return self._prepared.pop(split) if split in self._prepared else self._load(split, *self._list(split))

    def _load(self, split: str, files: list[os.DirEntry[str]], labels: NDArray[np.int64]) -> Images:
        if split == "test":
            self.test_files = tuple(Path(file.path).relative_to(self.root).as_posix() for file in files)
        shape = (len(files), self.image_size, self.image_size, 3)
        folder = self.root.resolve() / split
        pixels = cached(folder, self._content(files), shape, lambda: self._decode_all(files, split))
        return Images(pixels, labels)

    def _list(self, split: str) -> tuple[list[os.DirEntry[str]], NDArray[np.int64]]:
        """The files of a split, class after class, and the classes' numbers."""
        with _looking_into(self.root / split):
            return self._listed(split)

    def _listed(self, split: str) -> tuple[list[os.DirEntry[str]], NDArray[np.int64]]:
        folder, names = self.root / split, self.class_names
        extra = _folders_in(folder) - set(names)
        if extra:
            listed = ", ".join(sorted(extra))
            raise UserError(
                f"{folder} has classes that {self.root / 'train'} has not, {listed}: add them there, or remove them."
            )
        files: list[os.DirEntry[str]] = []
        labels: list[int] = []
        for label, name in enumerate(names):
            images = _images_in(folder / name) if (folder / name).is_dir() else []
            if not images:
                raise UserError(f"{folder / name} holds no PNG or JPEG images: add some, or remove the class.")
            files += images
            labels += [label] * len(images)
        return files, np.array(labels, dtype=np.int64)

    def _content(self, files: Iterable[os.DirEntry[str]]) -> bytes:
        """Says which files there are, and how large and how old they are."""
        lines = []
        for file in files:
            try:
                status = file.stat()
            except OSError as error:
                raise UserError(f"Cannot read {file.path} ({error.strerror}): remove it or replace it.") from error
            # The folder of the class and the file, however the root is written.
            name = "/".join(file.path.rsplit(os.sep, 2)[-2:])
            lines.append(f"{name} {status.st_size} {status.st_mtime_ns}\n")
        return os.fsencode("".join(lines))

    def _decode_all(self, files: list[os.DirEntry[str]], split: str) -> NDArray[np.uint8]:
        # Pillow decodes outside the interpreter's lock, so threads are enough.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(lambda file: _decoded(Path(file.path), self.image_size), files)
            progress = tqdm(
                decoded, total=len(files), desc=f"Decoding {split}", unit=" images", leave=False, disable=None
            )
            pixels = np.empty((len(files), self.image_size, self.image_size, 3), np.uint8)
            wrong = dict[str, UserError]()
            for i, image in enumerate(progress):
                if isinstance(image, UserError):
                    wrong[files[i].path] = image
                else:
                    pixels[i] = image
        if len(wrong) > 1:
            # All at once: to find them one by one would be as many runs.
            listed = cache_folder() / "unreadable.txt"
            names = first_names([*wrong])
            with contextlib.suppress(UserError):
                write_atomically(listed, "".join(f"{error}\n" for error in wrong.values()))
                names += f"; all in {listed}"
            raise UserError(f"Cannot read {len(wrong):,} files ({names}): remove them or replace them.")
        for error in wrong.values():
            raise error
        return pixels

    def _say_what_was_passed_over(self) -> None:
        held_out = next((self.root / name for name in HELD_OUT if (self.root / name).is_dir()), None)
        if held_out is not None:
            say(f"{held_out} is not used: --data.val_size holds images of train/ out to validate on")
        folders = [self.root / split / name for split in ("train", "test") for name in self.class_names]
        others = [
            Path(entry.path).relative_to(self.root).as_posix()
            for folder in folders
            for entry in _visible(folder)
            if not _is_image(entry)
        ]
        if others:
            say(
                f"Passed over {len(others):,} in {self.root} that are no PNG or JPEG files in the folder of a class "
                f"({first_names(sorted(others))})"
            )


def _folders_in(folder: Path) -> set[str]:
    return {entry.name for entry in _visible(folder) if entry.is_dir()}


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    # Hidden ones are no images: a copy from a Mac has "._cat.jpg" beside "cat.jpg".
    return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]


@contextlib.contextmanager
def _looking_into(folder: Path) -> Iterator[None]:
    """Names the place where folders are listed and one cannot be."""
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        raise UserError(f"Cannot look into {place} ({error.strerror}): make it readable, or remove it.") from error


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(EXTENSIONS)


def _images_in(folder: Path) -> list[os.DirEntry[str]]:
    return sorted(filter(_is_image, _visible(folder)), key=lambda entry: entry.name)


def _decoded(path: Path, size: int) -> NDArray[np.uint8] | UserError:
    """The image, or what is wrong with it."""
    try:
        return decode(path, size)
    except UserError as error:
        return error
