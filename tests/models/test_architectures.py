"""What the published architectures promise: parameters, shapes, and where Grad-CAM looks."""

import importlib
import math
import pkgutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from cifar_lit import models
from cifar_lit.classifier import Classifier
from cifar_lit.compiling import CompileMode
from cifar_lit.errors import UserError
from cifar_lit.models import DepthwiseNet, DilatedSeparableNet, PlainCNN, ResNet18, ResNetV1, ResNetV2
from cifar_lit.models.dilated_separable import DilatedDepthwise, StridedDilatedDepthwise

# R5's siblings.
SEPARABLE: dict[str, Any] = {
    "widths": [[32, 64], [32, 64], [32]],
    "dropout": [0.05, 0.1, 0.15],
    "padded_blocks": 0,
    "head": "separable_relu",
}
WIDE: dict[str, Any] = {
    "widths": [[32, 64, 128, 256], [32, 64, 128], []],
    "dropout": [[0.05, 0.05, 0.1, 0.1], [0.15, 0.15, 0.1], []],
    "padded_blocks": 2,
    "head": "separable",
}


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
        # Published with the statistics counted in: 13,019 and 73,275.
        (lambda: DepthwiseNet(**SEPARABLE), 13_019 - 448, 448),
        (lambda: DepthwiseNet(**WIDE), 73_275 - 1_408, 1_408),
        (lambda: PlainCNN(), 1_172_410, 0),
    ],
)
def test_parameter_counts(build: Callable[[], Classifier], parameters: int, batchnorm_statistics: int | None) -> None:
    model = build()
    assert trainable(model) == parameters
    if batchnorm_statistics is not None:
        assert statistics(model) == batchnorm_statistics


@pytest.mark.parametrize(
    "build",
    [
        *(ResNetV1, ResNetV2, ResNet18, DilatedSeparableNet, DepthwiseNet, PlainCNN),
        *(partial(DepthwiseNet, **SEPARABLE), partial(DepthwiseNet, **WIDE)),
    ],
)
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


def test_every_architecture_can_be_named_without_its_module() -> None:
    found = {
        name
        for file in pkgutil.iter_modules(models.__path__, "cifar_lit.models.")
        for name, value in vars(importlib.import_module(file.name)).items()
        if isinstance(value, type) and issubclass(value, Classifier) and value.__module__ == file.name
    }
    assert found == set(models.__all__)
    assert all(hasattr(models, name) for name in found)


@pytest.mark.parametrize(("build", "depth"), [(ResNetV1, 21), (ResNetV1, 2), (ResNetV2, 57), (ResNetV2, -7)])
def test_impossible_depth_names_possible_ones(build: Callable[[int], Classifier], depth: int) -> None:
    with pytest.raises(UserError, match=f"depth {depth} is not .n\\+2"):
        build(depth)


def by_inputs(conv: nn.Conv2d) -> float:
    """Of He et al. 2015, to keep the size of maps."""
    return math.sqrt(2 / conv.weight[0].numel())


def by_outputs(conv: nn.Conv2d) -> float:
    """Of He et al. 2015, to keep the size of gradients."""
    return math.sqrt(2 / (conv.out_channels * conv.weight[0, 0].numel()))


def of_keras(conv: nn.Conv2d) -> float:
    """Of a uniform distribution with √(6 / (fan in + fan out)) for its end; a depthwise kernel has (3, 3, in, 1)."""
    inputs, outputs = conv.in_channels, conv.out_channels // conv.groups
    area = conv.kernel_size[0] * conv.kernel_size[1]
    return math.sqrt(2 / (area * (inputs + outputs)))


def of_torch(conv: nn.Conv2d) -> float:
    """Of numbers between ±1/√inputs."""
    return math.sqrt(1 / (3 * conv.weight[0].numel()))


@pytest.mark.parametrize(
    ("build", "deviation", "largest"),
    [
        (ResNetV1, by_inputs, None),
        (ResNetV2, by_inputs, None),
        (ResNet18, by_outputs, None),
        (partial(ResNet18, initialization="torch"), of_torch, 3**0.5),
        (DilatedSeparableNet, of_torch, 3**0.5),
        (DepthwiseNet, of_torch, 3**0.5),
        (partial(DepthwiseNet, layer_defaults="keras"), of_keras, 3**0.5),
    ],
    ids=["v1", "v2", "resnet18", "resnet18 as torch", "dilated", "depthwise", "depthwise as keras"],
)
def test_convolutions_begin_as_said(
    build: Callable[[], Classifier], deviation: Callable[[nn.Conv2d], float], largest: float | None
) -> None:
    torch.manual_seed(0)
    convolutions = [module for module in build().net.modules() if isinstance(module, nn.Conv2d)]
    drawn = []
    for conv in convolutions:
        weights = conv.weight.detach().flatten() / deviation(conv)
        # Five times what the root of a mean square of so many normal numbers strays by.
        assert weights.square().mean().sqrt().item() == pytest.approx(1, abs=5 / (2 * weights.numel()) ** 0.5), conv
        drawn.append(weights)
    # Even draws end somewhere, normal ones of this number go beyond three deviations.
    reached = torch.cat(drawn).abs().max().item()
    assert reached == pytest.approx(largest, rel=1e-2) if largest else reached > 3


def test_keras_averages_longer_and_adds_more_to_the_variance() -> None:
    defaults: Any
    for defaults, expected in (("keras", {(0.01, 0.001)}), ("torch", {(0.1, 1e-5)})):
        layers = [m for m in DepthwiseNet(layer_defaults=defaults).modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(round(layer.momentum or 0, 9), layer.eps) for layer in layers} == expected
    with pytest.raises(UserError, match="layer_defaults is 'jax': give one of torch, keras"):
        DepthwiseNet(layer_defaults="jax")  # type: ignore[arg-type]
    # Weights of one are no weights of the other, which no name or shape of theirs tells.
    kept: dict[str, Any]
    for kept in ({"hyper_parameters": {}}, {"hyper_parameters": {"layer_defaults": "torch"}}):
        DepthwiseNet().on_load_checkpoint(kept)
        with pytest.raises(UserError, match=r"layers are as in torch: .* or give --model.layer_defaults=torch"):
            DepthwiseNet(layer_defaults="keras").on_load_checkpoint(kept)


@pytest.mark.parametrize("build", [ResNetV1, ResNetV2])
def test_he_nets_begin_without_biases(build: Callable[..., Classifier]) -> None:
    biases = [
        module.bias
        for module in build(conv_bias=True).net.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None
    ]
    assert len(biases) > 20
    assert not any(bias.any() for bias in biases)


@pytest.mark.parametrize("size", [(32, 32), (31, 31), (16, 9), (7, 8)])
@pytest.mark.parametrize(
    ("kind", "stride", "padding"), [(StridedDilatedDepthwise, 2, 2), (DilatedDepthwise, 1, 1)], ids=["strided", "not"]
)
def test_dilated_convolutions_are_computed_exactly(
    kind: Callable[[int], nn.Conv2d], stride: int, padding: int, size: tuple[int, int]
) -> None:
    conv = kind(8).double()
    assert (conv.stride, conv.padding, conv.dilation) == ((stride,) * 2, (padding,) * 2, (2, 2))
    # Whole numbers, whose sums are exact in any order.
    conv.weight.data = torch.randint(-9, 10, conv.weight.shape).double()
    images = torch.randint(-9, 10, (2, 8, *size)).double().requires_grad_()
    ours, plain = conv(images), nn.Conv2d.forward(conv, images)
    assert torch.equal(ours, plain)
    gradient = torch.randint(-9, 10, ours.shape).double()
    for x in (images, conv.weight):
        expected = torch.autograd.grad(plain, x, gradient, retain_graph=True)[0]
        assert torch.equal(torch.autograd.grad(ours, x, gradient, retain_graph=True)[0], expected)


def test_training_keeps_dilated_maps_channels_last() -> None:
    """Maps of another layout are copied by every layer after them, and their gradients by every layer before."""
    images = torch.randn(2, 8, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    for conv in (StridedDilatedDepthwise(8), DilatedDepthwise(8)):
        maps = conv.to(memory_format=torch.channels_last)(images)
        assert maps.is_contiguous(memory_format=torch.channels_last)
        (gradient,) = torch.autograd.grad(maps, images, torch.randn_like(maps))
        assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_depthwise_net_takes_widths() -> None:
    model = DepthwiseNet(widths=[[64, 128], [64, 128]], dropout=[0.0, 0.1])
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(UserError, match="one dropout a stage"):
        DepthwiseNet(widths=[[64], [64]], dropout=[0.1])
    for wrong, said in (
        ({"widths": [], "dropout": []}, "give at least one stage"),
        ({"widths": [[0], [8]], "dropout": [0.1, 0.1]}, "widths of at least 1"),
        ({"padded_blocks": -3}, "padded_blocks is -3: give a number from 0 to 3"),
        ({"padded_blocks": 4}, "padded_blocks is 4"),
    ):
        with pytest.raises(UserError, match=said):
            DepthwiseNet(**wrong)
    with pytest.raises(UserError, match="one dropout a block"):
        DepthwiseNet(widths=[[64, 64]], dropout=[[0.1]])


def sizes_and_channels(model: Classifier) -> list[tuple[int, int]]:
    """Channels and side of what each pointwise or full convolution gives."""
    seen: list[tuple[int, int]] = []
    for module in model.net.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            module.register_forward_hook(lambda _m, _i, out: seen.append((out.shape[1], out.shape[2])))
    model.eval()(torch.randn(1, 3, 32, 32))
    return seen


def test_published_output_sizes_of_r5s_siblings() -> None:
    assert sizes_and_channels(DepthwiseNet(**SEPARABLE)) == [
        *((32, 30), (64, 28), (32, 14)),
        *((32, 12), (64, 10), (32, 5)),
        *((32, 3), (10, 1)),
    ]
    assert sizes_and_channels(DepthwiseNet(**WIDE)) == [
        *((32, 32), (64, 32), (128, 30), (256, 28), (32, 14)),
        *((32, 12), (64, 10), (128, 8), (32, 4)),
        (10, 2),
    ]
    assert sizes_and_channels(PlainCNN()) == [(48, 32), (48, 30), (96, 15), (96, 13), (192, 6), (192, 4)]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (DepthwiseNet(), [0.1] * 3 + [0.2] * 3 + [0.25]),
        (DepthwiseNet(**SEPARABLE), [0.05, 0.05, 0.1, 0.1, 0.15]),
        (DepthwiseNet(**WIDE), [0.05, 0.05, 0.1, 0.1, 0.15, 0.15, 0.1]),
        (PlainCNN(), [0.25] * 3 + [0.5] * 2),
    ],
    ids=["r5", "separable", "wide", "plain"],
)
def test_published_dropouts(model: Classifier, expected: list[float]) -> None:
    assert [module.p for module in model.net.modules() if isinstance(module, nn.Dropout)] == expected


def test_heads_of_the_depthwise_net() -> None:
    images = torch.randn(64, 3, 32, 32)
    assert (DepthwiseNet(**SEPARABLE)(images) >= 0).all(), "the ReLU stands behind the logits' maps"
    assert (DepthwiseNet(**WIDE)(images) < 0).any()


@pytest.mark.parametrize(("name", "settings"), [("r5_separable", SEPARABLE), ("r5_wide", WIDE)])
def test_the_recipes_of_r5s_siblings_are_those_tested_here(name: str, settings: dict[str, Any]) -> None:
    recipe = Path(__file__).parents[2] / "configs" / "reference" / f"{name}.yaml"
    arguments = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]["init_args"]
    assert {key: arguments[key] for key in settings} == settings


def test_plain_cnn_starts_as_published() -> None:
    net = PlainCNN().net
    layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert all(not layer.bias.any() for layer in layers if layer.bias is not None)
    # Glorot and Bengio 2010: evenly between ±√(6 / (in + out)).
    bound = (6 / (768 + 512)) ** 0.5
    weights = net.dense[1].weight
    # The largest draw is a number of float32, as is the bound that it may reach.
    assert 0.99 * bound < weights.abs().max().item() <= torch.tensor(bound).item()
    assert weights.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


def test_plain_cnn_says_which_images_it_takes() -> None:
    with pytest.raises(UserError, match="32×32 pixels, not 48×48"):
        PlainCNN()(torch.zeros(1, 3, 48, 48))


@pytest.mark.parametrize("compile_mode", ["none", "default"])
def test_images_that_are_too_small_are_refused_in_a_line(compile_mode: CompileMode) -> None:
    model = DepthwiseNet(compile_mode=compile_mode).eval()
    with pytest.raises(UserError, match="Images of 24×24 are too small for DepthwiseNet: give larger ones"):
        model(torch.zeros(1, 3, 24, 24))


def test_other_errors_of_a_network_are_not_taken_for_small_images() -> None:
    with pytest.raises(RuntimeError, match="3 channels"):
        DepthwiseNet()(torch.zeros(1, 4, 32, 32))
