"""What is taken from pytorch_grad_cam."""

from typing import Any

import numpy as np
import pytorch_grad_cam
from numpy.typing import NDArray
from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
from torch import Tensor, nn

__all__ = ["FinerWeightedTarget", "kind_of"]


def kind_of(method: str) -> Any:
    """The package's class of that name."""
    return _ShapleyCAM if method == "ShapleyCAM" else getattr(pytorch_grad_cam, method)


class _ShapleyCAM(pytorch_grad_cam.ShapleyCAM):
    """The package's, also where what follows the layer is linear: it then is Grad-CAM, and there is no Hessian."""

    def get_cam_weights(
        self, input_tensor: Tensor, layer: nn.Module, targets: Any, activations: Tensor, grads: Tensor
    ) -> NDArray[np.float32]:
        """Weights of the maps' channels, (N, C)."""
        if grads.grad_fn is None:
            return np.asarray(grads.detach().cpu().mean((2, 3)))
        return np.asarray(super().get_cam_weights(input_tensor, layer, targets, activations, grads))
