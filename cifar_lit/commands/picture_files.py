"""Which files of a folder are pictures."""

import os
from collections.abc import Iterator
from pathlib import Path

from cifar_lit.console import first_names
from cifar_lit.errors import UserError

#: What pictures may be, by Pillow's names.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Of pictures that Pillow, or this project, does not read: they are listed as such, not passed over.
UNREAD_EXTENSIONS = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".nef", ".psd", ".svg", ".tga", ".ppm")
# Where all that cannot be read are listed.
UNREADABLE = "unreadable.txt"
OVERLAYS = "overlays"


def lies_in(path: Path, place: Path) -> bool:
    """Whether a file is at a place or below it, by wherever links lead."""
    return _real(path).is_relative_to(_real(place))


def pictures_in(folder: Path, output: Path, overlays: Path | None) -> tuple[list[Path], list[Path], list[Path]]:
    """What a folder and those below it hold, without hidden files and those that a run before wrote.

    Args:
        folder: The folder.
        output: The table to write.
        overlays: Folder for the overlays, if there are to be any.

    Returns:
        Pictures, by their names' endings; other files; folders that may not be looked into.

    Raises:
        UserError: There are no pictures, or overlays would mix with them.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder and no picture: give one that holds pictures, or a picture.")
    written = [_real(output), _real(output.with_name(UNREADABLE))]
    if overlays is not None and overlays.resolve() == folder.resolve():
        raise UserError(f"Overlays in {folder} would mix with its pictures: name another folder for them.")
    # Also those of a run before that are not asked for now.
    place = overlays or output.with_name(OVERLAYS)
    if place.resolve() != folder.resolve() and lies_in(place, folder):
        written.append(_real(place))
    closed: list[Path] = []
    found = [(path, _real(path)) for path in _files_below(folder, closed)]
    files = sorted(path for path, real in found if not any(real.is_relative_to(place) for place in written))
    pictures = [path for path in files if path.suffix.lower() in EXTENSIONS + UNREAD_EXTENSIONS]
    if not pictures:
        but = f" that may be looked at, and {first_names([*map(str, closed)])} may not" if closed else ""
        raise UserError(f"{folder} holds no pictures{but}: give a folder with files such as {', '.join(EXTENSIONS)}.")
    known = set(pictures)
    return pictures, [path for path in files if path not in known], sorted(closed)


def _real(path: Path) -> Path:
    """Where it is, behind all links: `Path.resolve` raises where one leads to itself (Python before 3.13)."""
    return Path(os.path.realpath(path))


def _files_below(folder: Path, closed: list[Path]) -> Iterator[Path]:
    """Files in a folder, its folders and what they link to, without hidden ones; also links that lead nowhere.

    Args:
        folder: The folder.
        closed: Gets the folders below it that may not be looked into.
    """
    seen = set[str]()
    for place, folders, names in os.walk(folder, onerror=lambda e: closed.append(Path(e.filename)), followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            # A folder that links to one that holds it would never end.
            folders.clear()
            continue
        seen.add(real)
        visible = [name for name in folders if not name.startswith(".")]
        # Those that are no links come first, and so have their pictures under their own names.
        folders[:] = sorted(visible, key=lambda name: (Path(place, name).is_symlink(), name))
        yield from (Path(place, name) for name in names if not name.startswith("."))
