"""Where the cells of a feature map lie in the image, and maps that are enlarged accordingly.

A cell looks at a receptive field, and belongs where that is centred. Convolutions without padding and with strides do
not spread their cells evenly over the image: those of `DepthwiseNet` lie in its middle half, and stretched to the whole
image, as is common, a map shows what is seen at pixel 8 at pixel 1.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cifar_lit.explain.receptive_field import Axis
from cifar_lit.explain.tracing import FieldTracer, Record

Line = tuple[float, float] | None
"""Where the cells lie along an axis: pixel at which the first is centred, and pixels from one to the next."""


def cell_lines(net: nn.Module, layer: nn.Module, image: Tensor, use: int = -1) -> tuple[Line, Line]:
    """Where the cells of a layer's feature map are centred in the image.

    Args:
        net: Runs once, in the mode in which it is.
        layer: Part of ``net``.
        image: (1, C, H, W).
        use: Which of the maps counts of a layer that is used several times.

    Returns:
        Along height and width; None where it cannot be told: see `cifar_lit.explain.tracing`.
    """
    tracer = FieldTracer(image)
    found: list[Record] = []

    def keep(_layer: nn.Module, _args: Any, output: Any) -> None:
        found.append(tracer.record(output) if isinstance(output, Tensor) and output.ndim == 4 else None)

    hook = layer.register_forward_hook(keep)
    try:
        with torch.no_grad(), tracer:
            net(image)
    except Exception:
        pass  # what is behind the layer may want several images
    finally:
        hook.remove()
    record = found[use] if found else None
    if not isinstance(record, tuple):
        return None, None
    height, width = record
    return _line(height, dim=2), _line(width, dim=3)


def _line(axis: Axis, dim: int) -> Line:
    if axis.dim != dim or not axis.jump:
        return None
    first, last = axis.spans[axis.jump]
    return (first + last) / 2, axis.jump


def enlarge(maps: NDArray[np.float32], size: tuple[int, int], lines: tuple[Line, Line]) -> NDArray[np.float32]:
    """Maps as large as their image, linear between the centres of cells.

    Beyond the outermost they go on to the edge, or fade where cells cover less than the image: pixels that convolutions
    without padding cut off are in few of their windows.

    Args:
        maps: float (N, h, w), 0 at the least of each.
        size: Height and width of the image.
        lines: As of `cell_lines`; cells without one are spread evenly.

    Returns:
        float32 (N, H, W), scaled to [0, 1] image by image; zero where all of a map is equal.
    """
    rows, columns = (_weights(*axis) for axis in zip(size, maps.shape[1:], lines, strict=True))
    large: NDArray[np.float32] = rows @ maps.astype(np.float32) @ columns.T
    large -= large.min(axis=(1, 2), keepdims=True)
    large /= large.max(axis=(1, 2), keepdims=True) + np.float32(1e-7)
    return large


def _weights(pixels: int, cells: int, line: Line) -> NDArray[np.float32]:
    """What each cell of an axis weighs in each pixel: (pixels, cells)."""
    first, step = line or ((pixels / cells - 1) / 2, pixels / cells)
    places = (np.arange(pixels) - first) / step
    inside = np.clip(places, 0, cells - 1)
    weights = np.maximum(1 - np.abs(inside[:, None] - np.arange(cells)), 0)
    if 1 < cells < pixels / step:
        # Half of a cell lies beyond its centre.
        weights *= np.clip(1.5 - np.abs(places - inside), 0, 1)[:, None]
    return np.asarray(weights, np.float32)
