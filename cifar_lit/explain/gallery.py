"""The gallery of a report: pictures and Grad-CAM maps as few small files, and what the card of each says."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar_lit.explain.gradcam import COLOUR_MAP
from cifar_lit.explain.scoring import Predictions

COLUMNS = 10
TILES = 100  # a sheet; the browser decodes only the sheets whose cards are open
BLOCK = 8  # of JPEG: a tile of whole blocks never bleeds into its neighbour
MAP_QUALITY = 75  # maps are smooth: 44 dB at less than 200 bytes a map of 32×32
# Longest side in pixels and JPEG quality; the first that keeps to the budget is taken. At 92, with colours at full
# resolution, CIFAR's pictures come back at 38 dB, 3 levels of 255 off, in a third of what lossless WebP takes.
RUNGS = ((96, 92), (64, 85), (48, 85), (32, 85), (32, 60), (24, 50))
BUDGET = 6_500_000  # characters of all sheets together; the rest of a report needs far less than what remains of 10 MB
TOP = 3


@dataclass(frozen=True)
class Sprites:
    """Tiles of the same size in sheets of `TILES`, `COLUMNS` a row, in the order of the images.

    Attributes:
        width: Of what a tile shows, in pixels.
        height: Likewise.
        quality: Of the pictures' JPEG.
        picture: The sheets of the pictures, each the base64 of an RGB JPEG.
        predicted: Those of the maps for the predicted class, of a grey JPEG, 255 for 1; empty without maps.
        true: Those of the maps for the true class, likewise.
    """

    width: int
    height: int
    quality: int
    picture: list[str]
    predicted: list[str]
    true: list[str]

    @property
    def characters(self) -> int:
        """Of all sheets."""
        return sum(map(len, (*self.picture, *self.predicted, *self.true)))

    def to_json(self) -> dict[str, Any]:
        """What a browser needs to cut the sheets."""
        return {
            "width": self.width,
            "height": self.height,
            "pitch": [_whole_blocks(self.width), _whole_blocks(self.height)],
            "columns": COLUMNS,
            "tiles": TILES,
            "sheets": {"picture": self.picture, "predicted": self.predicted, "true": self.true},
            "colours": matplotlib.colormaps[COLOUR_MAP](np.arange(256), bytes=True)[:, :3].tolist(),
        }


def sprites(
    pixels: NDArray[np.uint8],
    maps_predicted: NDArray[np.float32] | None,
    maps_true: NDArray[np.float32] | None,
    budget: int = BUDGET,
) -> Sprites:
    """The images and maps as sheets, as true as the budget allows.

    Args:
        pixels: uint8 (n, H, W, 3).
        maps_predicted: Grad-CAM for the predicted class, float32 (n, H, W) in [0, 1].
        maps_true: Grad-CAM for the true class, likewise.
        budget: Characters that all sheets together should keep to; the smallest tiles are taken even if they do not.
    """
    for side, quality in RUNGS:
        width, height = _size(pixels.shape[2], pixels.shape[1], side)
        result = Sprites(
            width,
            height,
            quality,
            picture=_sheets(_tiles(pixels, width, height), quality),
            predicted=_map_sheets(maps_predicted, width, height),
            true=_map_sheets(maps_true, width, height),
        )
        if result.characters <= budget:
            break
    return result


def cards(
    predictions: Predictions, shown: NDArray[np.int64], files: Sequence[str] | None = None
) -> dict[str, list[Any]]:
    """What the cards of the images ``shown`` say, a list a field: classes as numbers, probabilities in [0, 1].

    Args:
        predictions: For N images.
        shown: Indices of some, int64 (n,).
        files: Names of the N images' files, where there are such.
    """
    # By logits, as the predicted class is: probabilities can be equal where logits are not.
    top = np.argsort(-predictions.logits[shown], axis=1, kind="stable")[:, :TOP]
    probabilities = predictions.probabilities[shown]
    named = {"file": [files[index] for index in shown.tolist()]} if files is not None else {}
    return {
        "index": shown.tolist(),
        **named,
        "true": predictions.labels[shown].tolist(),
        "predicted": predictions.predicted[shown].tolist(),
        "loss": _digits(predictions.losses[shown]),
        "top": top.tolist(),
        "top_probabilities": [_digits(row) for row in np.take_along_axis(probabilities, top, axis=1)],
        "true_probability": _digits(probabilities[np.arange(len(shown)), predictions.labels[shown]]),
    }


def _digits(values: NDArray[np.floating[Any]]) -> list[float]:
    """Numbers as the table of predictions has them, with nine digits: what the page rounds is what is there."""
    return [float(f"{abs(value):.9g}") for value in values.tolist()]


def _size(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height scaled down until none exceeds ``side``."""
    scale = min(1, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _whole_blocks(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _tiles(images: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """Images, (n, H, W) or (n, H, W, 3), at the size, their edges repeated to whole blocks."""
    if len(images) and images.shape[1:3] != (height, width):
        scaled = (Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS) for image in images)
        images = np.stack([np.asarray(image) for image in scaled])
    margins = [(0, _whole_blocks(height) - height), (0, _whole_blocks(width) - width)]
    return np.pad(images, [(0, 0), *margins, *[(0, 0)] * (images.ndim - 3)], mode="edge")


def _map_sheets(maps: NDArray[np.float32] | None, width: int, height: int) -> list[str]:
    if maps is None:
        return []
    tiles = _tiles(maps, width, height).clip(0, 1)  # scaling overshoots
    return _sheets(np.rint(255 * tiles).astype(np.uint8), MAP_QUALITY)


def _sheets(tiles: NDArray[np.uint8], quality: int) -> list[str]:
    return [_sheet(tiles[start : start + TILES], quality) for start in range(0, len(tiles), TILES)]


def _sheet(tiles: NDArray[np.uint8], quality: int) -> str:
    """Tiles, (n, h, w) or (n, h, w, 3), in rows of `COLUMNS`, as the base64 of a JPEG."""
    count, height, width = tiles.shape[:3]
    rows = -(-count // COLUMNS)
    grid = np.zeros((rows * COLUMNS, *tiles.shape[1:]), np.uint8)
    grid[:count] = tiles
    grid = grid.reshape(rows, COLUMNS, *tiles.shape[1:]).swapaxes(1, 2)
    image = Image.fromarray(grid.reshape(rows * height, COLUMNS * width, *tiles.shape[3:]))
    file = io.BytesIO()
    # subsampling=0 keeps colours at full resolution: at half, an image of 32×32 has 16×16 of them. optimize=True would
    # save a tenth, but Pillow's buffer for it is too small for noise ("broken data stream").
    image.save(file, "JPEG", quality=quality, subsampling=0)
    return base64.b64encode(file.getvalue()).decode("ascii")
