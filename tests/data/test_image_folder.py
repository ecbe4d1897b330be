import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.Image import Exif
from PIL.PngImagePlugin import PngInfo

from cifar_lit.data import image_folder as module
from cifar_lit.data.decoding import decode
from cifar_lit.data.image_cache import cache_folder
from cifar_lit.data.image_folder import ImageFolderDataModule
from cifar_lit.data.images import Images
from cifar_lit.errors import UserError

MakeFolder = Callable[..., Path]
ORIENTATION = 0x0112


def loaded(root: Path, size: int = 32) -> tuple[Images, Images]:
    data = ImageFolderDataModule(root=str(root), image_size=size)
    data.prepare_data()
    return data.load("train"), data.load("test")


def error_of(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        ImageFolderDataModule(root=str(root)).prepare_data()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_path_is_kept_as_text_for_a_checkpoint() -> None:
    assert ImageFolderDataModule(root=Path("some") / "folder").hparams["root"] == str(Path("some", "folder"))  # type: ignore[arg-type]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded from here on."""
    names: list[str] = []

    def noted(path: Path, size: int) -> object:
        names.append(path.name)
        return decode(path, size)

    monkeypatch.setattr(module, "decode", noted)
    return names


# Layout


def test_classes_are_the_folders_in_alphabetical_order(image_folder: MakeFolder) -> None:
    root = image_folder(classes=("zebra", "Ant", "héron gris", "cat"), train=3, test=2)
    data = ImageFolderDataModule(root=str(root))
    assert data.class_names == ("Ant", "cat", "héron gris", "zebra")
    assert data.num_classes == 4
    train, test = loaded(root)
    assert train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert test.labels.tolist() == [0] * 2 + [1] * 2 + [2] * 2 + [3] * 2
    data.setup()
    assert [Path(file).parent.as_posix() for file in data.test_files] == [
        f"test/{data.class_names[label]}" for label in test.labels
    ]
    assert all((root / file).is_file() for file in data.test_files)
    assert train.pixels.dtype == np.uint8
    assert train.labels.dtype == np.int64
    first = np.asarray(Image.open(root / "train" / "Ant" / "0.png"))
    last = np.asarray(Image.open(root / "test" / "zebra" / "1.png"))
    assert np.array_equal(train.pixels[0], first)
    assert np.array_equal(test.pixels[-1], last)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".jpeg", ".JPG"])
def test_png_and_jpeg_are_images(image_folder: MakeFolder, suffix: str) -> None:
    train, test = loaded(image_folder(train=4, test=1, suffix=suffix))
    assert (len(train), len(test)) == (8, 2)


def test_other_files_and_hidden_ones_are_left_alone(image_folder: MakeFolder) -> None:
    root = image_folder()
    (root / "train" / "notes.txt").write_text("not a class")
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    (root / "train" / "cat" / "._0.png").write_text("what a Mac leaves")
    (root / "train" / ".git").mkdir()
    (root / "test" / ".git").mkdir()
    train, _ = loaded(root)
    assert len(train) == 6


def test_root_may_begin_with_a_tilde(image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(image_folder().parent))
    assert ImageFolderDataModule(root="~/images").class_names == ("cat", "dog")


def test_a_file_name_that_is_no_utf8_is_read(image_folder: MakeFolder) -> None:
    root = image_folder()
    folder = os.fsencode(root / "train" / "cat")
    try:
        os.rename(folder + b"/0.png", folder + b"/\xff.png")  # noqa: PTH104
    except OSError:
        pytest.skip("this file system takes no such name")
    assert len(loaded(root)[0]) == 6


def test_classes_stay_those_of_the_beginning(image_folder: MakeFolder) -> None:
    root = image_folder()
    data = ImageFolderDataModule(root=str(root), val_size=2)
    data.prepare_data()
    data.setup()
    (root / "train" / "aardvark").mkdir()
    # A checkpoint is written while the folder has changed, and tells what the run was trained on.
    assert data.state_dict()["class_names"] == ["cat", "dog"]


# Decoding


def quarters() -> Image.Image:
    """White in the upper left, red in the upper right, green in the lower left, blue in the lower right."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16], pixels[:16, 16:], pixels[16:, :16] = 255, (255, 0, 0), (0, 255, 0)
    pixels[16:, 16:] = (0, 0, 255)
    return Image.fromarray(pixels)


def corners(pixels: np.ndarray) -> list[str]:
    """The colours of the quarters, clockwise from the upper left."""
    size = len(pixels)
    near, far = size // 4, size - size // 4
    names = {(1, 1, 1): "white", (1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue"}
    places = ((near, near), (near, far), (far, far), (far, near))
    return [names[tuple((pixels[y, x] > 127).astype(int).tolist())] for y, x in places]


UPRIGHT = ["white", "red", "blue", "green"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, UPRIGHT),
        (2, ["red", "white", "green", "blue"]),
        (3, ["blue", "green", "white", "red"]),
        (6, ["green", "white", "red", "blue"]),
        (8, ["red", "blue", "green", "white"]),
    ],
)
def test_images_are_turned_as_their_exif_data_says(
    tmp_path: Path, suffix: str, orientation: int, expected: list[str]
) -> None:
    exif = Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"turned{suffix}"
    quarters().save(path, exif=exif)
    assert corners(decode(path, 32, ["PNG", "JPEG", "TIFF", "WEBP"])) == expected


def test_odd_exif_data_does_not_make_an_image_unreadable(tmp_path: Path) -> None:
    exif = Exif()
    exif[ORIENTATION] = 6
    exif[0x011A] = 72.0
    path = tmp_path / "odd.jpg"
    quarters().save(path, exif=exif)
    # The resolution becomes a width that is a fraction, on which Pillow's own turning fails.
    path.write_bytes(path.read_bytes().replace(b"\x01\x1a\x00\x05", b"\x01\x00\x00\x05", 1))
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(Image.open(path))
    assert corners(decode(path, 32)) == ["green", "white", "red", "blue"]


def test_exif_data_that_are_none_do_not_make_an_image_unreadable(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n  8\nno hexadecimals\n")
    quarters().save(tmp_path / "odd.png", pnginfo=text)
    with pytest.raises(ValueError, match="hexadecimal"):
        Image.open(tmp_path / "odd.png").getexif()
    assert corners(decode(tmp_path / "odd.png", 32)) == corners(np.asarray(quarters()))


def test_every_turn_is_that_of_pillow(tmp_path: Path) -> None:
    for orientation in range(10):
        exif = Exif()
        exif[ORIENTATION] = orientation
        path = tmp_path / f"{orientation}.png"
        quarters().save(path, exif=exif)
        assert np.array_equal(decode(path, 32), np.asarray(ImageOps.exif_transpose(Image.open(path))))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png_becomes_rgb(tmp_path: Path, mode: str) -> None:
    grey = np.tile(np.array([0, 255], np.uint8).repeat(16), (32, 1))
    path = tmp_path / "image.png"
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(grey).convert("RGB").convert(mode).save(path)
    assert Image.open(path).mode == mode
    assert np.array_equal(decode(path, 32), np.stack([grey] * 3, axis=2))


def test_16_bits_of_grey_keep_their_shades(tmp_path: Path) -> None:
    shades = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
    Image.fromarray(shades).save(tmp_path / "deep.png")
    assert np.array_equal(decode(tmp_path / "deep.png", 32)[..., 1], shades // 256)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_on_white(tmp_path: Path, mode: str) -> None:
    """A black sign on nothing, whose hidden colour is black as well."""
    sign = Image.new("RGBA", (32, 32))
    sign.paste((0, 0, 0, 255), (8, 8, 24, 24))
    sign.convert(mode).save(tmp_path / "sign.png")
    pixels = decode(tmp_path / "sign.png", 32)
    assert (pixels[8:24, 8:24] == 0).all()
    assert (pixels[:8] == 255).all()
    assert (pixels[:, 24:] == 255).all()


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_of_32_bits_are_not_taken_for_shades(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (32, 32), 1).save(tmp_path / "science.tif")
    with pytest.raises(UserError, match="what its numbers of 32 bits stand for is not known"):
        decode(tmp_path / "science.tif", 32, ["TIFF"])


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_kind_of_jpeg_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.jpg"
    Image.new("RGB", (32, 32), (200, 200, 200)).convert(mode).save(path)
    pixels = decode(path, 32)
    assert pixels.shape == (32, 32, 3)
    assert np.all(np.abs(pixels.astype(int) - 200) <= 3)


def test_palettes_keep_their_colours(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    quarters().convert("P", palette=Image.Palette.ADAPTIVE).save(path)
    assert corners(decode(path, 32)) == UPRIGHT


@pytest.mark.parametrize("size", [32, 24, 64])
@pytest.mark.parametrize("original", [8, 32, 100])
def test_square_images_are_scaled_whole(tmp_path: Path, original: int, size: int) -> None:
    path = tmp_path / "square.png"
    quarters().resize((original, original), Image.Resampling.NEAREST).save(path)
    pixels = decode(path, size)
    assert pixels.shape == (size, size, 3)
    assert corners(pixels) == UPRIGHT
    # To the very edge: nothing was cut off, and the border between the quarters is in the middle.
    middle = size // 2
    assert (pixels[0, 0] > 200).all()
    assert (pixels[0, middle - 1 - size // 16] > 127).all()
    assert pixels[0, middle + size // 16, 1] < 127


@pytest.mark.parametrize("wide", [True, False])
def test_oblong_images_are_cut_to_their_centre(tmp_path: Path, wide: bool) -> None:
    # A quarter red, half green, a quarter blue: the centre square is green all over.
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, :32, 0] = stripes[:, 32:96, 1] = stripes[:, 96:, 2] = 255
    path = tmp_path / "oblong.png"
    Image.fromarray(stripes if wide else stripes.transpose(1, 0, 2)).save(path)
    pixels = decode(path, 32)
    assert (pixels[2:-2, 2:-2] == (0, 255, 0)).all()
    assert pixels.shape == (32, 32, 3)


def test_images_of_the_right_size_are_not_resampled(image_folder: MakeFolder) -> None:
    path = image_folder(size=20) / "train" / "cat" / "0.png"
    assert np.array_equal(decode(path, 20), np.asarray(Image.open(path)))


def test_image_size_is_that_of_the_data_set(image_folder: MakeFolder) -> None:
    train, test = loaded(image_folder(size=20), size=12)
    assert (train.pixels.shape, test.pixels.shape) == ((6, 12, 12, 3), (4, 12, 12, 3))
    with pytest.raises(UserError, match="image_size is 0: give a whole number of at least 1"):
        ImageFolderDataModule(image_size=0)


# Cache


def test_images_are_decoded_once(image_folder: MakeFolder, decoded: list[str], cache_home: Path) -> None:
    root = image_folder()
    first = loaded(root)
    assert len(decoded) == 10
    decoded.clear()
    second = loaded(root)
    assert decoded == []
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert np.array_equal(a.labels, b.labels)
    # One file a split, and nothing half-written beside it.
    assert sorted(path.suffix for path in cache_home.rglob("*") if path.is_file()) == [".npy", ".npy"]


def test_a_second_stage_reads_nothing_again(image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageFolderDataModule(root=str(image_folder()), val_size=2)
    data.prepare_data()
    data.setup("fit")
    monkeypatch.setattr(data, "_load", lambda split: pytest.fail("read again, and held twice"))
    data.prepare_data()
    data.setup("test")


def test_another_size_is_another_cache(image_folder: MakeFolder, decoded: list[str]) -> None:
    root = image_folder()
    loaded(root)
    decoded.clear()
    assert loaded(root, size=16)[0].pixels.shape == (6, 16, 16, 3)
    assert len(decoded) == 10
    decoded.clear()
    assert loaded(root)[0].pixels.shape == (6, 32, 32, 3)
    assert decoded == []


def test_a_changed_file_is_noticed(image_folder: MakeFolder) -> None:
    root = image_folder()
    loaded(root)
    path = root / "train" / "dog" / "1.png"
    old = path.stat()
    Image.new("RGB", (32, 32), (1, 2, 3)).save(path)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 1_000_000))
    train, _ = loaded(root)
    assert (train.pixels[4] == (1, 2, 3)).all()


def test_a_changed_file_of_the_same_time_is_noticed(image_folder: MakeFolder) -> None:
    root = image_folder()
    loaded(root)
    path = root / "train" / "dog" / "1.png"
    old = path.stat()
    Image.new("RGB", (32, 32), (1, 2, 3)).save(path)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert (loaded(root)[0].pixels[4] == (1, 2, 3)).all()


def test_a_file_changed_to_one_of_the_same_length_is_noticed(image_folder: MakeFolder, decoded: list[str]) -> None:
    root = image_folder()
    loaded(root)
    decoded.clear()
    path = root / "test" / "cat" / "0.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    loaded(root)
    # The other split is read from its cache.
    assert sorted(decoded) == ["0.png", "0.png", "1.png", "1.png"]


def test_an_added_file_is_noticed(image_folder: MakeFolder) -> None:
    root = image_folder()
    loaded(root)
    Image.new("RGB", (32, 32), (9, 9, 9)).save(root / "train" / "cat" / "00.png")
    train, _ = loaded(root)
    assert train.labels.tolist() == [0] * 4 + [1] * 3
    assert (train.pixels[1] == 9).all()


def test_a_removed_or_renamed_file_is_noticed(image_folder: MakeFolder) -> None:
    root = image_folder()
    before, _ = loaded(root)
    (root / "train" / "cat" / "1.png").unlink()
    after, _ = loaded(root)
    assert np.array_equal(after.pixels, before.pixels[[0, 2, 3, 4, 5]])
    (root / "train" / "cat" / "0.png").rename(root / "train" / "cat" / "z.png")
    assert np.array_equal(loaded(root)[0].pixels, before.pixels[[2, 0, 3, 4, 5]])


@pytest.mark.parametrize("obstacle", ["file in its place", "file above", "device"])
def test_a_cache_that_cannot_be_written_is_no_error(
    image_folder: MakeFolder, tmp_path: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    if obstacle == "file in its place":
        home.mkdir()
        (home / "cifar_lit").write_text("")
    elif obstacle == "file above":
        home.write_text("")
    else:
        home = Path("/dev/null")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    assert len(loaded(image_folder())[0]) == 6


def test_a_full_disk_is_no_error_and_leaves_nothing(
    image_folder: MakeFolder, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert len(loaded(image_folder())[0]) == 6
    assert [path for path in cache_home.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"junk",
        lambda content: b"PK\x03\x04junk",
        lambda content: content[:40],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content.replace(b"'|u1'", b"'|i1'"),
        lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
        lambda content: content[:-4],
    ],
    ids=["empty", "junk", "zip", "no header", "half", "a byte short", "other type", "a bit", "no checksum"],
)
def test_a_damaged_cache_is_no_error(
    image_folder: MakeFolder, cache_home: Path, damage: Callable[[bytes], bytes], decoded: list[str]
) -> None:
    root = image_folder()
    before = loaded(root)
    decoded.clear()
    for path in cache_home.rglob("*.npy"):
        path.write_bytes(damage(path.read_bytes()))
    after = loaded(root)
    assert len(decoded) == 10
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(after, before, strict=True))
    # And it is whole again.
    decoded.clear()
    loaded(root)
    assert decoded == []


def test_a_cache_of_another_shape_is_not_used(image_folder: MakeFolder, cache_home: Path) -> None:
    root = image_folder()
    loaded(root)
    for path in cache_home.rglob("*.npy"):
        np.save(path, np.zeros((1, 32, 32, 3), np.uint8))
    assert len(loaded(root)[0].pixels) == 6


def test_the_cache_lies_in_the_users_home_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "cifar_lit"


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch, image_folder: MakeFolder) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert not cache_folder().exists()
    assert len(loaded(image_folder())[0]) == 6


# Errors


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    message = error_of(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message
    assert "train/<class>/" in message
    assert "--data.root" in message


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_split_is_an_error(image_folder: MakeFolder, missing: str) -> None:
    root = image_folder()
    (root / missing).rename(root / "other")
    message = error_of(root)
    assert str(root) in message
    assert "test/<class>/" in message


def test_no_class_folders_is_an_error(image_folder: MakeFolder) -> None:
    root = image_folder(classes=())
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(root / split / "loose.png")
    message = error_of(root)
    assert f"{root / 'train'} has 0 class folders" in message


def test_one_class_only_is_an_error(image_folder: MakeFolder) -> None:
    root = image_folder(classes=("cat",))
    assert f"{root / 'train'} has 1 class folders: it wants at least two" in error_of(root)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_folder_without_images_is_an_error(image_folder: MakeFolder, split: str) -> None:
    root = image_folder()
    folder = root / split / "dog"
    for path in folder.iterdir():
        path.rename(path.with_suffix(".gif"))
    assert f"{folder} holds no PNG or JPEG images" in error_of(root)


def test_a_class_that_test_lacks_is_an_error(image_folder: MakeFolder) -> None:
    root = image_folder()
    (root / "test" / "dog").rename(root / "dog")
    assert f"{root / 'test' / 'dog'} holds no PNG or JPEG images" in error_of(root)


def test_a_class_that_train_lacks_is_an_error(image_folder: MakeFolder) -> None:
    root = image_folder()
    (root / "test" / "emu").mkdir()
    (root / "test" / "yak").mkdir()
    message = error_of(root)
    assert f"{root / 'test'} has classes that {root / 'train'} has not, emu, yak: add them" in message


@pytest.mark.skipif(os.name == "nt", reason="links take rights there")
def test_a_link_that_leads_in_a_circle_is_an_error_that_names_it(image_folder: MakeFolder) -> None:
    root = image_folder()
    circle = root / "train" / "circle"
    circle.symlink_to(circle)
    assert error_of(root).startswith(f"Cannot look into {circle} (Too many levels of symbolic links): make it readable")


@pytest.mark.parametrize("closed", ["train", "train/dog", "test", "test/dog"])
def test_a_folder_that_may_not_be_looked_into_is_an_error_that_names_it(
    image_folder: MakeFolder, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, scandir = image_folder(), os.scandir

    def forbidding(path: str | Path) -> Any:
        if Path(path) == root / closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidding)
    assert error_of(root).startswith(f"Cannot look into {root / closed} (Permission denied): make it readable")


def test_a_class_that_test_lacks_is_told_of_before_anything_is_decoded(
    image_folder: MakeFolder, decoded: list[str]
) -> None:
    root = image_folder()
    (root / "test" / "dog").rename(root / "dog")
    error_of(root)
    assert decoded == []


def is_large_for_pillows_warning(path: Path) -> None:
    Image.new("1", (10_000, 9_500)).save(path, format="PNG" if path.suffix == ".png" else "JPEG")


def becomes_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def claims_to_be_huge(path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def cut_short(path: Path) -> None:
    Image.new("RGB", (32, 32), (9, 99, 200)).save(path)
    path.write_bytes(path.read_bytes()[:-60])


def becomes_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def leads_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def is_another_format(path: Path) -> None:
    Image.new("RGB", (32, 32)).save(path, format="BMP")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("These are no pixels.\n"),
        lambda path: path.write_bytes(b""),
        cut_short,
        claims_to_be_huge,
        is_large_for_pillows_warning,
        becomes_a_folder,
        becomes_a_pipe,
        leads_nowhere,
        is_another_format,
    ],
    ids=["text", "empty", "cut short", "bomb", "large", "folder", "pipe", "dead link", "bmp"],
)
def test_an_image_that_cannot_be_read_is_an_error_that_names_it(
    image_folder: MakeFolder, suffix: str, spoil: Callable[[Path], object], cache_home: Path
) -> None:
    root = image_folder(suffix=suffix)
    path = root / "train" / "dog" / f"1{suffix}"
    spoil(path)
    message = error_of(root)
    assert f"Cannot read {path}" in message
    assert "remove it or replace it" in message
    # A split that was not read whole is not cached.
    assert list(cache_home.rglob("*.npy")) == []


def test_pillow_does_not_warn_of_what_is_refused(tmp_path: Path) -> None:
    is_large_for_pillows_warning(tmp_path / "large.png")
    # A process of its own: pytest has filters of its own for warnings.
    program = "import sys, pathlib; from cifar_lit.data.decoding import decode; decode(pathlib.Path(sys.argv[1]), 32)"
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "large.png")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "UserError: Cannot read" in run.stderr
    assert "DecompressionBombWarning" not in run.stderr


def test_all_that_cannot_be_read_is_named_at_once(image_folder: MakeFolder, cache_home: Path) -> None:
    root = image_folder(train=8)
    for i in range(7):
        cut_short(root / "train" / "dog" / f"{i}.png")
    message = error_of(root)
    assert message.startswith(f"Cannot read 7 files ({root / 'train' / 'dog' / '0.png'}, ")
    listed = cache_home / "cifar_lit" / "unreadable.txt"
    assert message.endswith(f", …; all in {listed}): remove them or replace them.")
    assert message.count(".png") == 5
    lines = listed.read_text(encoding="utf-8").splitlines()
    assert [f"{i}.png as PNG or JPEG (" in line for i, line in enumerate(lines)] == [True] * 7


def test_what_is_passed_over_is_said_in_a_line(image_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_folder()
    loaded(root)
    assert capsys.readouterr().out == ""
    (root / "train" / "cat" / "more").mkdir()
    (root / "test" / "dog" / "a.webp").touch()
    (root / "test" / "dog" / ".hidden").touch()
    loaded(root)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"Passed over 2 in {root}" in said
    assert "(test/dog/a.webp, train/cat/more)" in said


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_folder_of_images_to_validate_on_is_said_not_to_be_used(
    image_folder: MakeFolder, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    root = image_folder()
    (root / name).mkdir()
    loaded(root)
    assert capsys.readouterr().out.startswith(f"{root / name} is not used: --data.val_size holds images")


def test_of_a_folder_older_images_are_not_kept_for_ever(
    image_folder: MakeFolder, cache_home: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder()
    loaded(root)
    loaded(root, size=16)
    kept = {*cache_home.rglob("*.npy")}
    assert len(kept) == 4
    (root / "train" / "cat" / "0.png").unlink()
    loaded(root)
    assert len({*cache_home.rglob("*.npy")}) == 5, "a young one may be of another machine"
    for path in kept:
        os.utime(path, (0, 0))
    (root / "train" / "cat" / "1.png").unlink()
    loaded(root)
    assert len({*cache_home.rglob("*.npy")}) == 5
    assert len(kept - {*cache_home.rglob("*.npy")}) == 1
    # The same folder by another name.
    decoded.clear()
    monkeypatch.chdir(root.parent)
    loaded(Path(root.name))
    assert decoded == []
