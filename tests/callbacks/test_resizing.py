"""Images are small at first and whole later, by the step alone, and nothing but training sees the small ones."""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from pytorch_lightning.demos.boring_classes import BoringModel
from torch import Tensor
from torch._dynamo import config as dynamo_config

from benchmarks.accuracy import QUIET
from cifar_lit.callbacks.averaging import EMA
from cifar_lit.callbacks.resizing import ProgressiveResizing, resized
from cifar_lit.classifier import Batch
from cifar_lit.cli import main
from cifar_lit.data import DigitsDataModule
from cifar_lit.errors import UserError
from cifar_lit.models import DepthwiseNet, ResNetV1

pytestmark = [
    # Of Lightning: a checkpoint that other callbacks wrote, and the folder that a second run shares.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:(?s).*[dD]ir(path|ectory)"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]


class SeenNet(DepthwiseNet):
    """Notes how large the images are that the network is given in training and in validation."""

    def __init__(self) -> None:
        super().__init__(widths=[[8], [8]], dropout=[0.1, 0.0])
        self.trained: list[int] = []
        self.validated: list[int] = []
        self.net.register_forward_pre_hook(lambda net, images: self.note(*images))

    def note(self, images: Tensor) -> None:
        assert images.shape[2] == images.shape[3]
        (self.trained if self.training else self.validated).append(images.shape[3])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """A step of its own, which asks the teacher."""
        loss = self.training_loss(logits := self(batch[0]), batch[1])
        return loss if self.taught is None else self.taught(batch[0], logits, loss)


class Teaches(Callback):
    """In the place of a teacher: notes how large the images are that it is given."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def taught(images: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
            self.seen.append(images.shape[3])
            return loss

        pl_module.taught = taught  # type: ignore[assignment]


def fit(
    *callbacks: Callback, model: LightningModule | None = None, ckpt_path: Path | None = None, **kwargs: Any
) -> Any:
    """A fit of two epochs of four steps."""
    seed_everything(3)
    model = model or SeenNet()
    trainer = Trainer(
        callbacks=list(callbacks),
        **{"max_epochs": 2, "limit_train_batches": 4, "enable_checkpointing": False, **kwargs},
        limit_val_batches=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DigitsDataModule(batch_size=32), ckpt_path=ckpt_path, weights_only=True)
    return model


@pytest.mark.parametrize(
    ("scales", "until", "sizes"),
    [
        ([0.75], 0.5, [24] * 4 + [32] * 4),
        ([0.5, 0.75], 0.75, [16] * 3 + [24] * 3 + [32] * 2),
        # Where a size would end within a step, that is of the smaller one.
        ([0.25, 0.75], 0.8, [8] * 4 + [24] * 3 + [32]),
    ],
)
def test_images_grow_by_the_share_of_the_run(scales: list[float], until: float, sizes: list[int]) -> None:
    teaches = Teaches()
    model = fit(ProgressiveResizing(scales, until), teaches)
    assert model.trained == sizes
    assert set(model.validated) == {32}
    # A teacher knows whole images.
    assert teaches.seen == [32] * 8
    assert model.resized is None


def test_steps_count_and_not_batches() -> None:
    assert fit(ProgressiveResizing(), accumulate_grad_batches=2).trained == [24] * 4 + [32] * 4
    # Of three batches, the last of which is a step, too.
    model = fit(ProgressiveResizing(until=0.25), accumulate_grad_batches=2, limit_train_batches=3)
    assert model.trained == [24] * 2 + [32] * 4


def test_small_images_are_what_pillow_makes_of_them() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 32, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    small = resized(images, 0.75)
    assert small.shape == (5, 3, 15, 24)
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        other = resized(images.to(kind), 0.75)
        assert other.dtype == kind
        torch.testing.assert_close(other.float(), small, atol=0.5, rtol=0.005)
    for image, ours in zip(pixels, small.permute(0, 2, 3, 1).numpy(), strict=True):
        theirs = np.asarray(Image.fromarray(image).resize((24, 15), Image.Resampling.BILINEAR), dtype=np.float32)
        assert np.abs(ours - theirs).max() <= 1  # they round twice


def test_a_single_pixel_is_left() -> None:
    assert resized(torch.zeros(1, 3, 4, 4), 0.01).shape == (1, 3, 1, 1)


@pytest.mark.parametrize("step", [1, 3, 4, 7])
def test_a_resumed_run_goes_on_to_the_bit(step: int, tmp_path: Path) -> None:
    resizing: dict[str, Any] = {"scales": [0.5, 0.75], "until": 0.75}
    every = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(ProgressiveResizing(**resizing), every, enable_checkpointing=True)
    resumed = fit(ProgressiveResizing(**resizing), ckpt_path=tmp_path / f"step={step}.ckpt")
    assert resumed.trained == whole.trained[step:]
    assert all(torch.equal(weight, resumed.state_dict()[name]) for name, weight in whole.state_dict().items())


def test_a_run_that_goes_on_with_other_batches_goes_on_at_its_share(tmp_path: Path) -> None:
    every = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(ProgressiveResizing(until=0.75), every, enable_checkpointing=True)
    resumed = fit(ProgressiveResizing(until=0.75), ckpt_path=tmp_path / "step=4.ckpt", limit_train_batches=2)
    # Four steps were taken: half of the run, as two of four are.
    assert resumed.trained == [24, 32]


def test_max_steps_are_the_run() -> None:
    model = SeenNet()
    assert fit(ProgressiveResizing(), model=model, max_epochs=-1, max_steps=6).trained == [24] * 3 + [32] * 3
    # The module of another run, whose images are whole.
    assert fit(model=model, max_epochs=1).trained[6:] == [32] * 4


def test_validation_within_an_epoch_is_of_whole_images() -> None:
    model = fit(ProgressiveResizing([0.5], until=0.9), EMA(start=0), val_check_interval=1)
    assert model.trained == [16] * 8
    assert model.validated == [32] * 9  # with the sanity check


def test_a_copy_trains_on_whole_images() -> None:
    model = DepthwiseNet()
    model.resized = partial(resized, scale=0.5)
    assert deepcopy(model).resized is None
    assert model.resized is not None


def test_sizes_are_compiled_each_by_itself_and_beyond_torchs_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = list[int]()

    def backend(graph: Any, inputs: Any) -> Any:
        programs.append(1)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    with dynamo_config.patch(recompile_limit=2):
        model = ResNetV1(depth=8, compile_mode="default")
        for side in (8, 16, 24, 32):
            model(torch.randn(2, 3, side, side))
    assert len(programs) == 4


def test_too_small_for_the_network() -> None:
    words = "Images of 24×24 are too small for DepthwiseNet: give ProgressiveResizing larger scales"
    with pytest.raises(UserError, match=words):
        fit(ProgressiveResizing(), model=DepthwiseNet())


def test_a_step_that_passes_it_by_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    class Passes(SeenNet):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            return self.training_loss(self.net(batch[0]), batch[1])

    assert fit(ProgressiveResizing(), model=Passes()).trained == [32] * 8
    assert capsys.readouterr().out.count("has trained on whole images: it has to call self(images)") == 1
    fit(ProgressiveResizing())
    assert "whole images" not in capsys.readouterr().out


def test_a_recipe_may_name_it(tmp_path: Path) -> None:
    options = ["--model=DepthwiseNet", "--model.widths=[[8],[8]]", "--model.dropout=[0,0]", *QUIET]
    options += ["--data=DigitsDataModule", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
    options += ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("trainer: {callbacks: [{class_path: ProgressiveResizing, init_args: {scales: [0.5]}}]}\n")
    main(["fit", f"--config={recipe}", *options, f"--trainer.default_root_dir={tmp_path}"])
    (settings,) = tmp_path.rglob("config.yaml")
    (callback,) = yaml.safe_load(settings.read_text())["trainer"]["callbacks"]
    assert callback["init_args"] == {"scales": [0.5], "until": 0.5}


def test_a_run_that_is_broken_off_leaves_whole_images() -> None:
    class Breaks(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            raise RuntimeError("broken")

    model = SeenNet()
    with pytest.raises(RuntimeError, match="broken"):
        fit(ProgressiveResizing(), Breaks(), model=model)
    assert model.trained == [24]
    assert model.resized is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scales": []}, "scales is []"),
        ({"scales": [0.5, 1.0]}, "between 0 and 1"),
        ({"scales": [0.75, 0.5]}, "the smallest first"),
        ({"scales": [0.0]}, "between 0 and 1"),
        ({"scales": [float("nan")]}, "between 0 and 1"),
        ({"until": 0.0}, "until is 0.0"),
        ({"until": 1.0}, "until is 1.0"),
    ],
)
def test_arguments_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("[", r"\[")):
        ProgressiveResizing(**settings)


def test_what_excludes_it() -> None:
    with pytest.raises(UserError, match="which BoringModel is not"):
        fit(ProgressiveResizing(), model=BoringModel())
    with pytest.raises(UserError, match="is there twice"):
        fit(ProgressiveResizing([0.5]), ProgressiveResizing())
    with pytest.raises(UserError, match="accumulate_grad_batches"):
        fit(ProgressiveResizing(), GradientAccumulationScheduler({1: 2}))
    with pytest.raises(UserError, match="needs the run's length"):
        fit(ProgressiveResizing(), max_epochs=-1)
