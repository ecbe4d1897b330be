"""The device executor against albumentations itself: the same pixels for the same draws, and the same draws."""

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import ks_2samp, kstest

from cifar_lit.data.alternating_flip import AlternatingFlip
from cifar_lit.data.device.counter_random import seeds_of
from cifar_lit.data.device.steps import UnsupportedTransformError
from cifar_lit.data.device_executor import DeviceExecutor, unsupported
from cifar_lit.errors import UserError

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

SIZE = (32, 40)  # not square, so that x and y cannot be mixed up
N = 48
DRAWS = 20_000
SEEDS = seeds_of(3, np.arange(N))
# Wanted: a mean difference below 1.0 of 255, and 3 % of the values off by more than 8. Measured on the images below, at
# most: 0.0003 and none with OpenCV 5; 0.12 and none with OpenCV 4.11, which rounds places to 1/32 pixel.
MEAN_LIMIT = 0.25
FAR, FAR_SHARE = 8, 0.001


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Batches this small gain nothing by threads, and lose much where another process is at work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def natural_images(n: int = N, size: tuple[int, int] = SIZE, seed: int = 0) -> Pixels:
    """Smooth shades with sharp-edged shapes on them, uint8 (n, H, W, 3)."""
    rng = np.random.default_rng(seed)
    height, width = size
    images = []
    for _ in range(n):
        shade = cv2.resize(rng.uniform(30, 225, (4, 4, 3)), (width, height), interpolation=cv2.INTER_LINEAR)
        image = np.ascontiguousarray(shade.astype(np.uint8))
        for _ in range(2):
            x, y, radius = (int(v) for v in rng.integers((0, 0, 3), (width, height, 9)))
            cv2.circle(image, (x, y), radius, rng.integers(0, 256, 3).tolist(), -1, cv2.LINE_AA)
        images.append(image)
    return np.stack(images)


def quiet(make: Callable[[], A.BasicTransform]) -> A.BasicTransform:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ShiftScaleRotate says that it is Affine
        return make()


def shift_scale_rotate(**options: Any) -> A.BasicTransform:
    return quiet(lambda: A.ShiftScaleRotate(**options))


# What albumentations drew, in the columns of the executor's steps ----------------------------------------------------


def affine_columns(transform: A.BasicTransform, size: tuple[int, int], params: Sequence[dict[str, Any]]) -> Floats:
    """Takes the matrices apart: shift @ shear @ rotation @ scale, around the centre."""
    rows = np.tile([0.0, 0, 1, 1, 0, 0, 0, 0], (len(params), 1))
    applied = np.array([bool(drawn) for drawn in params])
    drawn = [drawn for drawn in params if drawn]
    matrix = np.stack([d["matrix"] for d in drawn])
    scale = np.array([[d["scale"]["x"], d["scale"]["y"]] if "scale" in d else [1.0, 1.0] for d in drawn])
    # Rotate tells its angle by nothing but the matrix.
    angle = np.array([d.get("rotate", np.nan) for d in drawn])
    angle = np.where(np.isnan(angle), np.rad2deg(np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0])), angle)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    rotation = np.stack([cos, sin, -sin, cos], axis=1).reshape(-1, 2, 2)
    shear = (matrix[:, :2, :2] / scale[:, None, :]) @ rotation.transpose(0, 2, 1)
    centre = np.array([size[1] / 2 - 0.5, size[0] / 2 - 0.5, 1.0])
    shift = (matrix @ centre - centre)[:, :2]
    angles = np.rad2deg(np.arctan(np.stack([shear[:, 0, 1], shear[:, 1, 0]], axis=1)))
    rows[applied] = np.column_stack([np.ones(len(drawn)), angle, scale, angles, shift])
    return rows


def dropout_columns(transform: A.BasicTransform, size: tuple[int, int], params: Sequence[dict[str, Any]]) -> Floats:
    most = transform.num_holes_range[1] if isinstance(transform, A.CoarseDropout) else 1
    rows = np.zeros((len(params), 4, most))
    colours = np.zeros((len(params), 3, most))
    for row, colour, drawn in zip(rows, colours, params, strict=True):
        if drawn:
            row[:, : len(drawn["holes"])] = drawn["holes"].T
            rng = np.random.default_rng(drawn["seed"])
            for hole in range(len(drawn["holes"])):
                colour[:, hole] = rng.integers(0, 256, size=(1, 3), dtype=np.uint8)[0]
    flat = rows.reshape(len(params), -1)
    if transform.fill == "random_uniform":
        flat = np.concatenate([flat, colours.reshape(len(params), -1)], axis=1)
    return flat


def columns_of(transform: A.BasicTransform, size: tuple[int, int], params: Sequence[dict[str, Any]]) -> list[Floats]:
    """One array for each step that the executor makes of a transform. Where it was not applied, params is empty."""
    if isinstance(transform, (A.HorizontalFlip, A.VerticalFlip)):
        return [np.array([[float(drawn.get("flip", bool(drawn)))] for drawn in params])]
    if isinstance(transform, A.Pad):
        return [np.array([[-drawn["pad_left"], -drawn["pad_top"]] for drawn in params], np.float64)]
    if isinstance(transform, A.RandomCrop):
        pads = [drawn["pad_params"] for drawn in params]
        padding = [np.array([[-p["pad_left"], -p["pad_top"]] for p in pads], np.float64)] if pads[0] else []
        return [*padding, np.array([drawn["crop_coords"][:2] for drawn in params], np.float64)]
    if isinstance(transform, (A.Affine, A.Rotate)):
        return [affine_columns(transform, size, params)]
    if isinstance(transform, (A.CoarseDropout, A.Erasing)):
        return [dropout_columns(transform, size, params)]
    if isinstance(transform, A.RandomBrightnessContrast):
        scales = [255.0 if transform.brightness_by_max else drawn.get("mean", 1.0) for drawn in params]
        rows = [
            [1.0, d["alpha"], d["beta"] / scale] if d else [0.0, 1.0, 0.0]
            for d, scale in zip(params, scales, strict=True)
        ]
        return [np.array(rows)]
    assert isinstance(transform, A.Normalize)
    return [np.zeros((len(params), 0))]


def run_albumentations(transforms: Sequence[A.BasicTransform], images: Pixels) -> tuple[NDArray[Any], list[Floats]]:
    """The reference: what albumentations makes of the images, and what it drew on the way."""
    results: list[NDArray[Any]] = list(images)
    drawn: list[Floats] = []
    for number, transform in enumerate(transforms):
        # ensure_safe_range changes what was drawn: a twin without it tells the draws.
        twin = copy(transform)
        twin.ensure_safe_range = False
        for each in (transform, twin):
            each.set_random_seed(number)
        params, size = [], results[0].shape[:2]
        for position, image in enumerate(results):
            data = {"index": position, "epoch": 0, "run_seed": 0} if isinstance(transform, AlternatingFlip) else {}
            results[position] = transform(image=image, **data)["image"]
            twin(image=image, **data)
            params.append({**twin.params, "mean": image.mean()} if twin.params else {})
        drawn += columns_of(transform, size, params)
    return np.stack(results), drawn


def both(transforms: Sequence[A.BasicTransform], images: Pixels) -> tuple[NDArray[Any], NDArray[Any]]:
    """The results of albumentations and of the device executor, with the same draws."""
    expected, drawn = run_albumentations(transforms, images)
    executor = DeviceExecutor(transforms, (images.shape[1], images.shape[2]))
    result = executor.apply(torch.from_numpy(images), drawn)
    assert tuple(result.shape[1:3]) == executor.output_size
    return expected, result.numpy()


# The same pixels for the same draws -----------------------------------------------------------------------------------

CONSTANT, REPLICATE, REFLECT, REFLECT_101 = (
    cv2.BORDER_CONSTANT,
    cv2.BORDER_REPLICATE,
    cv2.BORDER_REFLECT,
    cv2.BORDER_REFLECT_101,
)
BORDERS = [CONSTANT, REPLICATE, REFLECT, REFLECT_101]

WHOLE_PIXELS: dict[str, Callable[[], list[A.BasicTransform]]] = {
    "horizontal": lambda: [A.HorizontalFlip(p=0.5)],
    "vertical": lambda: [A.VerticalFlip(p=0.5)],
    "alternating": lambda: [AlternatingFlip()],
    "crop": lambda: [A.RandomCrop(20, 30)],
    "crop that pads": lambda: [A.RandomCrop(36, 30, pad_if_needed=True, border_mode=REFLECT_101)],
    "crop that pads anywhere": lambda: [A.RandomCrop(36, 50, pad_if_needed=True, pad_position="random", fill=7.0)],
    "pad sides": lambda: [A.Pad((1, 2, 3, 4), border_mode=REPLICATE)],
    "pad anywhere": lambda: [A.PadIfNeeded(40, 50, position="random", fill=(1, 2, 3))],
    "pad to a multiple": lambda: [
        A.PadIfNeeded(min_height=None, min_width=None, pad_height_divisor=9, pad_width_divisor=7, border_mode=REFLECT)
    ],
    **{
        f"pad, crop, flip {mode}": lambda mode=mode: [  # type: ignore[misc]
            A.PadIfNeeded(40, 48, border_mode=mode, fill=99.0),
            A.RandomCrop(32, 40),
            A.HorizontalFlip(p=0.5),
        ]
        for mode in BORDERS
    },
    "flip, pad twice, crop": lambda: [
        A.VerticalFlip(p=0.5),
        A.Pad(3, border_mode=REFLECT_101),
        A.Pad(4, fill=(90, 0, 255)),
        A.Pad(5, fill=200),
        A.RandomCrop(30, 30),
        A.Pad(2, border_mode=REFLECT),
    ],
    "fill beyond what pixels are": lambda: [
        A.Pad(2, fill=(300, -5, 256)),
        A.Affine(translate_px=(2, 2), fill=300, p=1),
    ],
    "pads wider than the image": lambda: [A.RandomCrop(4, 4), A.Pad(11, border_mode=REFLECT_101), A.Pad(2)],
    "cutout": lambda: [
        A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(16, 16), hole_width_range=(8, 8), p=0.7)
    ],
    "holes": lambda: [A.CoarseDropout(num_holes_range=(1, 5), fill=(250, 1.7, 3), p=0.7)],
    "coloured holes": lambda: [A.CoarseDropout(num_holes_range=(2, 5), fill="random_uniform", p=1)],
    "erasing": lambda: [A.Erasing(fill=127, p=0.7)],
    "brightness": lambda: [A.RandomBrightnessContrast(0.4, (-0.5, 0.9), p=0.7)],
    "brightness, safe": lambda: [A.RandomBrightnessContrast(0.4, (-2.0, 0.9), ensure_safe_range=True, p=1)],
    "crop, cutout, flip, brightness": lambda: [
        A.RandomCrop(24, 24),
        A.CoarseDropout(p=1),
        A.HorizontalFlip(p=0.5),
        A.RandomBrightnessContrast(p=1),
        A.Pad(4, border_mode=REFLECT_101),
    ],
    "brightness, then cutout": lambda: [A.RandomBrightnessContrast(p=1), A.CoarseDropout(fill=1.7, p=1)],
    "normalize": lambda: [A.HorizontalFlip(p=0.5), A.Normalize()],
    "normalize, then cutout": lambda: [A.Normalize((0.5,) * 3, (0.25,) * 3), A.CoarseDropout(fill=0.5, p=1)],
}


@pytest.mark.parametrize("name", WHOLE_PIXELS)
def test_lists_without_interpolation_are_equal_to_the_bit(name: str) -> None:
    expected, result = both(WHOLE_PIXELS[name](), natural_images())
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


AFFINE: dict[str, Any] = {
    "rotate": (-40, 40),
    "scale": (0.7, 1.4),
    "translate_percent": (-0.2, 0.2),
    "shear": (-15, 15),
    "p": 1,
}
INTERPOLATED: dict[str, Callable[[], list[A.BasicTransform]]] = {
    **{
        f"affine {mode}": lambda mode=mode: [A.Affine(**AFFINE, border_mode=mode, fill=180)]  # type: ignore[misc]
        for mode in BORDERS
    },
    "affine in pixels": lambda: [
        A.Affine(translate_px={"x": (-9, 3)}, scale=0.9, shear={"x": 9}, p=1, fill=(9, 99, 200))
    ],
    "affine, one scale": lambda: [A.Affine(scale=(0.5, 2), keep_ratio=True, balanced_scale=True, p=1)],
    "shift": lambda: [shift_scale_rotate(shift_limit=0.3, scale_limit=0, rotate_limit=0, p=1)],
    "shift, scale, rotate": lambda: [shift_scale_rotate(p=0.7)],
    "rotate": lambda: [A.Rotate(limit=90, p=0.7)],
    "rotate, mirrored border": lambda: [A.Rotate(limit=(-60, 10), border_mode=REFLECT_101, p=1)],
    "flip, rotate": lambda: [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), A.Rotate(25, border_mode=REFLECT, p=1)],
    "rotate, flip": lambda: [A.Rotate(25, fill=99, p=1), A.VerticalFlip(p=0.5), A.HorizontalFlip(p=0.5)],
    "pad, crop, flip, rotate": lambda: [
        A.PadIfNeeded(40, 48, border_mode=REFLECT_101),
        A.RandomCrop(32, 40),
        A.HorizontalFlip(p=0.5),
        A.Rotate(45, fill=50, p=1),
    ],
    # A crop cuts off what a mirrored or repeated border must then not show.
    **{
        f"crop, flip, affine {mode}": lambda mode=mode: [  # type: ignore[misc]
            A.RandomCrop(22, 26),
            A.HorizontalFlip(p=0.5),
            A.Affine(**AFFINE, border_mode=mode, fill=180),
        ]
        for mode in BORDERS
    },
    **{
        f"affine, pad, crop {mode}": lambda mode=mode: [  # type: ignore[misc]
            A.Affine(**AFFINE),
            A.Pad(12, border_mode=mode, fill=180),
            A.RandomCrop(32, 32),
        ]
        for mode in BORDERS
    },
    "brightness of a rotated image": lambda: [
        A.Rotate(30, p=1),
        A.RandomBrightnessContrast(brightness_by_max=False, p=1),
    ],
    "R4": lambda: [
        A.HorizontalFlip(p=0.5),
        shift_scale_rotate(shift_limit=0.0625, scale_limit=0.1, rotate_limit=15, p=1),
        A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(16, 16), hole_width_range=(16, 16), p=1),
    ],
}


def distance(result: NDArray[Any], expected: NDArray[Any]) -> tuple[float, float]:
    """Mean absolute difference, and share of the values that are far off."""
    difference = np.abs(result.astype(np.float64) - expected)
    return difference.mean(), (difference > FAR).mean()


@pytest.mark.parametrize("name", INTERPOLATED)
def test_interpolated_lists_agree(name: str) -> None:
    expected, result = both(INTERPOLATED[name](), natural_images())
    assert result.dtype == np.uint8
    mean, far = distance(result, expected)
    assert mean < MEAN_LIMIT
    assert far <= FAR_SHARE


def test_normalised_list_agrees() -> None:
    mean, std = np.array([0.49, 0.48, 0.44]), np.array([0.2, 0.25, 0.3])
    expected, result = both([*INTERPOLATED["R4"](), A.Normalize(tuple(mean), tuple(std))], natural_images())
    assert result.dtype == np.float32
    off, far = distance((result * std + mean) * 255, (expected * std + mean) * 255)
    assert off < MEAN_LIMIT
    assert far <= FAR_SHARE


@pytest.mark.parametrize("mode", BORDERS)
def test_affine_shift_by_whole_pixels_is_equal_to_the_bit(mode: int) -> None:
    shift = A.Affine(translate_px={"x": (-13, 13), "y": (-9, 9)}, border_mode=mode, fill=180, p=1)
    expected, result = both([shift], natural_images())
    np.testing.assert_array_equal(result, expected)


def test_what_one_rotation_cuts_off_the_next_does_not_bring_back() -> None:
    white = np.full((N, 32, 32, 3), 255, np.uint8)
    expected, result = both([A.Rotate((45, 45), p=1), A.Rotate((-45, -45), p=1)], white)
    assert (expected[:, 0, 0] == 0).all()
    # Two passes blur an edge twice, and one once. What is black and what is white stays the same.
    assert ((result < 128) == (expected < 128)).mean() > 0.99


@pytest.mark.parametrize(
    "transform",
    [
        A.HorizontalFlip(p=0.5),
        A.Affine(rotate=90, scale=0.5, p=0.5),
        A.CoarseDropout(fill=0, hole_height_range=(20, 20), hole_width_range=(20, 20), p=0.5),
        A.Erasing(fill="random", scale=(0.2, 0.3), p=0.5),
        A.RandomBrightnessContrast((0.2, 0.3), 0, p=0.5),
    ],
)
def test_images_that_a_transform_is_not_applied_to_stay_as_they_are(transform: A.BasicTransform) -> None:
    images = torch.from_numpy(natural_images())
    changed = (DeviceExecutor([transform], SIZE)(images, SEEDS) != images).flatten(1).any(1)
    assert 0.25 < changed.float().mean() < 0.75


def test_transforms_of_a_list_draw_independently() -> None:
    executor = DeviceExecutor([A.HorizontalFlip(p=0.5), A.Rotate(p=1), A.VerticalFlip(p=0.5)], SIZE)
    drawn = np.concatenate(executor.draw(seeds_of(3, np.arange(DRAWS))), axis=1)
    varying = drawn[:, drawn.std(axis=0) > 0]
    assert varying.shape[1] == 3
    assert np.abs(np.corrcoef(varying.T) - np.eye(3)).max() < 0.03


def test_noise_stays_in_its_rectangle_and_is_uniform() -> None:
    images = natural_images()
    transform = A.CoarseDropout(num_holes_range=(2, 2), hole_height_range=(9, 9), hole_width_range=(9, 9), fill=0, p=1)
    _, drawn = run_albumentations([transform], images)
    black = DeviceExecutor([transform], SIZE).apply(torch.zeros(N, *SIZE, 3, dtype=torch.uint8) + 1, drawn).numpy() == 0
    noisy = A.CoarseDropout(
        num_holes_range=(2, 2), hole_height_range=(9, 9), hole_width_range=(9, 9), fill="random", p=1
    )
    keys = np.arange(N, dtype=np.float64)[:, None]
    drawn = [np.concatenate([drawn[0], keys], axis=1)]
    result = DeviceExecutor([noisy], SIZE).apply(torch.from_numpy(images), drawn).numpy()
    np.testing.assert_array_equal(result[~black], images[~black])
    assert kstest((result[black] + 0.5) / 256, "uniform").pvalue > 0.01
    inside = result[black].reshape(-1, 3)  # neighbouring channels and pixels know nothing of one another
    assert abs(np.corrcoef(inside.T)[np.triu_indices(3, 1)]).max() < 0.03
    assert abs(np.corrcoef(inside[:-1, 0], inside[1:, 0])[0, 1]) < 0.03


# The same draws -------------------------------------------------------------------------------------------------------

DRAWN: dict[str, Callable[[], A.BasicTransform]] = {
    "horizontal": lambda: A.HorizontalFlip(p=0.3),
    "vertical": lambda: A.VerticalFlip(p=0.8),
    "shift, scale, rotate": lambda: shift_scale_rotate(shift_limit=0.2, scale_limit=(-0.3, 0.1), rotate_limit=30, p=1),
    "affine": lambda: A.Affine(scale={"x": (0.5, 2), "y": (0.9, 1.5)}, shear=(-9, 30), balanced_scale=True, p=1),
    "affine in pixels": lambda: A.Affine(translate_px={"x": (-3, 8), "y": (0, 2)}, rotate=(-300, 20), p=1),
    "affine, one scale": lambda: A.Affine(scale=(0.5, 2), keep_ratio=True, p=0.4),
    "rotate": lambda: A.Rotate((-70, 10), p=1),
    "pad anywhere": lambda: A.PadIfNeeded(37, 43, position="random"),
    "crop": lambda: A.RandomCrop(27, 20),
    "crop that pads anywhere": lambda: A.RandomCrop(36, 36, pad_if_needed=True, pad_position="random"),
    "holes in pixels": lambda: A.CoarseDropout(
        num_holes_range=(1, 3), hole_height_range=(3, 12), hole_width_range=(8, 50)
    ),
    "holes in shares": lambda: A.CoarseDropout(
        num_holes_range=(2, 2), hole_height_range=(0.1, 0.9), hole_width_range=(0.3, 0.5), fill="random_uniform", p=1
    ),
    "holes up to 1": lambda: A.CoarseDropout(hole_height_range=(0.5, 1.0), hole_width_range=(2, 3), p=1),
    "erasing": lambda: A.Erasing(p=1),
    "erasing, wide": lambda: A.Erasing(scale=(0.1, 0.9), ratio=(0.8, 3), p=0.6),
    "brightness": lambda: A.RandomBrightnessContrast((-0.1, 0.4), 0.3, p=1),
    "brightness, sometimes": lambda: A.RandomBrightnessContrast(p=0.3),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_have_the_distribution_of_albumentations(name: str) -> None:
    transform = DRAWN[name]()
    transform.set_random_seed(1)
    shape = {"shape": (*SIZE, 3)}
    data = {"image": np.zeros((1, 1, 3), np.uint8)}
    params = [
        {**shape, **transform.get_params_dependent_on_data(shape, data)} if transform.should_apply() else {}
        for _ in range(DRAWS)
    ]
    expected = columns_of(transform, SIZE, params)
    executor = DeviceExecutor([transform], SIZE)
    drawn = executor.draw(seeds_of(3, np.arange(DRAWS)))
    for step, ours, theirs in zip(executor.steps, drawn, expected, strict=True):
        assert ours.shape == theirs.shape == (DRAWS, len(step.columns))
        if step.columns[0] == "applied":
            assert ks_2samp(ours[:, 0], theirs[:, 0]).pvalue > 0.01
            ours, theirs = ours[ours[:, 0] == 1], theirs[theirs[:, 0] == 1]
        # What was taken out of matrices carries their rounding errors, which would break ties.
        ours, theirs = np.round(ours, 9), np.round(theirs, 9)
        for column, label in enumerate(step.columns):
            assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.01, label
        for column, label in enumerate(step.columns):
            if "_max_" in label:
                other = step.columns.index(label.replace("max", "min"))
                sizes = [x[:, column] - x[:, other] for x in (ours, theirs)]
                assert ks_2samp(*sizes).pvalue > 0.01, f"size of a hole: {label}"
        # Columns that are each right can still be tied to one another where they should not be, or the reverse.
        spread = theirs.std(axis=0)
        for a, b in itertools.combinations(np.flatnonzero(spread > 1e-9), 2):
            for sign in (1, -1):
                both = [np.round(x[:, a] / spread[a] + sign * x[:, b] / spread[b], 9) for x in (ours, theirs)]
                assert ks_2samp(*both).pvalue > 1e-3, (step.columns[a], step.columns[b], sign)


# A pure function of images and seed ----------------------------------------------------------------------------------


def everything() -> list[A.BasicTransform]:
    return [
        AlternatingFlip(),
        A.PadIfNeeded(40, 48, border_mode=REFLECT_101),
        A.RandomCrop(32, 40),
        shift_scale_rotate(p=0.8),
        A.CoarseDropout(num_holes_range=(1, 3), p=0.8),
        A.Erasing(fill="random", p=0.5),
        A.RandomBrightnessContrast(brightness_by_max=False, ensure_safe_range=True, p=0.8),
        A.VerticalFlip(p=0.5),
        A.Normalize(),
    ]


INDICES = np.arange(N) * 7


def test_same_seeds_same_batch_and_others_another() -> None:
    images = torch.from_numpy(natural_images())
    first, again, other = (
        DeviceExecutor(everything(), SIZE)(images, seeds, indices=INDICES)
        for seeds in (SEEDS, SEEDS, SEEDS + np.uint64(1))
    )
    assert torch.equal(first, again)
    assert (first != other).flatten(1).any(1).all()


def test_leaves_the_global_generators_alone() -> None:
    images = torch.from_numpy(natural_images())
    executor = DeviceExecutor(everything(), SIZE)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (the old global generator is the one to be left alone)
    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    first = executor(images, SEEDS, indices=INDICES)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002
    torch.manual_seed(2)
    assert torch.equal(executor(images, SEEDS, indices=INDICES), first)


@pytest.mark.parametrize(
    "transforms",
    [[A.CoarseDropout(p=1)], [A.RandomBrightnessContrast(p=1)], [A.Normalize()], [A.Rotate(p=1, fill=9)], []],
)
def test_leaves_the_images_alone(transforms: list[A.BasicTransform]) -> None:
    images = torch.from_numpy(natural_images())
    # Laid out as the executor works inside: no copy of the batch stands between it and its caller.
    planar = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    DeviceExecutor(transforms, SIZE)(planar, SEEDS).zero_()
    assert torch.equal(planar, images)


@pytest.mark.parametrize("share", [slice(7, 20), slice(0, None, 3), slice(1, None, 3)])
def test_an_images_draws_are_its_own_in_whatever_batch(share: slice) -> None:
    images = torch.from_numpy(natural_images())
    executor = DeviceExecutor(everything(), SIZE)
    whole = executor(images, SEEDS, epoch=1, indices=INDICES)
    assert torch.equal(executor(images[share], SEEDS[share], epoch=1, indices=INDICES[share]), whole[share])


def test_a_batch_is_the_same_in_one_piece_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(natural_images())
    whole = DeviceExecutor(everything(), SIZE)(images, SEEDS, indices=INDICES)
    monkeypatch.setattr("cifar_lit.data.device_executor._CPU_CHUNK", 1)  # 16 images at a time, the least
    assert torch.equal(DeviceExecutor(everything(), SIZE)(images, SEEDS, indices=INDICES), whole)


def test_empty_batch_and_empty_list() -> None:
    images = torch.from_numpy(natural_images())
    assert DeviceExecutor(everything(), SIZE)(images[:0], SEEDS[:0], indices=INDICES[:0]).shape == (0, *SIZE, 3)
    assert torch.equal(DeviceExecutor([], SIZE)(images, SEEDS), images)
    assert torch.equal(DeviceExecutor([A.Normalize(p=0), A.RandomCrop(*SIZE)], SIZE)(images, SEEDS), images)


def test_reads_nothing_back_from_the_device() -> None:
    """Tensors on the meta device have no values: whatever asked for one, and so would wait for a GPU, raises."""
    images = torch.empty(N, *SIZE, 3, dtype=torch.uint8, device="meta")
    result = DeviceExecutor(everything(), SIZE)(images, SEEDS, indices=INDICES)
    assert result.shape == (N, *SIZE, 3)
    assert result.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_makes_the_same_batch_without_waiting() -> None:
    images = torch.from_numpy(natural_images())
    executor = DeviceExecutor(everything()[:-1], SIZE)
    on_gpu = images.cuda()
    executor(on_gpu, SEEDS, indices=INDICES)
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = executor(on_gpu, SEEDS, indices=INDICES)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    mean, far = distance(result.cpu().numpy(), executor(images, SEEDS, indices=INDICES).numpy())
    assert mean < 0.1
    assert far < 0.001


# Alternating flip -----------------------------------------------------------------------------------------------------


def test_alternating_flip_shows_every_image_both_ways_in_any_two_epochs() -> None:
    images = torch.from_numpy(natural_images())
    executor = DeviceExecutor([AlternatingFlip()], SIZE, run_seed=4)
    epochs = [executor(images, SEEDS + np.uint64(epoch), epoch=epoch, indices=INDICES) for epoch in range(3)]
    assert torch.equal(epochs[0], epochs[1].flip(2))
    assert torch.equal(epochs[0], epochs[2])
    flipped = (epochs[0] != images).flatten(1).any(1).numpy()
    assert 0.25 < flipped.mean() < 0.75
    other = DeviceExecutor([AlternatingFlip()], SIZE, run_seed=5)(images, SEEDS, indices=INDICES)
    assert not torch.equal(other, epochs[0])
    # In another order the images keep their sides.
    assert torch.equal(executor(images.flip(0), SEEDS, indices=INDICES[::-1].copy()), epochs[0].flip(0))
    compose = A.Compose([AlternatingFlip()])
    for epoch, image, index in itertools.product(range(2), range(6), [0]):
        expected = compose(image=images[image].numpy(), index=INDICES[image], epoch=epoch, run_seed=4)["image"]
        np.testing.assert_array_equal(epochs[epoch][image + index].numpy(), expected)


def test_alternating_flip_starts_with_half_of_the_images() -> None:
    params = DeviceExecutor([AlternatingFlip()], SIZE).draw(np.zeros(DRAWS, np.uint64), indices=np.arange(DRAWS))[0][
        :, 0
    ]
    assert abs(params.mean() - 0.5) < 0.015
    assert abs(np.corrcoef(params[:-1], params[1:])[0, 1]) < 0.03


def test_alternating_flip_asks_for_the_images() -> None:
    with pytest.raises(ValueError, match="indices"):
        DeviceExecutor([AlternatingFlip()], SIZE).draw(SEEDS)


# What it cannot do ----------------------------------------------------------------------------------------------------

UNSUPPORTED: dict[str, tuple[Callable[[], list[A.BasicTransform]], str]] = {
    "transform": (lambda: [A.HorizontalFlip(), A.GaussianBlur()], "GaussianBlur, only HorizontalFlip, .*Normalize"),
    "nested": (lambda: [A.OneOf([A.HorizontalFlip()])], "OneOf, only"),
    "interpolation": (lambda: [A.Rotate(interpolation=cv2.INTER_CUBIC)], r"Rotate\(interpolation=2\), only"),
    "border": (lambda: [A.Affine(border_mode=cv2.BORDER_WRAP)], r"Affine\(border_mode=3\), only"),
    "fit": (lambda: [A.Affine(fit_output=True)], r"Affine\(fit_output=True\), only fit_output=False"),
    "crop border": (lambda: [A.Rotate(crop_border=True)], r"Rotate\(crop_border=True\), only"),
    "crop at times": (lambda: [A.RandomCrop(20, 20, p=0.5)], r"RandomCrop\(p=0.5\), only p=1"),
    "pad at times": (lambda: [A.PadIfNeeded(64, 64, p=0.5)], r"PadIfNeeded\(p=0.5\), only p=1"),
    "inpainting": (lambda: [A.CoarseDropout(fill="inpaint_ns")], r"CoarseDropout\(fill='inpaint_ns'\), only"),
    "colour": (lambda: [A.Pad(2, fill=(1.0, 2.0))], r"Pad\(fill=\(1.0, 2.0\)\), only"),
    "late noise": (lambda: [A.Normalize(), A.Erasing(fill="random")], r"Erasing\(fill='random'\), only one number"),
    "late brightness": (lambda: [A.Normalize(), A.RandomBrightnessContrast()], "RandomBrightnessContrast after Normal"),
    "normalization": (lambda: [A.Normalize(normalization="image")], r"Normalize\(normalization='image'\), only"),
    "normalize at times": (lambda: [A.Normalize(p=0.5)], r"Normalize\(p=0.5\), only p=1"),
    "alternate at times": (lambda: [AlternatingFlip(p=0.5)], r"AlternatingFlip\(p=0.5\), only p=1"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_names_what_it_cannot_run(name: str) -> None:
    make, message = UNSUPPORTED[name]
    with pytest.raises(UnsupportedTransformError, match=message) as caught:
        DeviceExecutor(make(), SIZE)
    line = str(caught.value)
    assert "\n" not in line
    assert "`executor: workers` runs it" in line
    assert unsupported(make(), SIZE) == line


def test_says_nothing_about_a_list_that_it_can_run() -> None:
    assert unsupported(everything(), SIZE) is None


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (A.RandomCrop(50, 20), "does not fit an image of 32×40"),
        (A.CoarseDropout(hole_height_range=(40, 48), hole_width_range=(8, 8)), "does not fit"),
        (A.CoarseDropout(hole_height_range=(0.1, 0.2), hole_width_range=(8, 8)), "does not fit"),
        (A.Erasing(scale=(0.9, 0.95), ratio=(0.1, 0.1)), "never fits"),
        (A.CoarseDropout(fill=300), "CoarseDropout has fill 300.0: give numbers from 0 to 255"),
        (A.Pad(-2), "Pad would pad by -2 pixels: give 0 or more"),
        (A.Pad((-4, 0, 4, 0)), "Pad would pad by -4 pixels"),
    ],
)
def test_names_what_no_executor_can_run(transform: A.BasicTransform, message: str) -> None:
    image = natural_images(1)[0]
    transform.p = 1
    with pytest.raises(Exception):  # noqa: B017, PT011 (each fails in its own way)
        transform(image=image)
    with pytest.raises(UserError, match=message) as caught:
        unsupported([transform], SIZE)
    assert not isinstance(caught.value, UnsupportedTransformError)
    assert "\n" not in str(caught.value)


def test_holes_are_in_pixels_or_shares_both_ways() -> None:
    mixed = A.CoarseDropout(hole_height_range=(8, 16), hole_width_range=(0.25, 0.5), p=1)
    image = natural_images(1)[0]
    # No width is left of the share: albumentations paints nothing, and says nothing.
    np.testing.assert_array_equal(mixed(image=image)["image"], image)
    with pytest.raises(UserError, match=r"does not fit .*: give both in pixels up to its size, or both as fractions"):
        unsupported([mixed], SIZE)


def test_refuses_images_of_another_size_or_type() -> None:
    executor = DeviceExecutor([A.HorizontalFlip()], SIZE)
    with pytest.raises(ValueError, match=r"Expected uint8 \(n, 32, 40, 3\)"):
        executor(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), SEEDS[:2])
    with pytest.raises(ValueError, match="float32"):
        executor(torch.zeros(2, *SIZE, 3), SEEDS[:2])
