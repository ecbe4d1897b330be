"""The layer table against hand-made tables, against published figures, and against gradients."""

import copy
import csv
import importlib
import io
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_lit.classifier import Classifier
from cifar_lit.explain.layers import LayerTable, layer_table, network_table

torchvision_models = importlib.import_module("torchvision.models")  # torchvision has no types; so it is Any

# --- The gradient measurement --------------------------------------------------------------------------------------


def positive(net: nn.Module) -> nn.Module:
    """A copy through which every path passes a positive gradient: nothing cancels, no unit is dead, no pixel loses."""
    net = copy.deepcopy(net).double().eval()
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
            if isinstance(child, nn.MaxPool2d):  # sends its gradient to one pixel; an average sends it to all
                setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
    for parameter in net.parameters():
        # Scaled by what is summed, so that a deep net neither overflows nor vanishes.
        nn.init.uniform_(parameter, 0.5, 1.5).data.div_(max(parameter[0].numel(), 1))
    return net


def extent(gradient: Tensor) -> tuple[int, int]:
    """Height and width of the box of pixels that have a gradient."""
    seen = gradient.abs().sum(dim=(0, 1)) > 0
    if not seen.any():  # a corner may see nothing but padding
        return 0, 0
    rows, columns = (seen.any(dim=d).nonzero().flatten().tolist() for d in (1, 0))
    return rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def measured_fields(net: nn.Module, names: Sequence[str], size: tuple[int, int, int]) -> dict[str, tuple[int, int]]:
    """The box of pixels that the central unit of each named layer sees, all channels together."""
    net = positive(net)
    outputs: dict[str, Tensor] = {}
    for name in names:
        net.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: outputs.update({name: out.clone()})
        )
    image = torch.rand(1, *size, dtype=torch.float64, requires_grad=True)
    net(image)
    fields = {}
    for name, out in outputs.items():
        unit = out[0, :, out.shape[2] // 2, out.shape[3] // 2].sum()
        (gradient,) = torch.autograd.grad(unit, image, retain_graph=True)
        fields[name] = extent(gradient)
    return fields


def largest_measured_field(net: nn.Module, size: tuple[int, int, int]) -> tuple[int, int]:
    """The largest box that any unit of the output sees, over the positions of a diagonal."""
    image = torch.rand(1, *size, dtype=torch.float64, requires_grad=True)
    out: Tensor = positive(net)(image)
    units = out.sum(1)[0].diagonal() if out.dim() == 4 else out.sum(1)
    fields = [extent(torch.autograd.grad(unit, image, retain_graph=True)[0]) for unit in units]
    return max(height for height, _ in fields), max(width for _, width in fields)


# --- Networks ------------------------------------------------------------------------------------------------------


class EverySecondPixel(nn.Conv2d):
    """A convolution of stride and dilation 2, computed as one of stride and dilation 1 on every second pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x[:, :, ::2, ::2], self.weight, self.bias, 1, 1, 1, self.groups)


# in, out, kernel, stride, padding, dilation, output, receptive field: reference-systems.md, R4
R4 = {
    "C1a": (3, 64, 3, 1, 1, 1, 32, 3),
    "C1b": (64, 128, 3, 2, 2, 2, 16, 7),
    "T1": (128, 64, 1, 1, 0, 1, 16, 7),
    "C2a": (64, 128, 3, 1, 1, 1, 16, 11),
    "C2b": (128, 128, 3, 2, 2, 2, 8, 19),
    "T2": (128, 64, 1, 1, 0, 1, 8, 19),
    "C3a": (64, 128, 3, 1, 1, 1, 8, 27),
    "C3b": (128, 128, 3, 1, 1, 2, 6, 43),
    "T3": (128, 64, 1, 1, 0, 1, 6, 43),
    "C4": (64, 128, 3, 1, 1, 1, 6, 51),
    "GAP": (128, 128, 6, 6, 0, 1, 1, 71),
    "out": (128, 10, 1, 1, 0, 1, 1, 71),
}


def dilated_separable_net(strided: type[nn.Conv2d]) -> nn.Sequential:
    net = nn.Sequential()
    for name, (before, after, k, stride, padding, dilation, _, _) in R4.items():
        if name == "GAP":
            net.add_module(name, nn.AdaptiveAvgPool2d(1))
            continue
        conv = strided if stride == 2 else nn.Conv2d
        layer = nn.Sequential(
            OrderedDict(
                depthwise=conv(before, before, k, stride, padding, dilation, groups=before, bias=False),
                pointwise=nn.Conv2d(before, after, 1, bias=False),
            )
        )
        if name != "out":
            layer.extend([nn.BatchNorm2d(after), nn.Dropout(0.05), nn.ReLU()])
        net.add_module(name, layer)
    return net


def depthwise_net() -> nn.Sequential:
    """R5: kernels 3, valid padding except the first; 1×1 after each pool; no dropout, which changes no figure."""
    net = nn.Sequential()
    width = 3
    for name, widths in {"A": (32, 64, 128), "B": (32, 64, 128), "C": (32,)}.items():
        if name != "A":
            net.add_module(f"pool{name}", nn.MaxPool2d(2))
            net.add_module(f"squeeze{name}", nn.Conv2d(width, 32, 1, bias=False))
            width = 32
        for i, after in enumerate(widths):
            padding = 1 if (name, i) == ("A", 0) else 0
            net.add_module(
                f"{name}{i}_depthwise", nn.Conv2d(width, width, 3, padding=padding, groups=width, bias=False)
            )
            net.add_module(f"{name}{i}_pointwise", nn.Conv2d(width, after, 1, bias=False))
            net.add_module(f"{name}{i}_relu", nn.ReLU())
            net.add_module(f"{name}{i}_bn", nn.BatchNorm2d(after))
            width = after
    net.add_module("out", nn.Conv2d(32, 10, 1, bias=False))
    net.add_module("gap", nn.AdaptiveAvgPool2d(1))
    return net


class BasicBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Conv2d(before, after, 1, stride) if stride > 1 else nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class Bottleneck(nn.Module):
    """v2: BN-ReLU-conv, 1×1-3×3-1×1."""

    def __init__(self, before: int, middle: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, middle, 1, stride, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(middle), nn.Conv2d(middle, middle, 3, padding=1, bias=False)
        self.bn3, self.conv3 = nn.BatchNorm2d(middle), nn.Conv2d(middle, after, 1, bias=False)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv3(F.relu(self.bn3(self.conv2(F.relu(self.bn2(out))))))
        return torch.add(out, self.shortcut(x))


def resnet20() -> nn.Sequential:
    blocks = [BasicBlock(16, 16, 1) for _ in range(3)]
    for before, after in ((16, 32), (32, 64)):
        blocks += [BasicBlock(before, after, 2), BasicBlock(after, after, 1), BasicBlock(after, after, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), *blocks, *head)


class Net(nn.Module):
    """Layers by name, and a forward that does with them what a test likes."""

    def __init__(self, forward: Callable[["Net", Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def conv(before: int = 3, after: int = 4, kernel: int = 3, **kwargs: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, padding=kwargs.pop("padding", kernel // 2), **kwargs)  # type: ignore[arg-type]


def fields(table: LayerTable) -> dict[str, tuple[int, int] | None]:
    return {row.name: row.receptive_field for row in table.rows}


# --- Against tables made by hand -----------------------------------------------------------------------------------


@pytest.mark.parametrize("strided", [nn.Conv2d, EverySecondPixel])
def test_dilated_separable_net_row_by_row(strided: type[nn.Conv2d]) -> None:
    table = layer_table(dilated_separable_net(strided))
    rows = {row.name: row for row in table.rows}
    for name, (before, after, k, stride, _, dilation, size, field) in R4.items():
        first = rows.get(f"{name}.depthwise") or rows[name]
        assert (first.kernel, first.stride) == ((k, k), (stride, stride)), name
        assert first.dilation == (None if name == "GAP" else (dilation, dilation)), name
        assert first.output_size == (before, size, size), name
        assert first.receptive_field == (field, field), name
        if name != "GAP":
            assert first.kind == "depthwise Conv2d"
            assert rows[f"{name}.pointwise"].kind == "Conv2d"
            assert rows[f"{name}.pointwise"].output_size == (after, size, size), name
            assert rows[f"{name}.pointwise"].receptive_field == (field, field), name
            assert first.macs == before * k * k * size * size
    assert rows["C1b.depthwise"].jump == (2, 2)
    assert rows["C4.pointwise"].jump == (4, 4)
    assert table.trainable_parameters == 98_779
    assert table.largest_receptive_field == 71
    assert table.notes == ()


def test_depthwise_net_row_by_row() -> None:
    table = layer_table(depthwise_net())
    windows = [row for row in table.rows if row.kernel and row.kernel != (1, 1) and row.name != "gap"]
    assert [row.receptive_field for row in windows] == [(f, f) for f in (3, 5, 7, 8, 12, 16, 20, 22, 30)]
    assert [row.output_size[1] for row in windows] == [32, 30, 28, 14, 12, 10, 8, 4, 2]
    # The pool sees 2 positions 4 pixels apart: 30 + 4.
    assert fields(table)["gap"] == (34, 34)
    assert table.trainable_parameters == 34_427
    assert table.batchnorm_statistics == 960
    assert table.parameters_with_statistics == 35_387


# --- Against gradients ---------------------------------------------------------------------------------------------


def test_resnet20_sees_what_its_gradient_says() -> None:
    net = resnet20()
    assert layer_table(net).trainable_parameters == 273_066
    size = (3, 200, 40)  # high enough for the largest field; narrow to be quick
    names = [f"{block}.{layer}" for block in range(3, 12) for layer in ("conv1", "conv2")]
    names += [f"{block}" for block in range(3, 12)] + ["6.shortcut", "9.shortcut"]
    expected = fields(layer_table(net, size))
    measured = measured_fields(net, names, size)
    assert len(measured) == len(names)
    for name, (height, _) in measured.items():
        field = expected.get(name) or expected[f"{name}.add"]
        assert field == (height, height), name
    # The projection of a shortcut sees less than the path beside it, and the sum the larger of both.
    assert expected["6.shortcut"] == (15, 15)
    assert expected["6.conv2"] == expected["6.add"] == (21, 21)


def test_resnet18_sees_what_its_gradient_says() -> None:
    net = torchvision_models.resnet18()
    size = (3, 512, 32)
    names = ["conv1", "maxpool", "layer1.1.conv2", "layer2.0.conv1", "layer2.0.downsample.0", "layer3.1.conv2"]
    names += ["layer4.0.downsample.0", "layer4.1.conv2"]
    expected = fields(layer_table(net, size))
    measured = measured_fields(net, names, size)
    assert {name: expected[name] for name in names} == {name: (h, h) for name, (h, _) in measured.items()}
    assert expected["layer4.1.conv2"] == (435, 435)


def test_densenet121_sees_what_is_published() -> None:
    # Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.
    assert fields(layer_table(torchvision_models.densenet121(), (3, 64, 64)))["features.norm5"] == (2071, 2071)


def squeeze_and_excite(net: Net, x: Tensor) -> Tensor:
    x = net.get_submodule("a")(x)
    y = F.adaptive_avg_pool2d(x, 1).view(1, 4)
    y = torch.sigmoid(net.get_submodule("fc")(y)).view(1, 4, 1, 1)
    out: Tensor = net.get_submodule("b")(x * y.expand_as(x))
    return out


def convnext(net: Net, x: Tensor) -> Tensor:
    x = net.get_submodule("a")(x).permute(0, 2, 3, 1)
    x = F.gelu(net.get_submodule("fc")(F.layer_norm(x, (4,))))
    out: Tensor = net.get_submodule("b")(x.permute(0, 3, 1, 2))
    return out


def tokens_and_back(net: Net, x: Tensor) -> Tensor:
    x = net.get_submodule("a")(x)
    n, c, h, w = x.shape
    x = net.get_submodule("fc")(x.flatten(2).transpose(1, 2))
    out: Tensor = net.get_submodule("b")(x.transpose(1, 2).reshape(n, c, h, w))
    return out


def channel_shuffle(net: Net, x: Tensor) -> Tensor:
    x = net.get_submodule("a")(x)
    n, c, h, w = x.shape
    left, right = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w).chunk(2, dim=1)
    out: Tensor = net.get_submodule("b")(torch.cat([left, F.avg_pool2d(right, 3, 1, 1)], dim=1))
    return out


def in_place_halves(net: Net, x: Tensor) -> Tensor:
    x = net.get_submodule("a")(x)
    left, right = x[:, :2], x[:, 2:]
    right.add_(F.avg_pool2d(left.clone(), 5, 1, 2))
    out: Tensor = net.get_submodule("b")(torch.cat([right, left], dim=1)[:, :4])
    return out


def overwritten(net: Net, x: Tensor) -> Tensor:
    canvas = torch.zeros_like(x) + F.avg_pool2d(x, 7, 1, 3)
    canvas.copy_(F.avg_pool2d(x, 3, 1, 1))
    out: Tensor = net.get_submodule("a")(canvas)
    return out


B4 = {"a": conv(), "b": conv(4)}
FORWARDS: dict[str, Net] = {
    "branches joined": Net(
        lambda n, x: n.c(torch.cat([n.a(x), n.b(x), n.d(x)], 1)),  # type: ignore[operator]
        a=conv(kernel=1), b=conv(kernel=5), d=conv(dilation=3, padding=3), c=conv(12),
    ),
    "sum of unequal paths": Net(lambda n, x: n.a(x) + n.b(x), a=conv(kernel=5), b=conv(kernel=3)),  # type: ignore[operator]
    "dilation": Net(lambda n, x: n.b(n.a(x)), a=conv(dilation=2, padding=2), b=conv(4, dilation=3, padding=0)),  # type: ignore[operator]
    "stride, then kernel": Net(lambda n, x: n.b(n.a(x)), a=conv(stride=2), b=conv(4, kernel=5)),  # type: ignore[operator]
    "one axis": Net(
        lambda n, x: n.b(n.a(x)),  # type: ignore[operator]
        a=nn.Conv2d(3, 4, (3, 1), (2, 1)), b=nn.Conv2d(4, 4, (1, 5), (1, 3), dilation=(1, 2)),
    ),
    "every second pixel": Net(lambda n, x: n.a(x[:, :, ::2, ::2]), a=conv()),  # type: ignore[operator]
    "neighbours by slices": Net(lambda n, x: n.a(x[:, :, 1::2, :-1] + x[:, :, ::2, 1:]), a=conv()),  # type: ignore[operator]
    "one row of the map": Net(lambda n, x: n.a(x * x[:, :, 3:4]), a=conv(padding=0)),  # type: ignore[operator]
    "functional pools": Net(lambda n, x: n.a(F.avg_pool2d(F.avg_pool2d(x, 2), 3, 1)), a=conv()),  # type: ignore[operator]
    "padding": Net(lambda n, x: n.a(F.pad(x, (2, 0, 1, 3)) + F.pad(x, (0, 2, 3, 1))), a=conv()),  # type: ignore[operator]
    "reflection": Net(lambda n, x: n.a(x), a=nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),  # type: ignore[operator]
    "transposed map": Net(lambda n, x: n.a(x.transpose(2, 3)), a=nn.Conv2d(3, 4, (5, 1))),  # type: ignore[operator]
    "pixel unshuffle": Net(lambda n, x: n.a(F.pixel_unshuffle(x, 2)), a=conv(12)),  # type: ignore[operator]
    "adaptive pool": Net(lambda n, x: n.a(F.adaptive_avg_pool2d(x, 6)), a=conv()),  # type: ignore[operator]
    "global mean, linear": Net(lambda n, x: n.fc(n.a(x).mean(dim=(2, 3))), a=conv(), fc=nn.Linear(4, 2)),  # type: ignore[operator]
    "flatten, linear": Net(lambda n, x: n.fc(n.a(x).flatten(1)), a=conv(), fc=nn.Linear(4 * 576, 2)),  # type: ignore[operator]
    "linear over the width": Net(lambda n, x: n.a(n.fc(x)), a=conv(), fc=nn.Linear(24, 24)),  # type: ignore[operator]
    "einsum over channels": Net(lambda n, x: n.a(torch.einsum("nchw,cd->ndhw", x, x.new_ones(3, 3))), a=conv()),  # type: ignore[operator]
    "mean over channels": Net(lambda n, x: n.a(x.mean(1)[:, None]), a=conv(1)),  # type: ignore[operator]
    "height as channels": Net(lambda n, x: n.a(x.transpose(1, 2)), a=nn.Conv2d(24, 4, (1, 3))),  # type: ignore[operator]
    "instance norm": Net(lambda n, x: n.b(n.g(n.a(x))), g=nn.InstanceNorm2d(4), **B4),  # type: ignore[operator]
    "group norm": Net(lambda n, x: n.b(n.g(n.a(x))), g=nn.GroupNorm(2, 4), **B4),  # type: ignore[operator]
    "local response norm": Net(lambda n, x: n.b(n.g(n.a(x))), g=nn.LocalResponseNorm(2), **B4),  # type: ignore[operator]
    "softmax over the width": Net(lambda n, x: n.a(x.softmax(dim=3) * x), a=conv()),  # type: ignore[operator]
    "unit vectors": Net(lambda n, x: n.a(F.normalize(x, dim=1)), a=conv()),  # type: ignore[operator]
    "squeeze and excite": Net(squeeze_and_excite, fc=nn.Linear(4, 4), **B4),
    "channels last linear": Net(convnext, fc=nn.Linear(4, 4), **B4),
    "tokens and back": Net(tokens_and_back, fc=nn.Linear(4, 4), **B4),
    "channel shuffle": Net(channel_shuffle, **B4),
    "channel shuffle of torch": Net(lambda n, x: n.b(F.channel_shuffle(n.a(x), 2)), **B4),  # type: ignore[operator]
    "halves written in place": Net(in_place_halves, **B4),
    "overwritten": Net(overwritten, a=conv()),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARDS)
def test_any_forward_sees_what_its_gradient_says(name: str) -> None:
    net, size = FORWARDS[name], (3, 24, 24)
    table = layer_table(net, size)
    field = table.rows[-1].receptive_field
    assert table.notes == ()
    assert field is not None
    # Padding counts in the table and has no gradient.
    assert (min(field[0], 24), min(field[1], 24)) == largest_measured_field(net, size)


# --- What cannot be told -------------------------------------------------------------------------------------------


def scaled_by_a_value(net: Net, x: Tensor) -> Tensor:
    out: Tensor = net.get_submodule("b")(net.get_submodule("a")(x) * x.mean().item())
    return out


def written_through_a_view(net: Net, x: Tensor) -> Tensor:
    x = net.get_submodule("a")(x)
    x[:, :, 2:5] = F.avg_pool2d(x, 7, 1, 3)[:, :, 2:5]
    out: Tensor = net.get_submodule("b")(x)
    return out


def through_numpy(net: Net, x: Tensor) -> Tensor:
    out: Tensor = net.get_submodule("b")(torch.from_numpy(net.get_submodule("a")(x).numpy().copy()))
    return out


def attention(net: Net, x: Tensor) -> Tensor:
    tokens = net.get_submodule("a")(x).flatten(2).transpose(1, 2)
    tokens, _ = net.get_submodule("heads")(tokens, tokens, tokens)
    out: Tensor = net.get_submodule("b")(tokens.transpose(1, 2).reshape(1, 4, 8, 8))
    return out


UNTRACEABLE: dict[str, tuple[Net, str]] = {
    "interpolation": (Net(lambda n, x: n.b(F.interpolate(n.a(x), scale_factor=2)), **B4), "upsample_nearest2d"),  # type: ignore[operator]
    "transposed convolution": (
        Net(lambda n, x: n.b(n.up(n.a(x))), up=nn.ConvTranspose2d(4, 4, 2, 2), **B4),  # type: ignore[operator]
        "up (ConvTranspose2d): convolution is a transposed convolution",
    ),
    "attention": (
        Net(attention, heads=nn.MultiheadAttention(4, 2, batch_first=True), **B4),
        "heads (MultiheadAttention)",
    ),
    "product of activations": (Net(lambda n, x: n.b(n.a(x) @ n.a(x)), **B4), "several activations"),  # type: ignore[operator]
    "own weights": (Net(lambda n, x: F.conv2d(x, n.a(x)[:, :3, :3, :3].expand(4, 3, 3, 3)), **B4), "activations"),  # type: ignore[operator]
    "weights from the image": (
        Net(lambda n, x: F.conv2d(x.new_ones(1, 3, 8, 8), n.a(x)[:, :3, :3, :3]), **B4),  # type: ignore[operator]
        "weights that were computed from the image",
    ),
    "grouped over space": (
        Net(lambda n, x: F.conv2d(n.a(x).transpose(1, 2), x.new_ones(8, 1, 1, 1), groups=8), **B4),  # type: ignore[operator]
        "groups of positions",
    ),
    "roll": (Net(lambda n, x: n.b(n.a(x).roll(1, dims=2)), **B4), "roll mixes or moves positions"),  # type: ignore[operator]
    "reshape of space": (Net(lambda n, x: n.b(n.a(x).reshape(1, 4, 4, 16)), **B4), "reshapes space"),  # type: ignore[operator]
    "window of tokens": (Net(lambda n, x: n.b(n.a(x).flatten(2)[:, :, :16].view(1, 4, 4, 4)), **B4), "merged"),  # type: ignore[operator]
    "maps side by side": (Net(lambda n, x: n.b(torch.cat([n.a(x), n.a(x)], 3)), **B4), "side by side"),  # type: ignore[operator]
    "unequal pools": (Net(lambda n, x: n.b(F.adaptive_avg_pool2d(n.a(x), 5)), **B4), "unequal size"),  # type: ignore[operator]
    "value in Python": (Net(scaled_by_a_value, **B4), "reads a value"),
    "written through a view": (Net(written_through_a_view, **B4), "writes a part of a map"),
    "circular padding": (
        Net(lambda n, x: n.b(n.ring(n.a(x))), ring=nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), **B4),  # type: ignore[operator]
        "ring (Conv2d): an operation in place writes a part of a map, as circular padding does",
    ),
    "through numpy": (Net(through_numpy, **B4), "does not depend on the image"),
    "no rule": (Net(lambda n, x: n.b(n.a(x).sort(dim=3).values.cummax(dim=3).values), **B4), "positions"),  # type: ignore[operator]
}


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_what_cannot_be_told_is_said_and_not_guessed(name: str) -> None:
    net, reason = UNTRACEABLE[name]
    table = layer_table(net, (3, 8, 8))
    assert table.rows[-1].receptive_field is None
    assert len([note for note in table.notes if "not executed" not in note]) == 1
    assert reason in table.notes[0]
    if name != "product of activations":
        assert table.rows[0].receptive_field == (3, 3)  # what comes before keeps its number
    row = next(line for line in table.to_text().splitlines() if line.startswith(table.rows[-1].name))
    assert row.split()[-2:] == ["?", "?"]
    assert f"note: {table.notes[0]}" in " ".join(table.to_text().split())


def test_multiply_adds_without_a_count_are_said() -> None:
    net = Net(lambda n, x: n.rnn(x.mean(2).transpose(1, 2))[0], rnn=nn.LSTM(3, 4, batch_first=True))  # type: ignore[operator]
    assert any("multiply-adds" in note and "rnn (LSTM)" in note for note in layer_table(net).notes)


# --- Parameters and multiply-adds ----------------------------------------------------------------------------------


class Counted(nn.Module):
    """Every way in which a parameter may be used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)  # 224 parameters; 8·27·64 multiply-adds on 8×8
        self.bn = nn.BatchNorm2d(8)  # 16, and 16 statistics
        self.shared = nn.Conv2d(8, 8, (3, 1), groups=4, padding=(1, 0), bias=False)  # 48; 8·2·3·64, twice
        self.frozen = nn.Conv2d(8, 6, 1).requires_grad_(False)  # none to train; 6·8·64
        self.scale = nn.Parameter(torch.ones(6, 1, 1))  # 6
        self.weight = nn.Parameter(torch.ones(5, 6))  # 30; 30
        self.auxiliary = nn.Linear(7, 7)  # 56, never executed

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.shared(self.bn(self.conv(x))))
        x = self.frozen(x) * self.scale
        return F.linear(x.mean((2, 3)), self.weight)


def test_parameters_and_multiply_adds_to_the_digit() -> None:
    table = layer_table(Counted(), (3, 8, 8))
    figures = {
        "conv": ("Conv2d", 224, 0, 13_824),
        "bn": ("BatchNorm2d", 16, 16, 0),
        "frozen": ("Conv2d", 0, 0, 3_072),
        "mul": ("Mul", 6, 0, 0),
        "mean": ("Mean", 0, 0, 0),
        "mm": ("Linear", 30, 0, 30),
    }
    rows = [(row.name, (row.kind, row.parameters, row.batchnorm_statistics, row.macs)) for row in table.rows]
    assert [row for row in rows if row[0] == "shared"] == [
        ("shared", ("grouped Conv2d", 48, 0, 3_072)),
        ("shared", ("grouped Conv2d", 0, 0, 3_072)),
    ]
    assert dict(row for row in rows if row[0] != "shared") == figures
    assert table.totals() == {
        "trainable_parameters": 224 + 16 + 48 + 6 + 30 + 56,
        "parameters_with_statistics": 224 + 16 + 48 + 6 + 30 + 56 + 16,
        "macs": 13_824 + 2 * 3_072 + 3_072 + 30,
        "largest_receptive_field": 3 + 7,  # high 3 + 2 · 2 + 7, but 3 + 7 wide
    }
    assert table.notes == ("not executed, and so in the totals only: auxiliary (56 parameters)",)


def test_attention_is_counted_whole() -> None:
    net = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(64, 2, 128, batch_first=True))
    table = layer_table(net, (3, 8, 8))
    assert [row.kind for row in table.rows] == ["Flatten", "TransformerEncoderLayer"]
    # Three tokens of 64: in-projection, out-projection, two matrices of 64×128; scores and their use, 3·3·64 each.
    scores = 2 * 3 * 3 * 64
    if any("attention" in note and "not counted" in note for note in table.notes):  # torch before its 2.15, on the CPU
        scores = 0
    assert table.macs == 3 * 64 * 64 * 4 + 2 * 3 * 64 * 128 + scores
    # Attention mixes the three channels here, each of which the projection had made to see all pixels.
    assert table.rows[-1].receptive_field == (8, 8)
    assert table.rows[0].jump is None  # what is flattened is no grid


def test_products_with_a_vector_are_said_not_to_be_counted() -> None:
    class Pooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.query = nn.Conv2d(3, 4, 3), nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.conv(x).flatten(2).mT[0]
            weights: torch.Tensor = tokens @ self.query
            return weights.softmax(0)[None]

    (note,) = (note for note in layer_table(Pooling(), (3, 8, 8)).notes if "not counted" in note)
    assert note == "the forward (Pooling): the multiply-adds of mv are not counted"


# --- Renderings ----------------------------------------------------------------------------------------------------


def rendered(numbers: Sequence[int] | None, times: str) -> str:
    return "" if numbers is None else str(numbers[0]) if len(set(numbers)) == 1 else times.join(map(str, numbers))


@pytest.mark.parametrize("net", [resnet20(), Counted(), UNTRACEABLE["attention"][0]])
def test_renderings_agree(net: nn.Module) -> None:
    table = layer_table(net, (3, 8, 8))
    content = json.loads(table.to_json())
    *sheet, last = csv.DictReader(io.StringIO(table.to_csv()))
    markdown = [line for line in table.to_markdown().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in markdown]
    assert len(content["layers"]) == len(sheet) == len(cells) - 2 == len(table.rows) > 0
    for row, line, (name, kind, kernel, _, _, output, parameters, _, macs, field, jump) in zip(
        content["layers"], sheet, cells[2:], strict=True
    ):
        assert list(row) == list(line)
        assert row["name"] == line["name"] == name
        assert row["kind"] == line["kind"] == kind
        assert str(row["parameters"]) == line["parameters"] == parameters.replace(",", "")
        assert str(row["macs"]) == line["macs"] == macs.replace(",", "")
        assert "x".join(map(str, row["output_size"])) == line["output_size"] == output.replace("×", "x")
        assert rendered(row["kernel"], "x") == line["kernel"] == kernel.replace("×", "x").replace("–", "")
        assert (rendered(row["receptive_field"], "x") or "?") == line["receptive_field"] == field.replace("×", "x")
        assert line["jump"] == jump.replace("×", "x").replace("–", "") != "None"
    assert content["totals"] == table.totals()
    assert (last["name"], last["kind"], last["macs"]) == ("total", "", str(table.macs))
    assert int(last["parameters"]) == table.trainable_parameters
    assert int(last["parameters"]) + int(last["batchnorm_statistics"]) == table.parameters_with_statistics
    assert last["receptive_field"] == str(table.largest_receptive_field or "?")
    assert content["input_size"] == [3, 8, 8]
    assert content["notes"] == list(table.notes)
    for text in (table.to_text(), table.to_markdown()):
        for total in (table.trainable_parameters, table.parameters_with_statistics, table.macs):
            assert f"{total:,}" in text
        assert all(note in " ".join(text.split()) for note in table.notes)


def test_text_is_aligned_and_keeps_to_the_width() -> None:
    table = layer_table(torchvision_models.resnet18())
    for width in (None, 100, 80):
        lines = table.to_text(width).splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("─"))
        body = lines[start : start + 4 + len(table.rows)]
        assert len({len(line) for line in body}) == 1
        assert width is None or max(map(len, lines)) <= width
    last = ["layer4.1.conv2", "Conv2d", "3", "1", "512×1×1", "2,359,296", "0", "2,359,296", "435", "32"]
    assert last in [line.split() for line in table.to_text().splitlines()]
    assert any(line.startswith("…") and "downsample.0" in line for line in table.to_text(80).splitlines())


# --- It looks and does not touch -----------------------------------------------------------------------------------


class Restless(nn.Module):
    """Writes its buffers, replaces one, and draws random numbers in every forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        self.steps += 1
        self.mean = x.mean((0, 2, 3))
        return x + torch.rand_like(x)


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


@pytest.mark.parametrize("size", [(3, 8, 8), (5, 8, 8)])
def test_network_is_left_as_it_was(size: tuple[int, int, int]) -> None:
    net = Restless()
    net(torch.rand(4, 3, 8, 8))
    net.train()
    net.bn.eval()
    user_hook = net.conv.register_forward_hook(lambda *_: None)
    modes = [module.training for module in net.modules()]
    buffers = {name: (id(buffer), buffer.clone()) for name, buffer in net.named_buffers()}
    random = torch.get_rng_state()
    torch.backends.mha.set_fastpath_enabled(True)
    if size[0] == 3:
        assert fields(layer_table(net, size))["bn"] == (3, 3)
    else:  # also where the forward fails
        with pytest.raises(ValueError, match="cannot run"):
            layer_table(net, size)
    assert [module.training for module in net.modules()] == modes == [True, True, False]
    assert {name: id(buffer) for name, buffer in net.named_buffers()} == {n: i for n, (i, _) in buffers.items()}
    assert all(torch.equal(buffer, buffers[name][1]) for name, buffer in net.named_buffers())
    assert torch.equal(torch.get_rng_state(), random)
    assert hooks(net) == 1
    assert not torch.nn.modules.module._global_forward_hooks
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in net.parameters())
    user_hook.remove()


# --- Errors --------------------------------------------------------------------------------------------------------


def test_network_that_cannot_run_says_so_in_one_line() -> None:
    with pytest.raises(ValueError, match="cannot run on an input of 1×32×32: RuntimeError") as error:
        layer_table(resnet20(), (1, 32, 32))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(32, 32), (3, 0, 32), (1, 3, 32, 32)])
def test_input_size_is_of_one_image(size: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="channels, height, width"):
        layer_table(resnet20(), size)


def test_lazy_layers_are_not_made_real() -> None:
    net = nn.Sequential(nn.LazyConv2d(4, 3))
    with pytest.raises(ValueError, match="lazy"):
        layer_table(net)
    assert isinstance(net[0], nn.LazyConv2d)


# --- Speed ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thousand_layers_in_seconds() -> None:
    blocks: list[nn.Module] = []
    before = 16
    for middle, after, stride in ((16, 64, 1), (32, 128, 2), (64, 256, 2)):
        for i in range(111):
            blocks.append(Bottleneck(before, middle, after, stride if i == 0 else 1))
            before = after
    head = [nn.BatchNorm2d(256), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)]
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), *blocks, *head)
    start = time.perf_counter()
    table = layer_table(net)
    assert time.perf_counter() - start < 15
    assert sum(row.kind == "Conv2d" for row in table.rows) == 1 + 333 * 3 + 3
    # A 3×3 convolution a block, 2 · jump wider each: stem 3, then 111 blocks of jumps 1, 2, 4; the pool adds 7 · 4.
    assert table.largest_receptive_field == 3 + 111 * 2 * (1 + 2 + 4) + 7 * 4


class NetAndHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.net(images).mean((2, 3)))
        return logits


def test_a_module_that_keeps_layers_beside_its_net_is_described_whole() -> None:
    table = network_table(NetAndHead(), 32)
    assert table.trainable_parameters == 3 * 8 * 9 + 8 + 90
    assert table.largest_receptive_field == 32


class Shrinks(Classifier):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(F.avg_pool2d(images, 2))
        return logits


class CallsTwice(Classifier):
    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.net(self.net(images))
        return features.mean((2, 3))


@pytest.mark.parametrize(
    ("model", "fields", "macs"),
    [
        (Shrinks(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 3))), [2, 6, 10], 14**2 * 8 * 27 + 12**2 * 10 * 72),
        (CallsTwice(nn.Conv2d(3, 3, 3, padding=1)), [3, 5, 36], 2 * 32**2 * 3 * 27),
    ],
)
def test_a_module_that_does_more_than_to_call_its_net_is_described_whole(
    model: Classifier, fields: list[int], macs: int
) -> None:
    table = network_table(model, 32)
    assert [row.receptive_field for row in table.rows] == [(field, field) for field in fields]
    assert table.macs == macs


@pytest.mark.parametrize(
    ("ending", "field"),
    [
        (lambda x: x.flatten(2).max(-1).values, 16),
        (lambda x: x.logsumexp((2, 3)), 16),
        (lambda x: F.interpolate(x, scale_factor=2), None),
        (lambda x: x.roll(1, 3), None),
    ],
)
def test_what_the_last_operation_does_to_the_field_is_told(ending: Callable[[Tensor], Tensor], field: int) -> None:
    class Ending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            return ending(self.conv(images))

    table = layer_table(Ending(), (3, 16, 16))
    last = table.rows[-1].receptive_field
    assert last == ((field, field) if field else None)
    assert bool(table.notes) == (field is None)
    if field is None:
        assert "largest receptive field    at least 3" in table.to_text()
