"""Test-time augmentation against what it is by definition."""

import torch
from torch import Tensor

from cifar_lit.views import VIEWS, flip, multi_view


def corners(images: Tensor) -> Tensor:
    """Logits that tell every view from every other: the pixels of the top left corner, by channel."""
    return images[:, :, 0, 0] + 10 * images[:, :, 1, 0]


def test_flip_averages_an_image_and_its_mirror_image() -> None:
    images = torch.rand(4, 3, 6, 5)
    expected = (corners(images) + corners(images.flip(3))) / 2
    mean, plain = flip(corners, images)
    torch.testing.assert_close(mean, expected)
    assert torch.equal(plain, corners(images))


def test_multi_view_weighs_six_views() -> None:
    images = torch.rand(4, 3, 6, 5)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")
    views = {(y, x): padded[:, :, y : y + 6, x : x + 5] for y, x in ((0, 0), (1, 1), (2, 2))}
    torch.testing.assert_close(views[1, 1], images)
    weights = {(0, 0): 1 / 8, (1, 1): 1 / 4, (2, 2): 1 / 8}
    expected = sum(w * (corners(views[at]) + corners(views[at].flip(3))) for at, w in weights.items())
    mean, plain = multi_view(corners, images)
    torch.testing.assert_close(mean, expected)
    assert torch.equal(plain, corners(images))


def test_an_image_without_structure_looks_the_same_in_all_views() -> None:
    images = torch.full((2, 3, 8, 8), 0.3)
    for view in VIEWS.values():
        torch.testing.assert_close(view(corners, images)[0], corners(images))


def test_a_mean_of_16_bits_is_not_rounded_to_them() -> None:
    # Half way between them there is no number in bfloat16.
    low, high = torch.tensor([1.0, 1.0078125], dtype=torch.bfloat16)
    images = torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)
    images[..., 0], images[..., 1] = low, high
    mean, plain = flip(lambda images: images[:, :, 0, 0], images)
    assert mean.tolist() == [[(low.item() + high.item()) / 2] * 3]
    assert plain.dtype is torch.bfloat16
