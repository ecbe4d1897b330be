"""The receptive fields of the shipped networks, as their tables state them, against what gradients measure."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cifar_lit.explain.layers import layer_table
from cifar_lit.models import DepthwiseNet, DilatedSeparableNet, PlainCNN, ResNet18, ResNetV1, ResNetV2


def linearised(net: nn.Module) -> nn.Module:
    """A copy in which nothing cancels and no unit is dead: positive weights, no norms, averages for maxima."""
    net = copy.deepcopy(net).eval()
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride))
    for parameter in net.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5).data.div_(max(parameter[0].numel(), 1))
    return net


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: ResNetV1().net, id="ResNetV1"),
        pytest.param(lambda: ResNetV2().net, id="ResNetV2"),
        pytest.param(lambda: ResNet18().net, id="ResNet18"),
        pytest.param(lambda: DilatedSeparableNet().net, id="DilatedSeparableNet"),
        pytest.param(lambda: DepthwiseNet().net, id="DepthwiseNet"),
        pytest.param(
            lambda: DepthwiseNet([[32, 64, 128], [32], []], [0.1, 0.1, 0.1], padded_blocks=2, head="separable").net,
            id="DepthwiseNet, separable head",
        ),
        # The dense layers behind would not take such an image.
        pytest.param(lambda: PlainCNN().net.stages, id="PlainCNN"),
    ],
)
def test_every_convolution_sees_what_its_gradient_says(build: Callable[[], nn.Module]) -> None:
    # High enough for the largest field, and narrow to be quick.
    size = (3, 320, 32)
    net = build()
    stated = {row.name: row.receptive_field for row in layer_table(net, size).rows}
    outputs: dict[str, Tensor] = {}
    plain = linearised(net)
    for name, module in plain.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
    image = torch.rand(1, *size, requires_grad=True)
    plain(image)
    assert len(outputs) > 5
    for name, out in list(outputs.items())[:: max(len(outputs) // 12, 1)]:
        if out.shape[2] == 1:
            # Behind the pooling everything is seen, and more than the image has pixels.
            continue
        unit = out[0, :, out.shape[2] // 2].sum()
        (gradient,) = torch.autograd.grad(unit, image, retain_graph=True)
        rows = (gradient.abs().sum(dim=(0, 1, 3)) > 0).nonzero().flatten().tolist()
        field = stated[name]
        assert field is not None
        assert field[0] == rows[-1] - rows[0] + 1, name


def test_the_largest_fields() -> None:
    largest = {build: layer_table(build().net).largest_receptive_field for build in (ResNetV1, ResNet18)}
    # Eight 8×8 positions at a jump of 4 behind 81 pixels; four at a jump of 8 behind 109.
    assert largest == {ResNetV1: 81 + 7 * 4, ResNet18: 109 + 3 * 8}
