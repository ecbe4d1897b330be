"""Picture files as arrays of one size."""

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from cifar_lit.errors import UserError

# What it warns of on two lines is an error here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# By the orientation that a camera notes (EXIF 2.32, 4.6.4). ImageOps.exif_transpose would also write the other notes
# anew, and fails on the odd ones that some cameras leave.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(path: Path, size: int | tuple[int, int], formats: Sequence[str] = ("PNG", "JPEG")) -> NDArray[np.uint8]:
    """An image as uint8 (H, W, 3), RGB, upright, on white where it is transparent.

    One of another size is scaled and cut to its centre.

    Args:
        path: The file.
        size: Height and width in pixels, or both where they are the same.
        formats: Pillow's names of the formats that may be in it, whatever it is called.

    Raises:
        UserError: The file is no image that can be read.
    """
    try:
        if path.exists() and not path.is_file():
            # Of a pipe nobody may ever write to one would wait for ever.
            raise OSError("it is no file")
        with Image.open(path, formats=tuple(formats)) as image:
            # Pillow only warns up to twice as many; memory does not grow by warnings.
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"{image.width}×{image.height} pixels are too many")
            # Before the turn is looked up: Pillow turns a TIFF itself, and takes the note away.
            image.load()
            turn = None
            with contextlib.suppress(Exception):  # What a damaged note raises is not limited to any list.
                turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            upright = image if turn is None else image.transpose(turn)
            if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format == "PNG"):
                # 16 bits of grey, which convert would cut off at 255.
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            elif upright.mode in ("I", "F"):
                raise ValueError("what its numbers of 32 bits stand for is not known")
            if upright.has_transparency_data:
                ground = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(ground, upright.convert("RGBA"))
            upright = upright.convert("RGB")
    except Exception as error:  # What a damaged file raises is not limited to any list.
        raise UserError(f"Cannot read {path} as {' or '.join(formats)} ({error}): remove it or replace it.") from error
    height, width = (size, size) if isinstance(size, int) else size
    if upright.size != (width, height):
        upright = ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(upright)
