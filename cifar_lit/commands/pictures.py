"""Predictions for one's own pictures, a folder of them or one."""

import contextlib
import csv
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning import LightningModule
from torch import Tensor
from tqdm import tqdm

from cifar_lit.commands.evaluation import cam_target_of
from cifar_lit.commands.outputs import logits_of
from cifar_lit.commands.picture_files import OVERLAYS, UNREADABLE, lies_in, pictures_in
from cifar_lit.console import first_names, printable, say
from cifar_lit.errors import UserError
from cifar_lit.explain.gradcam import check_method, class_activation_maps, overlay
from cifar_lit.files import ready_to_write, write_atomically

Pixels = NDArray[np.uint8]

BATCH = 64
TOP = 3
# Pixels that a side of a picture of Grad-CAM has at least.
OVERLAY_SIDE = 256


def predict_pictures(
    model: LightningModule,
    read: Callable[[Path], Pixels],
    normalize: Callable[[Tensor], Tensor],
    pictures: Path,
    output: Path,
    class_names: Sequence[str],
    overlays: Path | None = None,
    method: str = "GradCAM",
) -> None:
    """Writes a table with a row a picture: its file, the predicted class, the next two, and every probability.

    Computes in float32. A file that cannot be read is left out of the table; ``unreadable.txt`` beside it lists all of
    them. Hidden files are passed over.

    Args:
        model: Maps normalised images to logits; with its weights.
        read: Reads a file as pixels, uint8 (H, W, 3), RGB, all of one size; raises `UserError` where it cannot.
        normalize: Maps pixels, uint8 (N, H, W, 3), to what the model gets, float32 (N, 3, H, W).
        pictures: A folder of them, in folders below it, too; or one, of which a line says what it is taken for.
        output: The CSV file to write.
        class_names: In the order of the logits.
        overlays: Folder for a picture a file with Grad-CAM of the predicted class beside the image; None makes none.
        method: Of `class_activation_maps`.

    Raises:
        UserError: There are no pictures, or one alone cannot be read; the network tells other classes apart than have
            names; or, after everything else was written, some pictures could not be read.
    """
    check_method(method)
    target = cam_target_of(model) if overlays is not None else None
    # One picture is a folder that holds it alone.
    one = pictures.is_file()
    folder = pictures.parent if one else pictures
    files, others, unreadable = _one_picture(pictures, read, output) if one else pictures_in(folder, output, overlays)
    ready_to_write(output.parent)
    if overlays is not None:
        ready_to_write(overlays)
    if others:
        say(f"Passed over {_counted(others, folder)} that are no pictures")

    model.eval()
    rows: list[list[str]] = []
    for batch, pixels in _batches(files, read, unreadable):
        images = normalize(torch.from_numpy(pixels))
        # Compiling is for training: here it would take longer than the pictures.
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
            logits = logits_of(model, images)
        if logits.shape[1] != len(class_names):
            # As a network may have been trained: see `check_classes`.
            raise UserError(
                f"{type(model).__name__} tells {logits.shape[1]} classes apart, and its data had {len(class_names)}: "
                "there are no names for all."
            )
        probabilities = logits.softmax(dim=1).numpy()
        if np.isnan(probabilities).any():
            lost = [file for file, of_file in zip(batch, probabilities, strict=True) if np.isnan(of_file).any()]
            raise UserError(f"The network's output for {_counted(lost, folder)} is no number: training diverged.")
        # Of equal logits the first class, as everywhere. Probabilities may all be 0 behind the first.
        ranked = np.argsort(-logits.numpy(), axis=1, kind="stable")
        rows += [
            _row(file.relative_to(folder), of_file, order, class_names)
            for file, of_file, order in zip(batch, probabilities, ranked, strict=True)
        ]
        if overlays is not None and target is not None:
            maps = class_activation_maps(*target, images, ranked[:, 0], method)
            for file, image, marked in zip(batch, pixels, overlay(pixels, maps), strict=True):
                write_atomically(overlays / f"{file.relative_to(folder)}.png", _side_by_side(image, marked))
    _remove_overlays(output, overlays or output.with_name(OVERLAYS), {row[0] for row in rows if overlays})
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["file", "predicted", "probability", "second", "third", *(f"p_{name}" for name in class_names)])
    writer.writerows(rows)
    write_atomically(output, table.getvalue())
    if one and rows:
        others_in_order = "; then " * bool(rows[0][3]) + ", ".join(name for name in rows[0][3:5] if name)
        say(f"{printable(rows[0][0])}: {rows[0][1]}, {100 * float(rows[0][2]):.1f} % sure{others_in_order}")
    counted = f"{len(rows):,} prediction{'' if len(rows) == 1 else 's'}"
    say(f"Wrote {counted} to {output}" + (f" and Grad-CAM to {overlays}" if overlays else ""))
    listed = output.with_name(UNREADABLE)
    if unreadable:
        write_atomically(listed, "".join(f"{name}\n" for name in _names(unreadable, folder)))
        raise UserError(
            f"{_counted(unreadable, folder)} of {len(rows) + len(unreadable):,} could not be read, and {output} lacks "
            f"them: {listed} lists them."
        )
    # Of a run before.
    listed.unlink(missing_ok=True)


def _remove_overlays(table: Path, place: Path, kept: set[str]) -> None:
    """Removes those of the pictures that a run before has in its table: they would mix with those of now."""
    # As it is written: names of files need not be text.
    with (
        contextlib.suppress(OSError, UnicodeError, csv.Error),
        table.open(newline="", encoding="utf-8", errors="surrogateescape") as lines,
    ):
        for name in {row.get("file") or "" for row in csv.DictReader(lines)} - kept:
            path = place / f"{name}.png"
            # A table may say anything.
            if name and lies_in(path, place):
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    # Of a folder of pictures; one that holds others stays.
                    path.parent.rmdir()


def _one_picture(file: Path, read: Callable[[Path], Pixels], output: Path) -> tuple[list[Path], ...]:
    """As `pictures_in`. One that cannot be read, or would be written over, ends it before anything is written."""
    places = (output, output.with_name(UNREADABLE), output.with_name(OVERLAYS))
    if any(lies_in(file, place) for place in places):
        raise UserError(f"{file} lies where predictions are written: copy it elsewhere, or name another --output_dir.")
    _pixels_of(file, read)
    return [file], [], []


def _batches(
    files: list[Path], read: Callable[[Path], Pixels], unreadable: list[Path]
) -> Iterator[tuple[list[Path], Pixels]]:
    """The files that can be read, with their pixels uint8 (n, H, W, 3); the others are added to ``unreadable``."""
    names: list[Path] = []
    pixels: list[Pixels] = []
    for file in tqdm(files, desc="Predicting", unit=" pictures", leave=False, disable=None):
        try:
            pixels.append(_pixels_of(file, read))
            names.append(file)
        except UserError:
            unreadable.append(file)
        if len(names) == BATCH:
            yield names, np.stack(pixels)
            names, pixels = [], []
    if names:
        yield names, np.stack(pixels)


def _pixels_of(file: Path, read: Callable[[Path], Pixels]) -> Pixels:
    with warnings.catch_warnings():
        # Of a picture of more than 89 million pixels Pillow only warns; memory does not grow by warnings.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return read(file)


def _row(file: Path, probabilities: NDArray[np.float32], order: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    best = [names[label] for label in order[:TOP]]
    # Of two classes there is no third.
    best += [""] * (TOP - len(best))
    return [file.as_posix(), best[0], f"{probabilities[order[0]]:.9g}", *best[1:], *(f"{p:.9g}" for p in probabilities)]


def _side_by_side(image: Pixels, marked: Pixels) -> bytes:
    """A PNG of two pictures, uint8 (H, W, 3), enlarged pixel by pixel."""
    factor = math.ceil(OVERLAY_SIDE / min(image.shape[:2]))
    pair = np.concatenate([image, marked], axis=1).repeat(factor, axis=0).repeat(factor, axis=1)
    png = io.BytesIO()
    Image.fromarray(pair).save(png, "PNG")
    return png.getvalue()


def _names(files: Sequence[Path], folder: Path) -> list[str]:
    return [printable(str(file.relative_to(folder))) for file in files]


def _counted(files: Sequence[Path], folder: Path) -> str:
    """A number of files and the first names, as text whatever the bytes of the names."""
    names = first_names([str(file.relative_to(folder)) for file in files])
    return f"{len(files):,} file{'s' if len(files) > 1 else ''} ({names})"
