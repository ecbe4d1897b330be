"""Where in an image a network sees a class: class activation maps, and how they are laid over the image."""

import math
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from types import MethodType
from typing import Any
from weakref import proxy

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cifar_lit.errors import UserError
from cifar_lit.explain.network import copied, in_the_graph, numpys_random_state_kept
from cifar_lit.explain.placement import cell_lines, enlarge

METHODS = ("GradCAM", "GradCAMPlusPlus", "HiResCAM", "XGradCAM", "LayerCAM", "GradCAMElementWise")
"""Classes of pytorch_grad_cam that were seen to suit small classifiers."""

# Tried on 51 test images and a ResNet-20 of 78 % accuracy:
# - EigenCAM, EigenGradCAM, SegEigenCAM, KPCA_CAM: the sign of a principal component is arbitrary. 40 % of EigenCAM's
#   maps and 48 % of EigenGradCAM's were upside down (correlated negatively with Grad-CAM's).
# - AblationCAM divides by the logit: where that is negative, as for a class that the network rejects, the map is
#   upside down (86 % for the least likely class). It and ScoreCAM run the network once a channel. ScoreCAM hides of an
#   image what maps leave out that are stretched over all of it.
# - EigenCAM, SegEigenCAM, KPCA_CAM, FEM give the same map for every class; FullGrad is of all layers.
# - ShapleyCAM is Grad-CAM where what follows the layer is piecewise linear, as in most networks here.
OTHER_METHODS = (
    "AblationCAM",
    "EigenCAM",
    "EigenGradCAM",
    "FEM",
    "FinerCAM",
    "FullGrad",
    "KPCA_CAM",
    "RandomCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
)
"""The others, which can be had but want care: slow, the same for every class, or at times upside down."""

# Images of 32×32 in a pass, which bounds the memory for activations; the others keep several times as much.
CHUNK, OTHER_CHUNK = 256, 16
# Classes that FinerCAM sets the one to explain apart from: as many as in its paper (arXiv:2501.11309).
SIMILAR = 3

# Looks like jet, which readers of these maps know, but its lightness rises and falls without the edges that jet puts
# where the map has none (Mikhailov 2019).
COLOUR_MAP = "turbo"


def class_activation_maps(
    net: nn.Module,
    layer: nn.Module,
    images: Tensor,
    classes: Tensor | NDArray[np.int64],
    method: str = "GradCAM",
) -> NDArray[np.float32]:
    """Which places of an image speak for a class: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) and its kin.

    Works on a copy of the network, in evaluation mode and float32, so that mode, gradients, statistics, hooks and
    random state stay as they were, and in every context: no_grad, inference_mode, autocast, compiled.

    Args:
        net: Maps images to logits (N, num_classes).
        layer: Part of ``net`` that puts out a feature map (N, C, h, w); of several uses the last (ShapleyCAM: first).
        images: Normalised, float (N, 3, H, W), on any device.
        classes: The class to explain for each image, int64 (N,).
        method: One of `METHODS` or `OTHER_METHODS`.

    Returns:
        float32 (N, H, W), each cell of the feature map where its receptive field is centred, linear in between, scaled
        to [0, 1] image by image, so that only places within an image compare. All zero where nothing speaks for the
        class, where all places do equally (a 1×1 feature map has but one), and where the network puts out NaN.

    Raises:
        UserError: There is no such method, the layer puts out no feature map or one that the logits do not depend on,
            or the network cannot be copied.
        ValueError: A class is out of range, there is not one an image, or ``layer`` is no part of ``net``.
    """
    check_method(method)
    own_size, in_own_order = method == "FullGrad", method in ("FullGrad", "ShapleyCAM")
    target = _apart if method == "FinerCAM" else _logit
    targets = [target(c) for c in torch.as_tensor(classes).tolist()]
    if len(targets) != len(images):
        raise ValueError(f"{len(images)} images and {len(targets)} classes: give a class for each image.")
    # Not before: the package brings scikit-learn along, 0.2 s of every command's start.
    from cifar_lit.explain import cam_kinds

    device = next(net.parameters()).device
    with (
        torch.inference_mode(False),  # which also turns gradients on
        torch.autocast(device.type, enabled=False),
        # A network may draw in evaluation mode, too.
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        numpys_random_state_kept(),
    ):
        net, layer = _frozen_copy(net, layer)
        first = images[:1].detach().to(device, torch.float32, copy=True)
        lines = (None, None) if own_size else cell_lines(net.eval(), layer, first, 0 if in_own_order else -1)
        # The package's own hooks see the feature map between these two. Two methods ask for gradients of the images.
        layer.register_forward_hook(_check if in_own_order else _start_gradient)
        with redirect_stdout(StringIO()):  # FullGrad says that it needs no layer
            cam = cam_kinds.kind_of(method)(net, [layer])
        base = getattr(cam, "base_cam", cam)  # FinerCAM wraps another
        if not own_size:
            base.get_target_width_height = lambda _images: None  # leaves the maps as small as they are
        if not in_own_order:  # two methods keep maps and gradients as they need them
            _keep_the_last(layer, base.activations_and_grads)
        layer.register_forward_hook(_shield)
        maps = np.zeros((len(images), *images.shape[2:]), np.float32)
        at_32 = CHUNK if method in METHODS else OTHER_CHUNK
        size = max(min(at_32, at_32 * 32 * 32 // math.prod(images.shape[2:])), 1)
        for start in range(0, len(images), size):
            chunk = slice(start, start + size)
            # A copy: the network may write to it, and no graph takes a tensor made in inference mode.
            inputs = images[chunk].detach().to(device, torch.float32, copy=True)
            # Some show a progress bar an image.
            with redirect_stderr(StringIO()), in_the_graph(layer):
                found = cam(inputs, targets[chunk])
            maps[chunk] = found if own_size else enlarge(found, maps.shape[1:], lines)
    return np.nan_to_num(maps, copy=False)


def check_method(method: str) -> None:
    """Refuses a method that there is not.

    Raises:
        UserError: So it is.
    """
    if method not in METHODS + OTHER_METHODS:
        raise UserError(
            f"There is no class activation map called {method}: give one of {', '.join(METHODS)}; or, with care, of "
            f"{', '.join(OTHER_METHODS)}."
        )


def _logit(of_class: int) -> Callable[[Tensor], Tensor]:
    """The target of the package that takes one logit of an image's, (num_classes,)."""

    def target(logits: Tensor) -> Tensor:
        if not 0 <= of_class < len(logits):  # -1 would be the last class
            raise ValueError(f"There is no class {of_class}: the network has {len(logits)}, counted from 0.")
        return logits[of_class]

    return target


def _apart(of_class: int) -> Callable[[Tensor], Tensor]:
    """The target that sets a class apart from those whose logits are nearest to its own."""
    from cifar_lit.explain.cam_kinds import FinerWeightedTarget

    logit = _logit(of_class)

    def target(logits: Tensor) -> Tensor:
        nearest = (logits - logit(logits)).abs().argsort().tolist()
        nearest.remove(of_class)
        apart: Tensor = FinerWeightedTarget(of_class, nearest[:SIMILAR], alpha=1)(logits)
        return apart

    return target


def _frozen_copy(net: nn.Module, layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Copies of a network and of its layer, uncompiled, in float32, with parameters that want no gradients.

    Raises:
        ValueError: The layer is no part of the network.
    """
    copies: dict[int, Any] = {}
    modules = [*net.modules()]
    # deepcopy refuses results of a graph, which a module may keep as an attribute.
    for value in (value for module in modules for value in vars(module).values()):
        if isinstance(value, Tensor) and not value.is_leaf:
            copies[id(value)] = value.detach()
    # A LightningModule's trainer holds the whole data set: it is passed on, not copied.
    for trainer in (vars(module).get("_trainer") for module in modules):
        copies[id(trainer)] = trainer
    # Hooks on compiled modules fail or compile anew. From the inside out, as a compiled module may hold another.
    for module in reversed(modules):
        if (uncompiled := getattr(module, "_orig_mod", None)) is not None:
            copies[id(module)] = copied(uncompiled, copies)
    net = copied(net, copies)
    # A compiled function is passed on by deepcopy, with the network that it was compiled of; or it is of the copy.
    for module in net.modules():
        for name, value in vars(module).items():
            if (function := getattr(value, "_torchdynamo_orig_callable", None)) is not None:
                owner = copies.get(id(getattr(function, "__self__", None)))
                vars(module)[name] = function if owner is None else MethodType(function.__func__, owner)
    if id(layer) not in copies:
        raise ValueError(f"The layer, a {type(layer).__name__}, is no part of the network.")
    return net.float().requires_grad_(False), copies[id(layer)]


def _check(layer: nn.Module, args: Any, output: Any) -> None:
    """Forward hook: refuses what is no feature map."""
    if not isinstance(output, Tensor) or output.ndim != 4:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(
            f"A class activation map needs a layer that puts out (N, C, H, W), and {type(layer).__name__} puts out "
            f"{shape}: name another one as cam_layer."
        )


def _start_gradient(layer: nn.Module, args: Any, output: Any) -> Tensor:
    """Forward hook: lets the graph begin at the feature map, since nobody asks for gradients of what is before."""
    _check(layer, args, output)
    # Also of a layer that is used again and has its graph already: its last map is the one before pooling.
    start: Tensor = output.detach().requires_grad_()
    return start


def _keep_the_last(layer: nn.Module, kept: Any) -> None:
    """Lets the package forget the maps of earlier uses of a layer within a pass: it would take the first."""
    # It holds the copy of the network, which in a circle would stay until the next collection of garbage.
    kept = proxy(kept)
    layer.register_forward_pre_hook(lambda *_: kept.activations.clear())


def _shield(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
    """Forward hook: gives a copy on, as an in-place ReLU behind the layer would change the map that was kept."""
    return output.clone()


def overlay(pixels: NDArray[np.uint8], maps: NDArray[np.float32], strength: float = 0.5) -> NDArray[np.uint8]:
    """Lays maps over images, from dark blue (0) over green to dark red (1).

    Args:
        pixels: uint8 (N, H, W, 3), RGB.
        maps: float (N, H, W), clipped to [0, 1].
        strength: Share of the map's colours in the result, in [0, 1].

    Returns:
        uint8 (N, H, W, 3), RGB.
    """
    levels = np.rint(np.clip(maps, 0, 1) * 255).astype(np.uint8)
    colours = matplotlib.colormaps[COLOUR_MAP](levels, bytes=True)[..., :3]
    blended = (1 - strength) * pixels + strength * colours
    return np.rint(blended).astype(np.uint8)
