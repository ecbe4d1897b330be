"""What the published architectures promise: parameters, shapes, and where Grad-CAM looks."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from cifar_lit.classifier import Classifier
from cifar_lit.errors import UserError
from cifar_lit.models import DepthwiseNet, DilatedSeparableNet, ResNet18, ResNetV1, ResNetV2
from cifar_lit.models.dilated_separable import StridedDilatedDepthwise


def trainable(model: Classifier) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def statistics(model: Classifier) -> int:
    return sum(b.numel() for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var")))


@pytest.mark.parametrize(
    ("build", "parameters", "batchnorm_statistics"),
    [
        (lambda: ResNetV1(20, conv_bias=True), 273_066, 1_376),
        (lambda: ResNetV1(20), 272_282, 1_376),
        (lambda: ResNetV1(110), 1_730_522, None),
        # He et al. 2016 state 1.7 M and 10.2 M.
        (lambda: ResNetV2(164), 1_703_290, None),
        (lambda: ResNetV2(1001), 10_327_738, None),
        (lambda: ResNet18(), 11_173_962, None),
        (lambda: DilatedSeparableNet(), 98_779, None),
        (lambda: DepthwiseNet(), 34_427, 960),
    ],
)
def test_parameter_counts(build: Callable[[], Classifier], parameters: int, batchnorm_statistics: int | None) -> None:
    model = build()
    assert trainable(model) == parameters
    if batchnorm_statistics is not None:
        assert statistics(model) == batchnorm_statistics


@pytest.mark.parametrize("build", [ResNetV1, ResNetV2, ResNet18, DilatedSeparableNet, DepthwiseNet])
@pytest.mark.parametrize("num_classes", [10, 100])
def test_logits_and_cam_layer(build: Callable[..., Classifier], num_classes: int) -> None:
    model = build(num_classes=num_classes).eval()
    maps: list[torch.Tensor] = []
    handle = model.cam_layer.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 32, 32))
    handle.remove()
    assert logits.shape == (2, num_classes)
    assert maps[0].ndim == 4
    assert min(maps[0].shape[2:]) >= 4, "a coarser map shows nothing"


@pytest.mark.parametrize(("build", "depth"), [(ResNetV1, 21), (ResNetV1, 2), (ResNetV2, 57), (ResNetV2, -7)])
def test_impossible_depth_names_possible_ones(build: Callable[[int], Classifier], depth: int) -> None:
    with pytest.raises(UserError, match=f"depth {depth} is not .n\\+2"):
        build(depth)


def test_he_normal_initialisation() -> None:
    weights = ResNetV1(20).net.stages[2][1].conv1.weight
    assert weights.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("size", [32, 31, 16, 7])
def test_strided_dilated_convolution_is_computed_exactly(size: int) -> None:
    conv = StridedDilatedDepthwise(8)
    images = torch.randn(2, 8, size, size)
    assert torch.equal(conv(images), nn.Conv2d.forward(conv, images))
    assert (conv.kernel_size, conv.stride, conv.dilation) == ((3, 3), (2, 2), (2, 2))


def test_depthwise_net_takes_widths() -> None:
    model = DepthwiseNet(widths=[[64, 128], [64, 128]], dropout=[0.0, 0.1])
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(UserError, match="one dropout a stage"):
        DepthwiseNet(widths=[[64], [64]], dropout=[0.1])
