"""Sheets of pictures: that each tile is its image, that tiles keep apart, and that they keep to a budget."""

import base64
import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cifar_lit.explain.gallery import RUNGS, TILES, cards, sprites
from cifar_lit.explain.scoring import Predictions


def smooth_images(count: int, size: int = 32) -> NDArray[np.uint8]:
    """Images, uint8 (count, size, size, 3), as smooth as photographs that were made small."""
    noise = np.random.default_rng(0).integers(0, 256, (count, size // 4, size // 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((size, size))) for image in noise])


def tile(sheets: list[str], at: int, width: int, height: int, pitch: tuple[int, int]) -> NDArray[np.int64]:
    """Cuts a tile as the browser does."""
    sheet = Image.open(io.BytesIO(base64.b64decode(sheets[at // TILES])))
    row, column = divmod(at % TILES, 10)
    pixels = np.asarray(sheet, np.int64)
    return pixels[row * pitch[1] :, column * pitch[0] :][:height, :width]


@pytest.mark.parametrize("at", [0, 9, 10, 99, 100, 119])
def test_a_tile_is_its_image_and_its_maps(at: int) -> None:
    pixels = smooth_images(120)
    maps = (pixels[..., 0] / 255).astype(np.float32)
    sheets = sprites(pixels, maps, 1 - maps)
    assert (sheets.width, sheets.height, sheets.quality, len(sheets.picture)) == (32, 32, RUNGS[0][1], 2)
    cut = [tile(kind, at, 32, 32, (32, 32)) for kind in (sheets.picture, sheets.predicted, sheets.true)]
    assert np.abs(cut[0] - pixels[at]).mean() < 4
    assert np.abs(cut[1] - pixels[at, ..., 0]).mean() < 4
    assert np.abs(cut[2] - (255 - pixels[at, ..., 0].astype(int))).mean() < 4


def test_tiles_never_bleed_into_one_another() -> None:
    pixels = np.zeros((12, 28, 30, 3), np.uint8)
    pixels[::2] = 255
    sheets = sprites(pixels, None, None)
    assert sheets.to_json()["pitch"] == [32, 32]
    for at, image in enumerate(pixels):
        assert (tile(sheets.picture, at, 30, 28, (32, 32)) == image).all()


def test_colours_are_kept_pixel_by_pixel() -> None:
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    pixels[:, :, ::2, 0] = pixels[:, :, 1::2, 1] = 128
    sheets = sprites(pixels, None, None)
    assert np.abs(tile(sheets.picture, 0, 32, 32, (32, 32)) - pixels[0]).mean() < 5


def test_without_maps_there_are_no_sheets_of_them() -> None:
    sheets = sprites(smooth_images(3), None, None)
    assert (sheets.predicted, sheets.true) == ([], [])


def test_large_images_are_scaled_down_and_keep_their_shape() -> None:
    sheets = sprites(np.zeros((2, 224, 112, 3), np.uint8), np.zeros((2, 224, 112), np.float32), None)
    assert (sheets.width, sheets.height) == (48, 96)
    assert sprites(np.zeros((0, 224, 112, 3), np.uint8), None, None).picture == []


def test_a_map_that_is_scaled_down_stays_within_its_range() -> None:
    maps = np.zeros((1, 192, 192), np.float32)
    maps[:, :, 96:] = 1
    sheets = sprites(np.zeros((1, 192, 192, 3), np.uint8), maps, 1 - maps)
    cut = tile(sheets.predicted, 0, 96, 96, (96, 96))
    assert (cut[:, :40] < 30).all()
    assert (cut[:, 56:] > 225).all()


def test_a_budget_costs_quality_first_and_then_size() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    free = sprites(noise, None, None)
    tight = sprites(noise, None, None, budget=free.characters - 1)
    tightest = sprites(noise, None, None, budget=0)
    assert free.quality > tight.quality
    assert (tight.width, tight.characters < free.characters) == (32, True)
    assert (tightest.width, tightest.quality) == RUNGS[-1]


def test_cards_say_what_was_predicted() -> None:
    probabilities = np.array([[0.7, 0.2, 0.06, 0.04], [0.1, 0.2, 0.3, 0.4]], np.float32)
    predictions = Predictions(np.array([3, 0]), np.log(probabilities), ("ant", "bee", "cat", "dog"))
    found = cards(predictions, np.array([1, 0]))
    assert (found["index"], found["true"], found["predicted"]) == ([1, 0], [0, 3], [3, 0])
    assert "file" not in found
    assert cards(predictions, np.array([1]), ("a.png", "b.png"))["file"] == ["b.png"]
    assert found["top"] == [[3, 2, 1], [0, 1, 2]]
    # Of float32, with the nine digits of the table.
    assert found["top_probabilities"] == [
        [pytest.approx(p, abs=1e-7) for p in row] for row in ([0.4, 0.3, 0.2], [0.7, 0.2, 0.06])
    ]
    assert found["true_probability"] == pytest.approx([0.1, 0.04], abs=1e-7)
    assert found["loss"] == [float(f"{loss:.9g}") for loss in predictions.losses[[1, 0]]]
