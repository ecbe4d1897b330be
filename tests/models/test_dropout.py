"""Dropout has torch's distribution, keeps the layout, and lets gradients through where it lets values through."""

import pytest
import torch
from torch import nn

from cifar_lit.errors import UserError
from cifar_lit.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.05, 0.25, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_share_and_scale(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    out = Dropout(p)(torch.ones(100, 11, 30, 31, dtype=dtype))
    assert out.dtype is dtype
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p), dtype=dtype).item()}
    # A million elements: four standard deviations.
    assert (out == 0).float().mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / out.numel()) ** 0.5)


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_a_share_out_of_range(p: float) -> None:
    with pytest.raises(UserError, match=r"dropout is .*: give a share"):
        Dropout(p)


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(400_000)) == 0).float() - 0.5
    for distance in (1, 2, 3, 4, 8):
        assert abs((dropped[:-distance] * dropped[distance:]).mean().item()) < 0.25 * 5 / 400_000**0.5


def test_gradients_follow_the_mask() -> None:
    x = torch.rand(5, 4, 3, 3, requires_grad=True)
    out = Dropout(0.4)(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad * x, out)
    assert 0 < (x.grad == 0).sum() < x.numel()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_is_kept(layout: torch.memory_format) -> None:
    x = torch.rand(2, 8, 5, 5).contiguous(memory_format=layout)
    assert Dropout(0.3)(x).is_contiguous(memory_format=layout)


def test_an_oddly_laid_out_tensor_is_masked_whole() -> None:
    x = torch.rand(6, 10)[:, ::3].t()
    out = Dropout(0.5)(x)
    assert out.shape == x.shape
    assert torch.allclose(out[out != 0], 2 * x[out != 0])


def test_nothing_happens_in_evaluation_or_at_zero() -> None:
    x = torch.rand(3, 7)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert isinstance(Dropout(0.5), nn.Dropout)


def test_it_is_a_function_of_the_seed() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        out: torch.Tensor = Dropout(0.5)(torch.ones(1000))
        return out

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_no_images_are_masked_too() -> None:
    assert Dropout(0.5)(torch.zeros(0, 3)).shape == (0, 3)


def test_masks_differ_and_torchs_seed_is_theirs() -> None:
    def drop() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return [Dropout(0.5)(torch.ones(1000)) for _ in range(3)]

    first, again = drop(), drop()
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])


def test_compiled_it_breaks_the_graph_once_and_draws_anew_each_time() -> None:
    dropout, ones = Dropout(0.25), torch.ones(1000)
    compiled = torch.compile(dropout.forward, backend="eager")
    torch.manual_seed(3)
    outs = [compiled(ones) for _ in range(2)]
    assert not torch.equal(*outs)
    torch.manual_seed(3)
    assert all(torch.equal(compiled(ones), out) for out in outs)
    torch._dynamo.reset()
    assert torch._dynamo.explain(dropout.forward)(ones).graph_break_count == 1
