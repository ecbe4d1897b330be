"""The average is what is validated, saved and left behind, and training never notices."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from cifar_lit.callbacks.averaging import EMA, Lookahead
from cifar_lit.classifier import Batch, Classifier
from cifar_lit.cli import main
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.images import Images
from cifar_lit.errors import UserError
from cifar_lit.schedules import OneCycle

Average = Callable[[], EMA | Lookahead]
# An average of several steps from the middle of the first epoch on, and slow weights that keep much of themselves.
AVERAGES: list[Average] = [
    partial(EMA, half_life=0.5, start=0.25),
    partial(Lookahead, decay=0.99, every_n_steps=5),
]
STEPS = 12

pytestmark = [
    # Of Lightning: a checkpoint that other callbacks wrote, and the folder that a second run shares.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:(?s).*[dD]ir(path|ectory)"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]


class Noise(ImageDataModule):
    """48 images for training, six batches an epoch, and 12 for validation."""

    def __init__(self) -> None:
        super().__init__(batch_size=8, val_size=12)

    @property
    def class_names(self) -> tuple[str, ...]:
        return ("cat", "dog", "emu")

    def load(self, split: Literal["train", "test"]) -> Images:
        count, seed = (60, 0) if split == "train" else (20, 1)
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        return Images(pixels, np.arange(count) % 3)


class TinyNet(Classifier):
    """Parameters, buffers of floating-point and of whole numbers, dropout."""

    def __init__(self) -> None:
        net = nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        )
        optimizer = partial(torch.optim.SGD, lr=0.3, momentum=0.9)
        super().__init__(net=net, num_classes=3, optimizer=optimizer, schedule=OneCycle)


class HalfNet(TinyNet):
    """Weights of 16 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.net.bfloat16()

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.bfloat16()).float()


class MovingNet(TinyNet):
    """Parameters whose data move in memory when training has begun."""

    def on_train_start(self) -> None:
        super().on_train_start()
        for parameter in self.parameters():
            parameter.data = parameter.data.clone()


class BreaksAtStep9(TinyNet):
    """In the middle of validation."""

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step == 9:
            raise RuntimeError("broken")
        return super().validation_step(batch, batch_idx)


class BreaksAtTheStart(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise RuntimeError("broken")


class Watch(Callback):
    """Copies what the module holds behind every optimizer step, and while it is validated."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, Tensor]] = {}
        self.validated: dict[int, dict[str, Tensor]] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        # With accumulated gradients more batches follow before the next step, and move BatchNorm's statistics.
        self.steps.setdefault(trainer.global_step, copy(pl_module))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated[trainer.global_step] = copy(pl_module)


def copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in module.state_dict().items()}


def built(kind: type[TinyNet] = TinyNet) -> TinyNet:
    seed_everything(3)
    return kind()


def trainer_for(*callbacks: Callback, **kwargs: Any) -> Trainer:
    return Trainer(
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        **{"accelerator": "cpu", "max_epochs": 2, "val_check_interval": 0.5, "logger": False, **kwargs},
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit(
    *callbacks: Callback, model: TinyNet | None = None, ckpt_path: Path | None = None, **kwargs: Any
) -> dict[str, Tensor]:
    """The weights that a fit leaves behind."""
    model = model or built()
    trainer_for(*callbacks, **kwargs).fit(model, Noise(), ckpt_path=ckpt_path, weights_only=True)
    return copy(model)


def by_step(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)


def by_validation(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "val-{step}", "val/loss", save_top_k=-1, save_on_train_epoch_end=False)


def by_epoch(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        folder, "end-{step}", save_top_k=-1, save_on_train_epoch_end=True, save_on_exception=True, save_last=True
    )


def load(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def live_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    (own,) = (state for name, state in checkpoint["callbacks"].items() if name in ("EMA", "Lookahead"))
    return {**checkpoint["state_dict"], **own["live"]}


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def floats(weights: Mapping[str, Tensor]) -> NDArray[np.float64]:
    return np.concatenate([weight.double().ravel() for weight in weights.values() if weight.is_floating_point()])


def assert_close(weights: Mapping[str, Tensor], expected: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(floats(weights), expected, rtol=1e-5, atol=1e-6)


@dataclass(frozen=True)
class Run:
    """A whole run: validation behind steps 3, 6, 9 and 12, and a checkpoint wherever one can be saved."""

    average: Average
    folder: Path
    watch: Watch
    left: dict[str, Tensor]
    val_loss: float


@pytest.fixture(scope="module", params=AVERAGES, ids=["ema", "lookahead"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, watch, model = tmp_path_factory.mktemp("whole"), Watch(), built()
    trainer = trainer_for(request.param(), watch, by_step(folder), by_validation(folder), by_epoch(folder))
    trainer.fit(model, Noise())
    return Run(request.param, folder, watch, copy(model), float(trainer.callback_metrics["val/loss"]))


@pytest.fixture(scope="module")
def plain() -> dict[int, dict[str, Tensor]]:
    """The weights behind every step of a run that averages nothing."""
    watch = Watch()
    fit(watch)
    return watch.steps


@pytest.mark.parametrize(
    ("settings", "accumulate", "updates", "half_life_in_updates"),
    [
        ({"half_life": 0.5, "start": 0.25}, 1, range(3, 13), 3),
        ({"half_life": 0.25, "start": 0.0}, 1, range(1, 13), 1.5),
        ({"half_life": 0.5, "start": 0.3, "every_n_steps": 2}, 1, range(4, 13, 2), 1.5),
        # Two batches a step, so three steps an epoch.
        ({"half_life": 0.5, "start": 0.2}, 2, range(2, 7), 1.5),
    ],
)
def test_ema_is_what_numpy_computes(
    settings: dict[str, Any], accumulate: int, updates: range, half_life_in_updates: float
) -> None:
    watch = Watch()
    fit(watch, accumulate_grad_batches=accumulate)
    left = fit(EMA(**settings), accumulate_grad_batches=accumulate)
    expected = np.zeros(143)
    for number, step in enumerate(updates, start=1):
        share = max(1 / number, 1 - 2 ** (-1 / half_life_in_updates))
        expected = (1 - share) * expected + share * floats(watch.steps[step])
    assert_close(left, expected)
    # Whole numbers are not averaged.
    assert left["net.1.num_batches_tracked"] == 2 * 6


@pytest.mark.parametrize("kind", [TinyNet, MovingNet])
def test_an_infinite_half_life_is_the_plain_mean(kind: type[TinyNet], plain: dict[int, dict[str, Tensor]]) -> None:
    left = fit(EMA(half_life=float("inf"), start=0.5), model=built(kind))
    assert_close(left, np.mean([floats(plain[step]) for step in range(6, 13)], axis=0))


def test_ema_never_touches_training(plain: dict[int, dict[str, Tensor]]) -> None:
    watch = Watch()
    fit(AVERAGES[0](), watch)
    assert len(watch.steps) == STEPS
    assert all(equal(watch.steps[step], plain[step]) for step in plain)


def test_lookahead_pulls_the_weights_back_as_numpy_does() -> None:
    before, after, slow = Watch(), Watch(), floats(built().state_dict())
    left = fit(before, Lookahead(decay=0.99, every_n_steps=5), after)
    for step in range(1, STEPS + 1):
        if step % 5 == 0:
            kept = 0.99**5 * (step / STEPS) ** 3
            slow = kept * slow + (1 - kept) * floats(before.steps[step])
            assert_close(after.steps[step], slow)
        else:
            assert equal(before.steps[step], after.steps[step])
    # Steps 11 and 12 are left behind.
    assert_close(left, slow)


@pytest.mark.parametrize("step", [6, 9, 12])
def test_what_is_validated_and_saved_is_the_average(whole: Run, step: int) -> None:
    shown, live = whole.watch.validated[step], whole.watch.steps[step]
    assert not equal(shown, live)
    for kind in ("", "val-", "end-") if step % 6 == 0 else ("", "val-"):
        saved = load(whole.folder / f"{kind}step={step}.ckpt")
        assert equal(saved["state_dict"], shown)
        assert equal(live_weights(saved), live)


def test_what_is_left_behind_is_the_average_whose_loss_was_logged(whole: Run) -> None:
    last = load(whole.folder / "last.ckpt")["state_dict"]
    assert equal(whole.left, last)
    fresh = TinyNet()
    fresh.load_state_dict(last)
    (figures,) = trainer_for().validate(fresh, Noise(), verbose=False)
    assert figures["val/loss"] == whole.val_loss


def test_a_checkpoint_behind_the_end_has_both_as_well(whole: Run, tmp_path: Path) -> None:
    class SavesAtTheEnd(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "end.ckpt", weights_only=False)

    fit(whole.average(), SavesAtTheEnd())
    saved = load(tmp_path / "end.ckpt")
    assert equal(saved["state_dict"], whole.left)
    assert equal(live_weights(saved), whole.watch.steps[STEPS])


def test_before_averaging_begins_a_checkpoint_is_as_ever(plain: dict[int, dict[str, Tensor]], tmp_path: Path) -> None:
    watch = Watch()
    fit(EMA(start=0.6), watch, by_step(tmp_path))
    # It begins behind step 8.
    for step in (6, 7):
        saved = load(tmp_path / f"step={step}.ckpt")
        assert "EMA" not in saved["callbacks"]
        assert equal(saved["state_dict"], plain[step])
    assert equal(watch.validated[6], plain[6])
    assert "EMA" in load(tmp_path / "step=8.ckpt")["callbacks"]


@pytest.mark.parametrize("at", ["step=2", "step=4", "step=6", "step=9", "end-step=6", "val-step=6", "val-step=9"])
def test_a_resumed_run_goes_on_to_the_bit(
    whole: Run, at: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = Watch()
    left = fit(whole.average(), watch, by_step(tmp_path), ckpt_path=whole.folder / f"{at}.ckpt")
    assert equal(left, whole.left)
    assert all(equal(watch.steps[step], whole.watch.steps[step]) for step in watch.steps)
    assert all(equal(watch.validated[step], whole.watch.validated[step]) for step in watch.validated)
    assert equal(live_weights(load(tmp_path / f"step={STEPS}.ckpt")), whole.watch.steps[STEPS])
    assert "average" not in capsys.readouterr().out


def test_an_exception_in_validation_mixes_nothing_up(whole: Run, tmp_path: Path) -> None:
    model = built(BreaksAtStep9)
    with pytest.raises(RuntimeError, match="broken"):
        fit(whole.average(), by_epoch(tmp_path), model=model)
    assert equal(copy(model), whole.watch.steps[9])
    saved = load(tmp_path / "last.ckpt")
    assert equal(live_weights(saved), whole.watch.steps[9])
    assert equal(saved["state_dict"], whole.watch.validated[9])
    watch = Watch()
    assert equal(fit(whole.average(), watch, ckpt_path=tmp_path / "last.ckpt"), whole.left)
    # Validation is done again.
    assert equal(watch.validated[9], whole.watch.validated[9])


def test_an_exception_before_a_resumed_run_begins_saves_what_was_loaded(whole: Run, tmp_path: Path) -> None:
    before = whole.folder / "step=9.ckpt"
    with pytest.raises(RuntimeError, match="broken"):
        fit(BreaksAtTheStart(), whole.average(), by_epoch(tmp_path), ckpt_path=before)
    saved = load(tmp_path / "last.ckpt")
    assert equal(saved["state_dict"], load(before)["state_dict"])
    assert equal(live_weights(saved), whole.watch.steps[9])


def test_a_finished_run_that_is_resumed_leaves_the_average(whole: Run) -> None:
    assert equal(whole.left, fit(whole.average(), ckpt_path=whole.folder / "last.ckpt"))


def test_a_fit_that_is_over_lets_go_of_the_weights(whole: Run, tmp_path: Path) -> None:
    model, trainer = built(), trainer_for(whole.average())
    trainer.fit(model, Noise())
    nn.init.zeros_(model.net[0].weight)
    trainer.save_checkpoint(tmp_path / "own.ckpt", weights_only=False)
    saved = load(tmp_path / "own.ckpt")
    assert equal(saved["state_dict"], copy(model))
    assert saved["callbacks"] == {}


def test_one_callback_serves_one_run_after_another(whole: Run) -> None:
    callback, watch, model = whole.average(), Watch(), built(BreaksAtStep9)
    with pytest.raises(RuntimeError, match="broken"):
        fit(callback, model=model)
    # What broke off is over: these are the weights that the module has.
    trainer_for(callback, watch).validate(model, Noise(), verbose=False)
    assert equal(watch.validated[0], whole.watch.steps[9])
    trainer_for(callback).validate(model, Noise(), ckpt_path=whole.folder / "step=9.ckpt", verbose=False)
    assert equal(copy(model), whole.watch.validated[9])
    assert equal(fit(callback), whole.left)


@pytest.mark.parametrize("average", AVERAGES, ids=["ema", "lookahead"])
def test_a_compiled_network_is_validated_with_the_average(average: Average) -> None:
    model, watch = built(), Watch()
    model._compiled = torch.compile(model.net.forward, backend="aot_eager")
    trainer = trainer_for(average(), watch)
    trainer.fit(model, Noise())
    losses = []
    for weights in (copy(model), watch.steps[STEPS]):
        plain = TinyNet()
        plain.load_state_dict(weights)
        losses.append(trainer_for().validate(plain, Noise(), verbose=False)[0]["val/loss"])
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(losses[0], rel=1e-6)
    assert abs(losses[1] / losses[0] - 1) > 1e-4


@pytest.mark.parametrize("average", AVERAGES, ids=["ema", "lookahead"])
def test_averages_stay_on_their_device_and_wait_for_nothing(average: Average) -> None:
    """This device has no numbers: whatever read one would fail."""
    callback = average()
    callback._weights = {
        "weight": torch.empty(3, device="meta"),
        "half": torch.empty(3, dtype=torch.half, device="meta"),
    }
    callback._average, callback._total_steps = callback._copies(), STEPS
    if isinstance(callback, EMA):
        callback._share = 0.5
    for step in (5, 10):
        callback._update(step)
        callback._show_average()
        callback._show_live()
    assert {(mean.device.type, mean.dtype) for mean in callback._average.values()} == {("meta", torch.float32)}


def test_weights_stay_the_tensors_they_were(whole: Run) -> None:
    model = built()
    before = {name: weight.data_ptr() for name, weight in model.state_dict().items()}
    fit(whole.average(), model=model)
    assert before == {name: weight.data_ptr() for name, weight in model.state_dict().items()}


def test_a_run_that_takes_averaging_up_later_says_so(
    whole: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(by_step(tmp_path))
    watch = Watch()
    fit(whole.average(), watch, ckpt_path=tmp_path / "step=9.ckpt")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "average" in line)
    assert line.endswith(": the checkpoint has no average of this kind: it begins with the checkpoint's weights.")
    assert not equal(watch.validated[12], watch.steps[12])


def test_a_run_that_drops_averaging_says_so_and_goes_on_from_the_trained_weights(whole: Run) -> None:
    with pytest.warns(UserWarning, match="Please add the following callbacks: .*'(EMA|Lookahead)'"):
        left = fit(ckpt_path=whole.folder / "step=9.ckpt", max_steps=9)
    # To which momentum belongs.
    assert equal(left, whole.watch.steps[9])


def test_a_longer_run_averages_in_its_own_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(EMA(start=0.5), by_step(tmp_path))
    watch = Watch()
    fit(EMA(start=0.6), watch, ckpt_path=tmp_path / "step=9.ckpt", max_epochs=4)
    assert "EMA: this run averages from step 15 on; the checkpoint's average is dropped." in capsys.readouterr().out
    assert equal(watch.validated[12], watch.steps[12])
    assert_close(watch.validated[18], np.mean([floats(watch.steps[step]) for step in range(15, 19)], axis=0))


def test_sixteen_bits_average_in_thirty_two(tmp_path: Path) -> None:
    watch, mean = Watch(), partial(EMA, half_life=float("inf"), start=0.0)
    left = fit(mean(), watch, by_step(tmp_path), model=built(HalfNet))
    assert left["net.0.weight"].dtype == torch.bfloat16
    saved = load(tmp_path / f"step={STEPS}.ckpt")["state_dict"]
    assert_close(saved, np.mean([floats(weights) for weights in watch.steps.values()], axis=0))
    np.testing.assert_allclose(floats(left), floats(saved), rtol=2**-8)
    fit(mean(), by_step(tmp_path / "resumed"), model=HalfNet(), ckpt_path=tmp_path / "step=9.ckpt")
    assert equal(load(tmp_path / "resumed" / f"step={STEPS}.ckpt")["state_dict"], saved)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(EMA, half_life=0), "half_life is 0: "),
        (partial(EMA, half_life=-1), "half_life is -1: "),
        (partial(EMA, half_life=float("nan")), "half_life is nan: "),
        (partial(EMA, start=1), "start is 1: "),
        (partial(EMA, start=-0.1), "start is -0.1: "),
        (partial(EMA, every_n_steps=0), "every_n_steps is 0: "),
        (partial(Lookahead, decay=1), "decay is 1: "),
        (partial(Lookahead, decay=-0.1), "decay is -0.1: "),
        (partial(Lookahead, every_n_steps=0), "every_n_steps is 0: "),
    ],
)
def test_an_argument_out_of_range_says_so(build: Average, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


def test_what_excludes_averaging_says_so(tmp_path: Path) -> None:
    endless = TinyNet()
    endless.schedule = None
    with pytest.raises(UserError, match="give one, and once"):
        fit(EMA(), Lookahead())
    with pytest.raises(UserError, match="leave save_weights_only out"):
        fit(EMA(), ModelCheckpoint(tmp_path, save_weights_only=True))
    with pytest.raises(UserError, match="Lookahead averages at every 1000th step, and none of the steps 1 to "):
        fit(Lookahead(every_n_steps=1000))
    with pytest.raises(UserError, match="EMA averages at every 6th step, and none of the steps 10 to 11 is one"):
        fit(EMA(start=0.9, every_n_steps=6), max_steps=11, max_epochs=-1)
    # A trial of a run that is longer.
    fit(Lookahead(every_n_steps=1000), fast_dev_run=2)
    with pytest.raises(UserError, match="EMA needs the length of the run"):
        fit(EMA(), model=endless, max_epochs=-1, max_time={"seconds": 5})
    # An evaluation averages nothing.
    trainer_for(EMA(), Lookahead()).validate(TinyNet(), Noise(), verbose=False)


@pytest.mark.parametrize("name", ["EMA", "Lookahead"])
def test_a_recipe_names_them_without_their_module(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = {
        "trainer": {
            **{"max_epochs": 1, "limit_train_batches": 6, "limit_val_batches": 1, "accelerator": "cpu"},
            "callbacks": [{"class_path": name, "init_args": {"every_n_steps": 2}}],
        },
        "model": {"class_path": "ResNetV1", "init_args": {"depth": 8}},
        "data": {"class_path": "DigitsDataModule", "init_args": {"batch_size": 16, "val_size": 40}},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    main(["fit", "--config", "recipe.yaml"])
    assert name in load(next(tmp_path.rglob("last.ckpt")))["callbacks"]
