"""Maps against ones made by hand and by torch.autograd, in every context, on a network that stays as it was."""

import contextlib
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pytorch_grad_cam import FinerCAM
from pytorch_grad_cam.base_cam import BaseCAM
from torch import Tensor, nn

from cifar_lit import models
from cifar_lit.classifier import Classifier
from cifar_lit.errors import UserError
from cifar_lit.explain import gradcam
from cifar_lit.explain.gradcam import METHODS, OTHER_METHODS, class_activation_maps, overlay
from cifar_lit.models import ResNetV1, ResNetV2


def tiny_net(relu: nn.Module | None = None) -> Any:
    """A convolution, which is the layer to look at, then activation, BatchNorm, another convolution and a head."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        relu or nn.ReLU(),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 5, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    )
    net(torch.randn(8, 3, 16, 16))  # BatchNorm's statistics are no longer 0 and 1
    return net.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


CLASSES = torch.tensor([0, 1, 2, 3, 2, 0])


def scaled(maps: Tensor) -> Tensor:
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / (maps.amax((1, 2), keepdim=True) + 1e-7)


def gradcam_by_autograd(
    features: Tensor, logits: Tensor, classes: Tensor, size: int, first: float = 0, step: float = 1
) -> NDArray[np.float32]:
    """Grad-CAM from a feature map (N, C, h, w), whose cells lie from pixel ``first`` on, and the logits of it."""
    score = logits[torch.arange(len(classes)), classes].sum()
    (gradient,) = torch.autograd.grad(score, features)
    maps = (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu()
    # The small map is scaled, enlarged, and scaled again.
    large = scaled(maps).detach().numpy()
    for axis in (1, 2):
        at = first + step * np.arange(large.shape[axis])
        ends = [at[0] - 1.5 * step, at[0] - step / 2, at[-1] + step / 2, at[-1] + 1.5 * step]
        fading = np.interp(range(size), ends, [0, 1, 1, 0]) if len(at) * step < size else np.ones(size)
        large = np.apply_along_axis(
            lambda cells, at, fade: np.interp(range(size), at, cells) * fade, axis, large, at, fading
        )
    return scaled(torch.from_numpy(large)).numpy()


def test_maps_by_hand() -> None:
    # The logits are weighted means of the three channels, and so are the maps their weighted sums.
    net = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    net[3].weight.data = torch.tensor([[1.0, 0, 0], [-1, 2, 0], [-1, 0, 0]])
    image = torch.stack([torch.tensor([[0.0, 1], [2, 4]]), torch.ones(2, 2), torch.full((2, 2), 9.0)])
    maps = class_activation_maps(net, net[0], image.expand(3, -1, -1, -1), np.array([0, 1, 2]))
    assert maps.dtype == np.float32
    # Class 0: the first channel. Class 1: 2 minus it, without what is negative. Class 2: all negative, so zero.
    expected = np.array([[[0, 0.25], [0.5, 1]], [[1, 0.5], [0, 0]], [[0, 0], [0, 0]]])
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    assert (maps[2] == 0).all()
    with torch.inference_mode():  # what the layer puts out is the input itself
        again = class_activation_maps(net, net[0], image.expand(3, -1, -1, -1) * 1, np.array([0, 1, 2]))
    np.testing.assert_array_equal(again, maps)


def test_maps_equal_those_of_autograd(images: Tensor) -> None:
    net = tiny_net()
    features = net[0](images)
    expected = gradcam_by_autograd(features, net[1:](features), CLASSES, size=16, first=1, step=2)
    maps = class_activation_maps(net, net[0], images, CLASSES)
    assert maps.shape == (6, 16, 16)
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert (np.ptp(maps, axis=(1, 2)) > 0.9).all()


def test_maps_of_a_resnet_equal_those_of_autograd() -> None:
    torch.manual_seed(0)
    model = ResNetV1(depth=8).eval()
    images = torch.randn(8, 3, 32, 32)
    features = model.cam_layer(model.net.stem(images))
    logits = model.net.fc(features.mean((2, 3)))
    expected = gradcam_by_autograd(features, logits, torch.arange(8), size=32, step=4)
    np.testing.assert_allclose(
        class_activation_maps(model.net, model.cam_layer, images, torch.arange(8)), expected, atol=1e-5
    )
    # A LightningModule is a network, too.
    np.testing.assert_allclose(
        class_activation_maps(model, model.cam_layer, images, torch.arange(8)), expected, atol=1e-5
    )


def test_an_image_need_not_be_square() -> None:
    net = tiny_net()
    images = torch.randn(2, 3, 16, 24)
    assert class_activation_maps(net, net[0], images, CLASSES[:2]).shape == (2, 16, 24)


@pytest.mark.parametrize(
    "context",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        contextlib.nullcontext,
    ],
    ids=["no_grad", "inference_mode", "autocast", "none"],
)
def test_every_context_gives_the_same_maps(images: Tensor, context: Callable[[], Any]) -> None:
    net = tiny_net()
    expected = class_activation_maps(net, net[0], images, CLASSES)
    with context():
        maps = class_activation_maps(net, net[0], images * 1, CLASSES * 1)  # inference tensors in inference_mode
    np.testing.assert_array_equal(maps, expected)


def test_a_network_in_training_gives_the_same_maps(images: Tensor) -> None:
    expected = class_activation_maps((net := tiny_net()), net[0], images, CLASSES)
    np.testing.assert_array_equal(class_activation_maps(net.train(), net[0], images, CLASSES), expected)


def test_parameters_frozen_made_in_inference_mode_or_of_half_the_bits(images: Tensor) -> None:
    expected = class_activation_maps((net := tiny_net()), net[0], images, CLASSES)
    frozen = tiny_net().requires_grad_(False)
    np.testing.assert_array_equal(class_activation_maps(frozen, frozen[0], images, CLASSES), expected)
    with torch.inference_mode():
        made_there = tiny_net()
    assert made_there[0].weight.is_inference()
    np.testing.assert_array_equal(class_activation_maps(made_there, made_there[0], images, CLASSES), expected)
    half = tiny_net().bfloat16()
    maps = class_activation_maps(half, half[0], images.bfloat16(), CLASSES)
    assert np.abs(maps - expected).mean() < 0.02


def test_channels_last_gives_the_same_maps(images: Tensor) -> None:
    expected = class_activation_maps((net := tiny_net()), net[0], images, CLASSES)
    net = tiny_net().to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(class_activation_maps(net, net[0], images, CLASSES), expected, atol=1e-5)


def test_a_compiled_network_and_compiled_parts_give_the_same_maps_uncompiled(images: Tensor) -> None:
    # What other tests compiled counts towards the limit behind which torch compiles no more.
    torch._dynamo.reset()
    expected = class_activation_maps((net := tiny_net()), net[0], images, CLASSES)
    runs = []

    def backend(graph: Any, example: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            runs.append(graph)
            return graph(*args)

        return run

    class Own(nn.Module):
        """torch 2.11 compiles in place what has a forward of its own: nn.Sequential's it skips."""

        def __init__(self) -> None:
            super().__init__()
            self.net = tiny_net()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x)
            return logits

    in_place = Own()
    in_place.compile(backend=backend)
    parts = tiny_net()
    part = parts[0]
    parts[0] = torch.compile(part, backend=backend)
    whole: Any = torch.compile(parts, backend=backend)
    for net, layer in ((in_place, in_place.net[0]), (whole, part), (whole, parts[0])):
        net(images)
        assert runs
        runs.clear()
        np.testing.assert_array_equal(class_activation_maps(net, layer, images, CLASSES), expected)
        assert not runs


def test_an_activation_in_place_behind_the_layer_does_not_change_the_map(images: Tensor) -> None:
    expected = class_activation_maps((net := tiny_net()), net[0], images, CLASSES)
    net = tiny_net(nn.ReLU(inplace=True))
    np.testing.assert_array_equal(class_activation_maps(net, net[0], images, CLASSES), expected)


def test_of_a_layer_that_is_used_several_times_the_last_use_counts() -> None:
    class Often(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.fc = nn.Linear(3, 4)

        def features(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = self.conv(x.sigmoid())
            return x

        def rest(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(x.relu().mean((2, 3)))
            return logits

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(self.features(x))

    net = Often()
    images = torch.randn(4, 3, 8, 8)
    features = net.features(images).detach().requires_grad_()
    expected = gradcam_by_autograd(features, net.rest(features), CLASSES[:4], size=8)
    assert (np.ptp(expected, axis=(1, 2)) > 0).any()
    np.testing.assert_allclose(class_activation_maps(net, net.conv, images, CLASSES[:4]), expected, atol=1e-5)


class Keeping(nn.Module):
    """Keeps what it puts out, and with it the graph."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x * 1
        return self.kept


def test_a_network_that_keeps_activations_and_their_graph(images: Tensor) -> None:
    expected = class_activation_maps((net := tiny_net()), net[0], images, CLASSES)
    net = nn.Sequential(*tiny_net(), Keeping())
    net(images)
    kept = net[-1].kept
    np.testing.assert_array_equal(class_activation_maps(net, net[0], images, CLASSES), expected)
    assert net[-1].kept is kept
    assert kept.grad_fn is not None


class Restless(nn.Module):
    """Draws in evaluation mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


def hooks(net: nn.Module) -> list[int]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(module, kind)) for module in net.modules() for kind in kinds]


def test_the_network_and_the_random_state_stay_as_they_were(images: Tensor) -> None:
    net = nn.Sequential(*tiny_net(), Restless()).train()
    net[2].eval()  # someone has frozen its statistics
    net[3].requires_grad_(False)
    net(images).sum().backward()
    net[0].weight.grad = None
    modes = [module.training for module in net.modules()]
    wants_grad = [parameter.requires_grad for parameter in net.parameters()]
    grads = [parameter.grad for parameter in net.parameters()]
    grad_values = [None if grad is None else grad.clone() for grad in grads]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()

    class_activation_maps(net, net[0], images, CLASSES)

    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in net.modules()] == modes
    assert [parameter.requires_grad for parameter in net.parameters()] == wants_grad
    assert all(parameter.grad is grad for parameter, grad in zip(net.parameters(), grads, strict=True))
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(grads, grad_values, strict=True))  # type: ignore[arg-type]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert hooks(net) == [0] * len(hooks(net))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("method", [*METHODS, "EigenCAM", "FinerCAM"])
def test_activations_and_the_copied_network_are_freed(images: Tensor, method: str) -> None:
    net = tiny_net()
    activations, layers = [], []

    def note(layer: nn.Module, _args: Any, output: Tensor) -> None:
        activations.append(weakref.ref(output))
        layers.append(weakref.ref(layer))

    for layer in net:
        layer.register_forward_hook(note)
    gc.collect()
    gc.disable()  # by the end of the function that uses them, not by chance
    try:
        class_activation_maps(net, net[0], images, CLASSES, method)
        # Of one image, to see where the cells lie, and of all.
        assert len(activations) == 2 * len(net)
        assert [reference() for reference in activations] == [None] * 2 * len(net)
        # They are those of a copy.
        assert [reference() for reference in layers] == [None] * 2 * len(net)
    finally:
        gc.enable()


def test_a_network_may_write_to_its_input(images: Tensor) -> None:
    net = nn.Sequential(nn.ReLU(inplace=True), *tiny_net())
    before = images.clone()
    class_activation_maps(net, net[1], images, CLASSES)
    assert torch.equal(images, before)


def test_no_gradient_of_weights_is_computed(images: Tensor) -> None:
    net = tiny_net()
    wanted = []
    net[3].register_forward_hook(lambda layer, _args, _output: wanted.append(layer.weight.requires_grad))
    class_activation_maps(net, net[0], images, CLASSES)
    assert wanted == [False, False]


def test_chunks_make_no_difference(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny_net()
    expected = class_activation_maps(net, net[0], images, CLASSES)
    monkeypatch.setattr(gradcam, "CHUNK", 4)
    sizes = []
    net[0].register_forward_hook(lambda _layer, args, _output: sizes.append(len(args[0])))
    np.testing.assert_allclose(class_activation_maps(net, net[0], images, CLASSES), expected, atol=1e-6)
    assert sizes == [1, 4, 2]  # one to see where the cells lie
    # Of 16×16 that is four times as many as in the memory that 32×32 take.
    sizes.clear()
    larger = F.interpolate(images, size=(40, 40))
    class_activation_maps(net, net[0], larger, CLASSES)
    assert sizes == [1, 2, 2, 2]


def test_no_images_have_no_maps(images: Tensor) -> None:
    net = tiny_net()
    assert class_activation_maps(net, net[0], images[:0], CLASSES[:0]).shape == (0, 16, 16)


def test_a_network_that_puts_out_nan_has_maps_of_zero(images: Tensor) -> None:
    net = tiny_net()
    net[0].weight.data[0] = torch.nan
    assert (class_activation_maps(net, net[0], images, CLASSES) == 0).all()


@pytest.mark.parametrize("wrong", [4, -1])
def test_a_class_out_of_range_is_an_error(images: Tensor, wrong: int) -> None:
    net = tiny_net()
    with pytest.raises(ValueError, match=f"no class {wrong}: the network has 4"):
        class_activation_maps(net, net[0], images[:2], torch.tensor([0, wrong]))


class Whole(nn.Module):
    """Has a layer that nothing runs, and one whose maps nothing is learnt by."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.unused, self.detached = net, nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(self.detached(images).detach())
        return logits


def test_other_errors(images: Tensor) -> None:
    net = tiny_net()
    with pytest.raises(UserError, match="no class activation map called CAM: give one of GradCAM, "):
        class_activation_maps(net, net[0], images, CLASSES, method="CAM")
    with pytest.raises(UserError, match=r"needs a layer .* Linear puts out \(6, 4\)"):
        class_activation_maps(net, net[7], images, CLASSES)
    whole = Whole(net)
    for layer in (whole.unused, whole.detached):
        with pytest.raises(UserError, match=r"not depend on cam_layer, of type Conv2d: name a layer that forward runs"):
            class_activation_maps(whole, layer, images, CLASSES)
    net.lock = threading.Lock()
    with pytest.raises(UserError, match=r"Sequential cannot be copied \(.*lock.*\): keep such things outside"):
        class_activation_maps(net, net[0], images, CLASSES)
    del net.lock
    with pytest.raises(ValueError, match="6 images and 5 classes"):
        class_activation_maps(net, net[0], images, CLASSES[:5])
    with pytest.raises(ValueError, match="no part of the network"):
        class_activation_maps(net, nn.ReLU(), images, CLASSES)


def test_every_method_runs_and_none_is_another(images: Tensor) -> None:
    net = tiny_net()
    # Behind the ReLU some of them agree; BatchNorm puts out both signs.
    maps = {method: class_activation_maps(net, net[2], images, CLASSES, method) for method in METHODS}
    for found in maps.values():
        assert found.shape == (6, 16, 16)
        assert found.min() >= 0
        assert found.max() <= 1
        assert (np.ptp(found, axis=(1, 2)) > 0.9).sum() >= 4
    assert len({found.tobytes() for found in maps.values()}) == len(METHODS)


def test_every_other_method_of_the_package_runs(images: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    net = tiny_net()
    random_state, numpys = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    for method in OTHER_METHODS:
        maps = class_activation_maps(net, net[2], images.repeat(3, 1, 1, 1), CLASSES.repeat(3), method)
        assert maps.shape == (18, 16, 16)
        assert maps.min() >= 0
        assert maps.max() <= 1 + 1e-6
        # The sign of a principal component may leave nothing.
        assert (np.ptp(maps, axis=(1, 2)) > 0.9).sum() >= 6, method
    assert torch.equal(torch.get_rng_state(), random_state)
    assert str(np.random.get_state()) == numpys  # noqa: NPY002
    assert capsys.readouterr() == ("", "")


def test_shapley_is_gradcam_where_nothing_but_a_linear_layer_follows(images: Tensor) -> None:
    """As in the shipped ResNets: there is no second derivative to take."""
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    net = nn.Sequential(stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    classes = CLASSES[: len(images)] % 3
    shapley, gradcam = (class_activation_maps(net, stem, images, classes, name) for name in ("ShapleyCAM", "GradCAM"))
    assert np.ptp(gradcam) > 0.9
    np.testing.assert_allclose(shapley, gradcam, atol=1e-5)


def test_the_methods_are_those_of_the_package() -> None:
    exported = {name: value for name, value in vars(pytorch_grad_cam).items() if isinstance(value, type)}
    # FinerCAM wraps another one, by default Grad-CAM.
    maps = {name for name, value in exported.items() if issubclass(value, BaseCAM | FinerCAM)}
    assert maps == {*METHODS, *OTHER_METHODS}


def test_finercam_sets_a_class_apart_from_the_nearest_ones() -> None:
    # Means of the channels are 1, 2, 3, 4 and 50, and the logits, too.
    net = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 5, bias=False))
    net[3].weight.data = torch.eye(5)
    rising = torch.linspace(0.5, 1.5, 16).view(4, 4)
    image = torch.stack([mean * (rising if mean % 2 else rising.flip(1)) for mean in (1, 2, 3, 4, 50)])
    maps = class_activation_maps(net, net[0], image[None], np.array([1]), "FinerCAM")
    # By hand: the weighted difference to 0, 2 and 3, differentiated.
    logits = torch.tensor([1.0, 2, 3, 4, 50], dtype=torch.float64, requires_grad=True)
    weights = logits.softmax(0)[[0, 2, 3]]
    apart = (weights * (logits[1] - logits[[0, 2, 3]])).sum() / (weights.sum() + 1e-9)
    (gradient,) = torch.autograd.grad(apart, logits)
    expected = scaled((gradient[:, None, None] * image).sum(0).relu()[None])
    np.testing.assert_allclose(maps, scaled(expected), atol=1e-3)  # the package scales twice, too


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResNetV1(depth=8),
        lambda: ResNetV2(depth=11),
        *(getattr(models, name) for name in models.__all__ if name not in ("ResNetV1", "ResNetV2")),
    ],
    ids=["ResNetV1", "ResNetV2", *(name for name in models.__all__ if name not in ("ResNetV1", "ResNetV2"))],
)
def test_maps_of_the_architectures_are_not_flat(make: Callable[[], Classifier]) -> None:
    torch.manual_seed(0)
    model = make()
    images = torch.randn(10, 3, 32, 32)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1  # one batch gives the statistics that training would
    with torch.no_grad():
        model(images)
        # What speaks for a class that the network rejects may well be nothing.
        classes = model.eval()(images).argmax(dim=1)
    maps = class_activation_maps(model.net, model.cam_layer, images, classes)
    assert (np.ptp(maps, axis=(1, 2)) > 0.9).sum() >= 9
    assert len({found.tobytes() for found in maps}) >= 9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_maps_and_keeps_its_random_state(images: Tensor) -> None:
    expected = class_activation_maps((net := tiny_net()), net[0], images, CLASSES)
    net = nn.Sequential(*tiny_net()).cuda()
    np.testing.assert_allclose(class_activation_maps(net, net[0], images, CLASSES), expected, atol=1e-2)
    net = nn.Sequential(*net, Restless())
    random_state = torch.cuda.get_rng_state()
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        class_activation_maps(net, net[0], images.cuda(), CLASSES.cuda())
    assert torch.equal(torch.cuda.get_rng_state(), random_state)


def test_overlay() -> None:
    pixels = np.array([[[[0, 100, 255], [0, 100, 255], [255, 255, 255]]]], np.uint8)
    maps = np.array([[[0, 1, 7]]], np.float32)
    blue, red = [48, 18, 59], [122, 4, 2]  # the ends of turbo
    whole = overlay(pixels, maps, strength=1)
    assert whole.dtype == np.uint8
    assert whole.tolist() == [[[blue, red, red]]]
    assert overlay(pixels, maps, strength=0).tolist() == pixels.tolist()
    assert overlay(pixels, maps)[0, 0, 0].tolist() == [24, 59, 157]
    assert overlay(pixels, maps)[0, 0, 2].tolist() == [188, 130, 128]  # 128.5 rounds to even


def test_the_trainer_of_a_module_is_not_copied_with_it() -> None:
    class Trainer:
        """Holds a data set."""

        def __deepcopy__(self, memo: object) -> None:
            pytest.fail("gigabytes were copied for a picture")

    net = ResNetV1(depth=8)
    vars(net)["_trainer"] = trainer = Trainer()
    maps = class_activation_maps(net, net.cam_layer, torch.randn(2, 3, 32, 32), np.array([0, 1]))
    assert maps.max() > 0
    assert vars(net)["_trainer"] is trainer
