"""Which network stands for a module."""

import pytest
import torch
from torch import Tensor, nn

from cifar_lit.explain.network import network_of
from cifar_lit.models import DepthwiseNet


class Doubled(DepthwiseNet):
    """Does more than to call its net."""

    def forward(self, images: Tensor) -> Tensor:
        """Of twice the images."""
        return super().forward(2 * images)


class WithHead(DepthwiseNet):
    """Keeps a layer beside its net."""

    def __init__(self) -> None:
        super().__init__(widths=[[4]], dropout=[0.0])
        self.head = nn.Linear(10, 10)


def test_the_net_stands_for_a_module_that_only_calls_it() -> None:
    model = DepthwiseNet(widths=[[4]], dropout=[0.0])
    assert network_of(model) is model.net


@pytest.mark.parametrize("model", [Doubled(widths=[[4]], dropout=[0.0]), WithHead(), nn.Linear(2, 2)])
def test_any_other_module_stands_for_itself(model: nn.Module) -> None:
    assert network_of(model) is model


def test_what_a_module_does_beside_its_net_is_in_the_maps() -> None:
    from cifar_lit.explain.gradcam import class_activation_maps

    torch.manual_seed(0)
    plain, doubled = DepthwiseNet(widths=[[4], [4]], dropout=[0.0, 0.0]), Doubled(widths=[[4], [4]], dropout=[0.0, 0.0])
    doubled.load_state_dict(plain.state_dict())
    images, classes = torch.randn(3, 3, 32, 32), torch.arange(3).numpy()
    ours, theirs = (
        class_activation_maps(network_of(model.eval()), model.cam_layer, inputs, classes)
        for model, inputs in ((doubled, images), (plain, 2 * images))
    )
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs))
