"""Cells of a feature map lie in the image where they look: by hand, and by the gradients of the architectures."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_lit import models
from cifar_lit.explain.gradcam import class_activation_maps
from cifar_lit.explain.placement import cell_lines, enlarge

NOWHERE = (None, None)
SMALLER = {"ResNetV1": {"depth": 8}, "ResNetV2": {"depth": 11}}


def test_maps_are_linear_between_the_centres_of_cells_and_fade_beyond() -> None:
    maps = np.array([[[0, 1]], [[3, 0]]], np.float32)
    rising = np.array([0, 0, 0, 0.25, 0.5, 0.75, 1, 1], np.float32)
    large = enlarge(maps, (1, 8), (None, (2, 4)))
    assert large.dtype == np.float32
    np.testing.assert_allclose(large, [[rising], [1 - rising]], atol=1e-6)
    # Cells may look beyond the image, and between two pixels.
    np.testing.assert_allclose(enlarge(maps[:1], (1, 4), (None, (-1, 3))), [[[0, 0.5, 1, 1]]], atol=1e-6)
    np.testing.assert_allclose(enlarge(maps[:1], (1, 3), (None, (0.5, 1))), [[[0, 0.5, 1]]], atol=1e-6)
    # Padded, their strides cover the image; and one cell is as large as it is.
    np.testing.assert_allclose(
        enlarge(maps[:1], (1, 8), (None, (0, 4))), [[[0, 0.25, 0.5, 0.75, 1, 1, 1, 1]]], atol=1e-6
    )
    np.testing.assert_allclose(
        enlarge(maps[:1].swapaxes(1, 2), (2, 4), (None, (1.5, 1))), [[[0] * 4, [1] * 4]], atol=1e-6
    )
    # Half of a cell beyond its centre is the cell's, and behind another cell there is nothing.
    middle = [[[0, 0, 0, 0, 0, 0.5, 1, 1, 0.5, 0]], [[0, 0, 0.5, 1, 1, 0.5, 0, 0, 0, 0]]]
    np.testing.assert_allclose(enlarge(maps, (1, 10), (None, (4, 2))), middle, atol=1e-6)


def test_cells_that_lie_nowhere_are_spread_evenly() -> None:
    maps = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(maps[:, None], size=(17, 12), mode="bilinear")[:, 0]
    large = large - large.amin((1, 2), keepdim=True)
    expected = large / large.amax((1, 2), keepdim=True)
    np.testing.assert_allclose(enlarge(maps.numpy(), (17, 12), NOWHERE), expected, atol=1e-5)


def test_a_map_of_equal_places_is_zero() -> None:
    assert (enlarge(np.full((2, 1, 1), 0.7, np.float32), (4, 4), NOWHERE) == 0).all()


@pytest.mark.parametrize(
    ("layer", "lines"),
    [
        (nn.Conv2d(3, 4, 3), ((1, 1), (1, 1))),
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), ((0, 2), (0, 2))),
        (nn.Conv2d(3, 4, (5, 1), stride=(3, 1), dilation=(2, 1)), ((4, 3), (0, 1))),
        (nn.MaxPool2d(2), ((0.5, 2), (0.5, 2))),
        (nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(3)), ((2.5, 6), (2.5, 6))),
        # One cell is a line, too; nothing is left to lie anywhere behind a reduction.
        (nn.AdaptiveAvgPool2d(1), ((9.5, 20), (7.5, 16))),
        (nn.Upsample(scale_factor=2), NOWHERE),
        (nn.Flatten(), NOWHERE),
    ],
    ids=str,
)
def test_lines_by_hand(layer: nn.Module, lines: Any) -> None:
    assert cell_lines(nn.Sequential(layer, nn.ReLU()), layer, torch.zeros(1, 3, 20, 16)) == lines


def test_a_map_that_lies_on_its_side_lies_nowhere() -> None:
    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.transpose(2, 3)

    assert cell_lines(net := Turned(), net, torch.zeros(1, 3, 8, 8)) == NOWHERE


def test_of_a_layer_that_is_used_twice_the_last_map_counts() -> None:
    conv = nn.Conv2d(3, 3, 3)
    net, image = nn.Sequential(conv, nn.MaxPool2d(2), conv), torch.zeros(1, 3, 16, 16)
    assert cell_lines(net, conv, image) == ((3.5, 2), (3.5, 2))
    assert cell_lines(net, conv, image, use=0) == ((1, 1), (1, 1))


def test_a_layer_that_does_not_run_and_a_network_that_cannot() -> None:
    conv = nn.Conv2d(3, 4, 3)
    assert cell_lines(nn.ReLU(), conv, torch.zeros(1, 3, 8, 8)) == NOWHERE
    # What is behind the layer may want several images: normalised by itself, one has no deviation.
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4, track_running_stats=False))
    assert cell_lines(nn.Sequential(conv, head).eval(), conv, torch.zeros(1, 3, 8, 8)) == ((1, 1), (1, 1))
    assert not conv._forward_hooks


@pytest.mark.parametrize("name", models.__all__)
def test_cells_of_the_architectures_lie_where_their_gradients_do(name: str) -> None:
    torch.manual_seed(0)
    model = getattr(models, name)(**SMALLER.get(name, {})).eval().requires_grad_(False)
    # Larger than those trained on: in the middle no border weighs on one side. One takes no others, but has no padding.
    size = 32 if name == "PlainCNN" else 64
    images = torch.randn(8, 3, size, size, requires_grad=True)
    maps: list[Tensor] = []
    model.cam_layer.register_forward_hook(lambda _layer, _args, output: maps.append(output))
    model.net(images)
    place = maps[-1].shape[2] // 2, maps[-1].shape[3] // 2 - 1
    cell = maps[-1][:, :, *place]
    # Signs at random: what channels see does not cancel out.
    (cell * torch.randn(cell.shape)).sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    weights = images.grad.square().sum((0, 1))
    weights /= weights.sum()
    centre = [(weights.sum(1 - axis) * torch.arange(size)).sum().item() for axis in (0, 1)]

    lines = cell_lines(model.net, model.cam_layer, torch.zeros(1, 3, size, size))
    expected = [first + step * i for (first, step), i in zip(lines, place, strict=True)]  # type: ignore[misc]
    np.testing.assert_allclose(centre, expected, atol=0.75)


def test_what_is_seen_at_a_pixel_is_drawn_at_that_pixel() -> None:
    """By a convolution without padding that looks at the middle of its window: its map is of the image's middle."""
    layer = nn.Conv2d(3, 1, 17, bias=False)
    nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0, 8, 8] = 1
    net = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    image = torch.zeros(1, 3, 32, 32)
    image[0, 0, 9, 20] = 5
    expected = np.zeros((32, 32), np.float32)
    expected[9, 20] = 1
    np.testing.assert_allclose(class_activation_maps(net, layer, image, np.array([0]))[0], expected, atol=1e-5)


@pytest.mark.parametrize(("name", "pixels"), [("DepthwiseNet", 7), ("ResNet18", 3.5), ("ResNetV1", 1.5)])
def test_how_far_off_an_even_spread_is_as_readme_says(name: str, pixels: float) -> None:
    model = getattr(models, name)().eval()
    shapes = []
    model.cam_layer.register_forward_hook(lambda _layer, _args, output: shapes.append(output.shape))
    (first, step), across = cell_lines(model.net, model.cam_layer, torch.zeros(1, 3, 32, 32))  # type: ignore[misc]
    assert across == (first, step)
    cells = np.arange(shapes[0][2])
    even = 32 / len(cells)
    assert np.abs(first + step * cells - ((even - 1) / 2 + even * cells)).max() == pixels
