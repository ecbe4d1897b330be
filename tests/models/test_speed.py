"""The speed network: its size, its fitted first layer, and what of it stays as it is."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import albumentations as A
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from forks import run_on_ranks
from pytorch_lightning import Callback, LightningDataModule, Trainer, seed_everything
from torch import Tensor, nn

from cifar_lit.data import ImageDataModule
from cifar_lit.data.images import Images
from cifar_lit.errors import UserError
from cifar_lit.explain.layers import layer_table
from cifar_lit.models import SpeedNet, speed
from cifar_lit.models.speed import DiracConv, ShiftBatchNorm
from cifar_lit.models.whitening import Whitening, whitening_filters
from cifar_lit.optimizers import MuonSGD

NARROW = (8, 8, 8)


def smooth(seed: int, count: int, size: int = 32) -> Images:
    """Images as images are: neighbours alike, colours alike, no two directions of the same variance."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, size // 4, size // 4, 1)).repeat(4, axis=1).repeat(4, axis=2)
    colours = rng.normal(size=(count, 1, 1, 3))
    pixels = 128 + 30 * coarse + 15 * colours + rng.normal(size=(count, size, size, 3)) * (12, 9, 6)
    return Images(pixels.clip(0, 255).astype(np.uint8), np.arange(count) % 2)


class Given(ImageDataModule):
    """Serves the images that it is given."""

    def __init__(self, images: Images, **kwargs: Any) -> None:
        super().__init__(val_size=2, batch_size=8, seed=0, **kwargs)
        self.images = images

    @property
    def class_names(self) -> tuple[str, ...]:
        return ("even", "odd")

    def load(self, split: Literal["train", "test"]) -> Images:
        return self.images


def fit(
    model: SpeedNet, data: LightningDataModule, folder: Path, ckpt_path: Path | None = None, **kwargs: Any
) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    settings = {"enable_checkpointing": False, "max_epochs": 1, **kwargs}
    trainer = Trainer(default_root_dir=folder, **{**quiet, **settings})
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def narrow(**kwargs: Any) -> SpeedNet:
    seed_everything(0)
    return SpeedNet(widths=NARROW, num_classes=2, **kwargs)


def normalised(data: ImageDataModule) -> Tensor:
    assert data.train_images is not None
    images: Tensor = data.on_after_batch_transfer([torch.from_numpy(data.train_images.pixels)], 0)[0]
    return images


def second_moments(outputs: Tensor) -> Tensor:
    flat = outputs.transpose(0, 1).flatten(1)
    return flat @ flat.T / flat.shape[1]


def test_as_many_parameters_as_the_published_network() -> None:
    model = SpeedNet()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    fixed = [p for p in model.parameters() if not p.requires_grad]
    # By hand: bias, six convolutions, shifts, head; and the filters and scales that are not trained.
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    assert trained == 24 + convolutions + 2 * (64 + 256 + 256) + 2560 == 1_971_352
    assert sum(p.numel() for p in fixed) == 24 * 12 + 1152


@pytest.mark.parametrize(("size", "side"), [(16, 3), (32, 7), (45, 11)])
def test_logits_and_cam_layer_of_images_of_any_size(size: int, side: int) -> None:
    model = SpeedNet(num_classes=7).eval()
    maps: list[Tensor] = []
    model.cam_layer.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.no_grad():
        assert model(torch.randn(2, 3, size, size)).shape == (2, 7)
    assert maps[0].shape == (2, 256, side, side)


def test_its_layers_can_be_listed() -> None:
    table = layer_table(SpeedNet().net)
    assert table.trainable_parameters == 1_971_352
    sizes = [row.output_size for row in table.rows if row.kind == "Conv2d"]
    assert [size[1:] for size in sizes] == [(31, 31), (31, 31), (15, 15), (15, 15), (7, 7), (7, 7), (3, 3)]


def published_logits(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """The network of the paper's listing, in training, spelt out."""

    def normalised(x: Tensor, shift: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
        return F.gelu((x - mean) / variance.sqrt() + shift.view(1, -1, 1, 1))

    x = F.gelu(F.conv2d(images, weights["whitening.weight"], weights["whitening.bias"]))
    for i in (1, 2, 3):
        x = F.conv2d(x, weights[f"stages.{i}.0.weight"], padding=1)
        x = normalised(F.max_pool2d(x, 2), weights[f"stages.{i}.2.bias"])
        x = normalised(F.conv2d(x, weights[f"stages.{i}.4.weight"], padding=1), weights[f"stages.{i}.5.bias"])
    return F.max_pool2d(x, 3).flatten(1) @ weights["head.weight"].T / 9


def test_computes_what_the_published_network_computes() -> None:
    model = narrow().double()
    for module in model.modules():
        if isinstance(module, (ShiftBatchNorm, Whitening)):
            nn.init.normal_(module.bias)  # type: ignore[arg-type]
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(images), published_logits(model.net.state_dict(), images))


def test_batchnorm_as_published() -> None:
    norm = ShiftBatchNorm(3)
    assert norm.eps == 1e-12
    norm(torch.full((2, 3, 4, 4), 5.0))
    # 0.6 of the old mean, which is 0.
    torch.testing.assert_close(norm.running_mean, torch.full((3,), 2.0))
    assert [name for name, p in norm.named_parameters() if p.requires_grad] == ["bias"]


@pytest.mark.parametrize(("in_channels", "out_channels"), [(3, 8), (8, 8), (8, 3)])
def test_convolutions_begin_as_an_identity(in_channels: int, out_channels: int) -> None:
    images = torch.randn(2, in_channels, 6, 6)
    out = DiracConv(in_channels, out_channels)(images)
    passed = min(in_channels, out_channels)
    torch.testing.assert_close(out[:, :passed], images[:, :passed])
    assert out[:, passed:].numel() == 0 or out[:, passed:].std() > 0.1


def test_whitened_patches_are_uncorrelated_with_variance_one() -> None:
    data = Given(smooth(0, 200))
    data.setup()
    images = normalised(data)
    layer = Whitening()
    layer.set_filters(whitening_filters(images))
    with torch.no_grad():
        outputs = layer(images)
    torch.testing.assert_close(second_moments(outputs[:, :12]), torch.eye(12), atol=0.02, rtol=0)
    torch.testing.assert_close(outputs[:, 12:], -outputs[:, :12])
    # So it is not because they were so before.
    patches = F.unfold(images, 2)[:, :, ::2]
    assert (second_moments(patches) - torch.eye(12)).abs().max() > 0.5


def test_a_direction_without_variance_is_not_blown_up() -> None:
    grey = torch.randn(20, 1, 8, 8).expand(-1, 3, -1, -1)
    filters = whitening_filters(grey)
    assert filters.isfinite().all()
    assert filters.abs().max() < 1 / 5e-4**0.5 + 1e-3


def test_a_fit_whitens_with_images_of_the_whole_training_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Room for 10 of the 38 images.
    monkeypatch.setattr(speed, "WHITENING_PIXELS", 10 * 32 * 32 - 5)
    data, model = Given(smooth(0, 40)), narrow()
    fit(model, data, tmp_path)
    expected = whitening_filters(normalised(data)[[0, 4, 8, 12, 16, 20, 24, 28, 32, 37]])
    torch.testing.assert_close(model.net.whitening.weight, expected.float())


def test_a_fit_whitens_what_the_list_has_normalised(tmp_path: Path) -> None:
    data, model = Given(smooth(0, 40), transforms=[A.HorizontalFlip(), A.ToFloat(max_value=51)]), narrow()
    fit(model, data, tmp_path)
    assert data.train_images is not None
    images = torch.from_numpy(data.train_images.pixels).permute(0, 3, 1, 2) / 51
    torch.testing.assert_close(model.net.whitening.weight, whitening_filters(images).float())


def test_a_fitted_layer_is_not_fitted_again(tmp_path: Path) -> None:
    model = narrow()
    trainer = fit(model, Given(smooth(0, 20)), tmp_path)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    weight = model.net.whitening.weight.clone()
    others = Given(smooth(1, 20))

    resumed = narrow()
    fit(resumed, others, tmp_path, ckpt_path=tmp_path / "a.ckpt", max_epochs=2)
    assert torch.equal(resumed.net.whitening.weight, weight)

    tuned = SpeedNet.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    fit(tuned, others, tmp_path)
    assert torch.equal(tuned.net.whitening.weight, weight)

    fresh = narrow()
    fit(fresh, others, tmp_path)
    assert not torch.allclose(fresh.net.whitening.weight, weight, atol=0.1)


class Notes(Callback):
    """The first layer's bias behind every epoch, and whether its gradient was computed."""

    def __init__(self) -> None:
        self.biases: list[Tensor] = []
        self.computed: list[bool] = []

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        self.computed.append(pl_module.net.whitening.bias.grad is not None)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.biases.append(pl_module.net.whitening.bias.detach().clone())


@pytest.mark.parametrize("devices", [1, 2])
def test_what_is_fixed_stays_fixed(tmp_path: Path, devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "world_size", devices)
    model, notes = narrow(whitening_bias_epochs=2, weight_decay_on="all"), Notes()
    data = Given(smooth(0, 18))
    data._rank_and_world_size = lambda: (0, 1)  # type: ignore[method-assign]
    fit(model, data, tmp_path, max_epochs=4, callbacks=[notes])
    first, second, third, last = notes.biases
    assert first.any()
    assert not torch.equal(first, second)
    assert torch.equal(second, third)
    assert torch.equal(second, last)
    # Two batches an epoch. Several devices wait for every gradient.
    assert notes.computed == [True] * 4 + [devices == 2] * 4
    norms = [module for module in model.modules() if isinstance(module, ShiftBatchNorm)]
    assert all((norm.weight == 1).all() for norm in norms)
    assert all(norm.bias.any() for norm in norms)


def test_the_bias_is_trained_again_in_a_next_fit(tmp_path: Path) -> None:
    model, data = narrow(whitening_bias_epochs=1), Given(smooth(0, 20))
    fit(model, data, tmp_path, max_epochs=2)
    before = model.net.whitening.bias.clone()
    fit(model, data, tmp_path)
    assert not torch.equal(model.net.whitening.bias, before)


def test_each_step_draws_from_its_own_seed(tmp_path: Path) -> None:
    seeds: list[int] = []

    class Seeds(Callback):
        def on_train_batch_end(self, *args: object) -> None:
            seeds.append(torch.initial_seed())

    fit(narrow(), Given(smooth(0, 18)), tmp_path, callbacks=[Seeds()], max_epochs=2)
    assert len(set(seeds)) == len(seeds) > 1


def test_images_without_variance_give_no_nan() -> None:
    model = narrow()
    flat = torch.full((4, 3, 32, 32), 0.3)
    model.net.whitening.set_filters(whitening_filters(flat))
    assert model.net.whitening.weight.isfinite().all()
    for mode in (True, False):
        assert model.train(mode)(flat).isfinite().all()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_learns_in_every_precision(tmp_path: Path, precision: Literal["32-true", "bf16-mixed", "bf16-true"]) -> None:
    def optimizer(params: Iterable[Any]) -> MuonSGD:
        return MuonSGD(params, bias_lr=1, head_lr=1)

    images = smooth(0, 80)
    images.pixels[images.labels == 1, 10:14] = 0
    model = narrow(optimizer=optimizer)
    trainer = fit(model, Given(images), tmp_path, max_epochs=3, precision=precision)
    assert trainer.callback_metrics["train/accuracy"] > 0.9


def test_widths_that_are_no_network_are_an_error() -> None:
    for widths in ([], [64, 0]):
        with pytest.raises(UserError, match="give the channels of each stage"):
            SpeedNet(widths=widths)
    assert SpeedNet(widths=[16, 24])(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_data_without_training_images_are_an_error(tmp_path: Path) -> None:
    class Bare(LightningDataModule):
        def train_dataloader(self) -> Any:
            return [(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long))]

    with pytest.raises(UserError, match="fits its first layer to train_images"):
        fit(narrow(), Bare(), tmp_path)


TWO_RANKS = """
from pytorch_lightning import Trainer, seed_everything
from cifar_lit.data import DigitsDataModule
from cifar_lit.models import SpeedNet, speed
from cifar_lit.optimizers import MuonSGD
from cifar_lit.ranks import leave_ranks

# As if the ranks computed with different rounding.
fitted = speed.whitening_filters
speed.whitening_filters = lambda images: fitted(images) * (1 + trainer.global_rank)
seed_everything(0)
model = SpeedNet(widths=[8, 8, 8], whitening_bias_epochs=1, optimizer=MuonSGD)
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, limit_train_batches=2, **quiet)
trainer.fit(model, DigitsDataModule())
assert trainer.global_step == 4
for name, parameter in model.named_parameters():
    on_both = trainer.strategy.all_gather(parameter.detach())
    assert on_both[0].equal(on_both[1]), name
leave_ranks()
"""


@pytest.mark.slow
def test_two_ranks_train_to_the_end_and_agree(tmp_path: Path) -> None:
    run_on_ranks(TWO_RANKS, 2, tmp_path)
