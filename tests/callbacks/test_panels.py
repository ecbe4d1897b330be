"""Panels show what a network does, and leave no trace in it."""

import shutil
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import albumentations as A
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cifar_lit.callbacks.confusion import ConfusionPanel
from cifar_lit.callbacks.curves import Curves
from cifar_lit.callbacks.gradcam import GradCamPanel
from cifar_lit.callbacks.layers import LayerPanel
from cifar_lit.callbacks.misclassified import MisclassifiedPanel
from cifar_lit.callbacks.panel import Panel
from cifar_lit.callbacks.record import KEPT, Evaluated, KeptPictures, stretched
from cifar_lit.classifier import Classifier
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.images import Images
from cifar_lit.errors import UserError
from cifar_lit.logger import CurvesLogger
from cifar_lit.models import DepthwiseNet

CLASSES = ("cat", "dog", "emu")
SIZE = 16


class Patches(ImageDataModule):
    """Noise, of which nothing can be learnt; 45 images for training, 15 for validation, 20 for testing."""

    image_size = SIZE

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"val_size": 15, "batch_size": 15, **kwargs})

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASSES

    def load(self, split: Literal["train", "test"]) -> Images:
        count = 60 if split == "train" else 20
        rng = np.random.default_rng(count)
        pixels = rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
        return Images(pixels, rng.permutation(np.arange(count) % 3))


class Net(nn.Sequential):
    """Small, with what draws and what keeps statistics."""

    def __init__(self) -> None:
        stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.3))
        super().__init__(stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


class Small(Classifier):
    def __init__(self, net: nn.Module | None = None, **kwargs: Any) -> None:
        super().__init__(net=net or Net(), num_classes=3, **kwargs)

    @property
    def cam_layer(self) -> nn.Module:
        layer: nn.Module = getattr(self.net, "_orig_mod", self.net)[0]
        return layer


class Foreign(LightningModule):
    """Somebody's own: nothing re-seeds its dropout, its head stands beside its net."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()[0]
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.net(images))
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class ForeignWithLayer(Foreign):
    @property
    def cam_layer(self) -> nn.Module:
        return self.net


def make_trainer(folder: Path, callbacks: Iterable[Callback] = (), **kwargs: Any) -> Trainer:
    defaults: dict[str, Any] = {"max_epochs": 2, "num_sanity_val_steps": 0, "logger": CurvesLogger(str(folder))}
    return Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        callbacks=list(callbacks),
        default_root_dir=folder,
        **{**defaults, **kwargs},
    )


def panels(every_n_epochs: int = 1) -> list[Panel]:
    return [GradCamPanel(every_n_epochs), MisclassifiedPanel(every_n_epochs), ConfusionPanel(every_n_epochs)]


def images_in(folder: Path) -> dict[str, list[int]]:
    """The steps of each picture that TensorBoard shows."""
    events = EventAccumulator(str(folder / "lightning_logs" / "version_0"), size_guidance={"images": 0}).Reload()
    return {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}


def scalars_in(folder: Path, split: str) -> dict[str, list[float]]:
    events = EventAccumulator(str(folder / "lightning_logs" / "version_0" / split)).Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


class Spy(Panel):
    """Keeps what a panel is given to draw."""

    def __init__(self, every_n_epochs: int = 1) -> None:
        super().__init__(every_n_epochs)
        self.seen: list[Evaluated] = []
        self.weights: list[dict[str, Tensor]] = []

    def draw(self, trainer: Trainer, pl_module: LightningModule, evaluated: Evaluated) -> None:
        self.seen.append(evaluated)
        self.weights.append(deepcopy(pl_module.state_dict()))


@pytest.fixture
def plain_figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What would be drawn, by the name of the function that draws; drawing itself takes most of a test's time."""
    drawn: dict[str, list[Any]] = {"tiles": [], "confusion": [], "scores": []}

    def record(name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: drawn[name].append(args)

    for panel in ("gradcam", "misclassified"):
        monkeypatch.setattr(f"cifar_lit.callbacks.{panel}.tile_figure", record("tiles"))
    monkeypatch.setattr("cifar_lit.callbacks.confusion.confusion_figure", record("confusion"))
    monkeypatch.setattr("cifar_lit.callbacks.confusion.class_scores_figure", record("scores"))
    monkeypatch.setattr("cifar_lit.callbacks.panel.to_rgb", lambda figure: np.zeros((4, 4, 3), np.uint8))
    return drawn


def compiled() -> Classifier:
    net: Any = torch.compile(Net(), backend="eager")
    return Small(net=net)


def called_compiled() -> Classifier:
    model = Small()
    model._compiled = torch.compile(model.net.forward, backend="eager")
    return model


HAS_COMPILER = any(shutil.which(name) for name in ("g++", "clang++"))
MODELS: dict[str, Callable[[], LightningModule]] = {
    "plain": Small,
    "dropout": lambda: DepthwiseNet(widths=[[8]], dropout=[0.2], num_classes=3),
    "compiled net": compiled,
    "called compiled": called_compiled,
    "foreign": ForeignWithLayer,
    "inductor": lambda: Small(compile_mode="default"),
}


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, "32-true") for name in MODELS if name != "inductor"),
        ("plain", "bf16-mixed"),
        ("dropout", "bf16-mixed"),
        pytest.param(
            "inductor",
            "32-true",
            marks=[pytest.mark.slow, pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler")],
        ),
    ],
)
def test_training_is_the_same_to_the_bit_with_panels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plain_figures: dict[str, list[Any]], name: str, precision: str
) -> None:
    def fit(callbacks: list[Panel]) -> tuple[dict[str, Tensor], dict[str, Any], Tensor]:
        seed_everything(1)
        model = MODELS[name]()
        trainer = make_trainer(tmp_path, callbacks, precision=precision, max_epochs=3)
        trainer.fit(model, Patches())
        return model.state_dict(), trainer.optimizers[0].state_dict()["state"], torch.rand(1)

    capsys.readouterr()
    weights, optimizer, drawn = fit([])
    with_panels = fit(panels())
    assert "Panel" not in capsys.readouterr().out
    assert len(plain_figures["tiles"]) >= 6
    assert all(torch.equal(weights[key], with_panels[0][key]) for key in weights)
    for key, state in optimizer.items():
        assert torch.equal(state["momentum_buffer"], with_panels[1][key]["momentum_buffer"])
    assert torch.equal(drawn, with_panels[2])


def test_everything_is_in_tensorboard_at_its_step(tmp_path: Path) -> None:
    model, data = always(0), Patches()
    trainer = make_trainer(tmp_path, panels(every_n_epochs=2), max_epochs=3)
    trainer.fit(model, data)
    trainer.test(model, data)
    pictures = images_in(tmp_path)
    # Three steps an epoch, counted from 0; drawn after the second epoch and at the end.
    for name in ("confusion", "classes", "gradcam/group_1", "misclassified/group_1", "misclassified/followed"):
        assert pictures.pop(f"val/{name}") == [5, 8]
    assert set(pictures) == {"test/confusion", "test/classes", "test/gradcam/group_1", "test/misclassified/group_1"}
    curves = scalars_in(tmp_path, "val")
    for measure in ("precision", "recall", "f1"):
        assert [len(curves[f"per_class_{measure}/{name}"]) for name in CLASSES] == [3, 3, 3]
    assert "per_class_recall/cat" in scalars_in(tmp_path, "test")
    # Where Lightning's figures of the same validations stand.
    events = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0" / "val")).Reload()
    names = ("loss", "per_class_recall/cat")
    assert [[event.step for event in events.Scalars(name)] for name in names] == [[2, 5, 8]] * 2


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_scores_are_those_of_the_network(
    tmp_path: Path, plain_figures: dict[str, list[Any]], stage: str, precision: str
) -> None:
    model, data = Small(), Patches()
    trainer = make_trainer(tmp_path, [ConfusionPanel(5)], max_epochs=1, precision=precision)
    getattr(trainer, stage)(model, data)
    split = "test" if stage == "test" else "val"
    images = getattr(data, f"{split}_images")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
        inputs, _ = data.on_after_batch_transfer([torch.from_numpy(images.pixels), None], 0)
        predicted = model.eval()(inputs).argmax(1).numpy()
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (images.labels, predicted), 1)
    ((confusion, names),) = plain_figures["confusion"]
    assert names == CLASSES
    np.testing.assert_array_equal(confusion, expected)
    recall = [scalars_in(tmp_path, split)[f"per_class_recall/{name}"] for name in CLASSES]
    assert recall == [[pytest.approx(expected[c, c] / expected[c].sum())] for c in range(3)]


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("transforms", [[], [A.Normalize((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))]])
def test_pictures_and_inputs_are_those_that_were_evaluated(
    tmp_path: Path, transforms: list[A.BasicTransform], stage: str
) -> None:
    inputs: list[Tensor] = []

    class Watching(Small):
        def forward(self, images: Tensor) -> Tensor:
            inputs.append(images)
            return super().forward(images)

    spy, data = Spy(), Patches(transforms=transforms)
    getattr(make_trainer(tmp_path, [spy]), stage)(Watching(), data)
    pixels, again = spy.seen[0].find([7, 2], torch.device("cpu"))
    assert torch.equal(again, torch.cat(inputs)[[7, 2]])
    images = data.test_images if stage == "test" else data.val_images
    assert images is not None
    np.testing.assert_array_equal(pixels, images.pixels[[7, 2]])
    np.testing.assert_array_equal(spy.seen[0].predictions.labels, images.labels)


def test_grad_cam_shows_the_same_images_all_along(tmp_path: Path, plain_figures: dict[str, list[Any]]) -> None:
    data = Patches()
    make_trainer(tmp_path, [GradCamPanel(1, groups=2)], max_epochs=3).fit(Small(), data)
    assert data.val_images is not None
    labels = data.val_images.labels.tolist()
    first = data.val_images.pixels[[labels.index(c) for c in range(3)]]
    shown = [[tile.pictures[0] for tile in tiles] for tiles, *_ in plain_figures["tiles"]]
    assert len(shown) == 6
    np.testing.assert_array_equal(shown[0::2], [first] * 3)
    assert not np.array_equal(shown[0], shown[1])
    tile = plain_figures["tiles"][0][0][1]
    assert tile.caption.startswith("true dog, ")
    assert "\npredicted " in tile.caption
    assert [picture.dtype for picture in tile.pictures] == [np.uint8, np.uint8]


def always(predicted: int) -> Classifier:
    """Predicts the same class for every image."""
    model = Small(optimizer=lambda params: torch.optim.SGD(params, lr=0.0))
    nn.init.zeros_(model.net[3].weight)
    model.net[3].bias.data = 3 * torch.eye(3)[predicted]
    return model


class Turn(Callback):
    """Lets the network predict another class in each epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.net[3].bias.data = pl_module.net[3].bias.roll(1)  # type: ignore[union-attr,index]


def captions(drawn: list[Any], title: str) -> list[list[str]]:
    return [[tile.caption for tile in tiles] for tiles, of_figure, *_ in drawn if of_figure.startswith(title)]


def test_misclassified_images_change_and_the_first_are_followed(
    tmp_path: Path, plain_figures: dict[str, list[Any]]
) -> None:
    make_trainer(tmp_path, [MisclassifiedPanel(1), Turn()]).fit(always(0), Patches())
    sure, other = f"{np.exp(3) / (np.exp(3) + 2):.0%}", f"{1 / (np.exp(3) + 2):.0%}"
    wrong = "true {}, " + other + "\npredicted {}, " + sure
    drawn = plain_figures["tiles"]
    assert captions(drawn, "Misclassified, ") == [
        [wrong.format("dog", "cat"), wrong.format("emu", "cat")],
        [wrong.format("cat", "dog"), wrong.format("emu", "dog")],
    ]
    right = f"true dog, {sure}\npredicted dog, {sure}"
    assert captions(drawn, "Misclassified at") == [
        [wrong.format("dog", "cat"), wrong.format("emu", "cat")],
        [right, wrong.format("emu", "dog")],
    ]
    followed = [tiles for tiles, title, *_ in drawn if title.startswith("Misclassified at")]
    np.testing.assert_array_equal(followed[0][0].pictures[0], followed[1][0].pictures[0])
    # The image, and the maps for the predicted and for the true class.
    assert [len(tile.pictures) for tile in followed[0]] == [3, 3]


def test_a_resumed_run_follows_the_same_images(tmp_path: Path, plain_figures: dict[str, list[Any]]) -> None:
    trainer = make_trainer(tmp_path, [MisclassifiedPanel(1), Turn()], max_epochs=1)
    trainer.fit(always(0), Patches())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = make_trainer(tmp_path, [MisclassifiedPanel(1)], max_epochs=2)
    resumed.fit(always(0), Patches(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    *_, now, followed = [[tile.caption[:8] for tile in tiles] for tiles, *_ in plain_figures["tiles"]]
    assert now == ["true cat", "true emu"]
    assert followed == ["true dog", "true emu"]


def test_another_run_follows_its_own_images(tmp_path: Path, plain_figures: dict[str, list[Any]]) -> None:
    panel = MisclassifiedPanel(1)
    for predicted in (0, 1):
        make_trainer(tmp_path, [panel], max_epochs=1).fit(always(predicted), Patches())
    assert [tile.caption[:8] for tile in plain_figures["tiles"][-1][0]] == ["true cat", "true emu"]


def test_a_network_without_errors_has_none_to_show(tmp_path: Path, plain_figures: dict[str, list[Any]]) -> None:
    class Cats(Patches):
        def load(self, split: Literal["train", "test"]) -> Images:
            images = super().load(split)
            return Images(images.pixels, np.zeros_like(images.labels))

    make_trainer(tmp_path, panels()).fit(always(0), Cats())
    assert {title for _, title, *_ in plain_figures["tiles"]} == {"GradCAM for the predicted class"}


@pytest.mark.parametrize("model", [Foreign, lambda: Classifier(Net(), num_classes=3)])
def test_without_a_layer_there_is_one_line_and_no_grad_cam(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    plain_figures: dict[str, list[Any]],
    model: Callable[[], LightningModule],
) -> None:
    make_trainer(tmp_path, panels()).fit(model(), Patches())
    assert capsys.readouterr().out.count("cam_layer") == 1
    assert len(plain_figures["confusion"]) == 2
    assert {len(tile.pictures) for tiles, *_ in plain_figures["tiles"] for tile in tiles} == {1}


def test_a_layer_that_says_nothing_leaves_the_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plain_figures: dict[str, list[Any]]
) -> None:
    class Unused(Foreign):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Conv2d(3, 4, 3)

        @property
        def cam_layer(self) -> nn.Module:
            return self.unused

    make_trainer(tmp_path, panels()).fit(Unused(), Patches())
    assert capsys.readouterr().out.count("The logits do not depend on cam_layer, of type Conv2d") == 2
    assert "misclassified/group_1" in " ".join(images_in(tmp_path))
    assert {len(tile.pictures) for tiles, *_ in plain_figures["tiles"] for tile in tiles} == {1}


@pytest.mark.parametrize("given", [lambda loss: None, lambda loss: loss, lambda loss: {"loss": loss}])
def test_a_module_that_gives_no_logits_gets_no_panels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: Callable[[Tensor], Any]
) -> None:
    class NoLogits(Foreign):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return given(super().validation_step(batch, batch_idx).mean())

    make_trainer(tmp_path, panels()).fit(NoLogits(), Patches())
    assert "Panel" not in capsys.readouterr().out
    assert images_in(tmp_path) == {}


def test_a_split_without_logits_does_not_get_the_pictures_of_the_one_before(tmp_path: Path) -> None:
    class NoTest(Foreign):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

    spy, model = Spy(), NoTest()
    trainer = make_trainer(tmp_path, [spy])
    trainer.fit(model, Patches())
    trainer.test(model, Patches())
    assert [evaluated.split for evaluated in spy.seen] == ["val", "val"]


def test_a_drawing_that_fails_ends_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plain_figures: dict[str, list[Any]]
) -> None:
    class Broken(Panel):
        def draw(self, trainer: Trainer, pl_module: LightningModule, evaluated: Evaluated) -> None:
            raise RuntimeError("no ink")

    trainer = make_trainer(tmp_path, [Broken(1), *panels()])
    trainer.fit(Small(), Patches())
    assert trainer.global_step == 6
    assert capsys.readouterr().out.count("Broken: no ink") == 1
    assert len(plain_figures["confusion"]) == 2


def test_labels_out_of_range_end_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Two(Foreign):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().validation_step(batch, batch_idx)[:, :2]

    make_trainer(tmp_path, panels()).fit(Two(), Patches())
    assert capsys.readouterr().out.count("2 classes") == 1


@pytest.mark.parametrize(
    ("every", "kwargs", "steps"),
    [
        (2, {"max_epochs": 5}, [5, 11, 14]),
        (2, {"max_epochs": 6}, [5, 11, 17]),
        (5, {"max_epochs": -1, "max_steps": 6}, [5]),
        # The weights of the last validation are gone.
        (5, {"max_epochs": -1, "max_steps": 4}, []),
        # Validation in other epochs than those: at the next one.
        (2, {"max_epochs": 7, "check_val_every_n_epoch": 3}, [8, 17]),
        # Within epochs: once when an epoch is over.
        (1, {"max_epochs": 2, "val_check_interval": 1}, [2, 5]),
        (3, {"max_epochs": 9, "callbacks": [EarlyStopping("val/none", patience=1)]}, [5]),
    ],
)
def test_it_is_drawn_every_few_epochs_and_at_the_end(
    tmp_path: Path, every: int, kwargs: dict[str, Any], steps: list[int]
) -> None:
    class Stuck(Small):
        def on_validation_epoch_end(self) -> None:
            self.log("val/none", 1.0)

    spy = Spy(every)
    trainer = make_trainer(tmp_path, [spy, *kwargs.pop("callbacks", ())], **kwargs)
    trainer.fit(Stuck(), Patches())
    assert [evaluated.step for evaluated in spy.seen] == steps
    assert {len(evaluated.predictions) for evaluated in spy.seen} <= {15}


def test_a_resumed_run_draws_when_the_uninterrupted_one_does(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=2)
    trainer.fit(Small(), Patches())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    spy = Spy(2)
    make_trainer(tmp_path, [spy], max_epochs=5).fit(Small(), Patches(), ckpt_path=tmp_path / "last.ckpt")
    assert [evaluated.step for evaluated in spy.seen] == [11, 14]


@pytest.mark.parametrize(
    ("every", "length", "drawings"), [(1, {}, 2), (5, {}, 1), (5, {"max_epochs": -1, "max_steps": 6}, 1)]
)
def test_what_is_drawn_are_the_weights_that_were_validated(
    tmp_path: Path, every: int, length: dict[str, int], drawings: int
) -> None:
    class Averaging(Callback):
        def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.live = deepcopy(pl_module.state_dict())
            pl_module.net[3].bias.data.fill_(7.0)  # type: ignore[union-attr,index]

        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.load_state_dict(self.live)

    spy = Spy(every)
    make_trainer(tmp_path, [Averaging(), spy], **length).fit(Small(), Patches())
    assert [weights["net.3.bias"].tolist() for weights in spy.weights] == [[7.0] * 3] * drawings


@pytest.mark.parametrize("off", [0, 1, 2])
def test_a_panel_that_is_off_draws_nothing_and_the_others_go_on(
    tmp_path: Path, plain_figures: dict[str, list[Any]], off: int
) -> None:
    chosen = panels()
    chosen[off] = type(chosen[off])(0)
    make_trainer(tmp_path, chosen).fit(Small(), Patches())
    drawn = {tag.split("/")[1] for tag in images_in(tmp_path)}
    names = [{"gradcam"}, {"misclassified"}, {"confusion", "classes"}]
    assert drawn == set().union(*(of_panel for i, of_panel in enumerate(names) if i != off))
    assert ("per_class_recall/cat" in scalars_in(tmp_path, "val")) == (off != 2)


def test_the_check_before_training_draws_nothing(tmp_path: Path, plain_figures: dict[str, list[Any]]) -> None:
    make_trainer(tmp_path, panels(), max_epochs=1, num_sanity_val_steps=2).fit(Small(), Patches())
    assert len(plain_figures["confusion"]) == 1
    assert len(scalars_in(tmp_path, "val")["per_class_f1/dog"]) == 1


@pytest.mark.parametrize("logger", [False, True])
def test_without_tensorboard_nothing_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plain_figures: dict[str, list[Any]], logger: bool
) -> None:
    spy, confusion = Spy(), ConfusionPanel(1)
    # Panels that have been on before.
    make_trainer(tmp_path, [spy, confusion], max_epochs=1).fit(Small(), Patches())
    spy.seen.clear()
    make_trainer(tmp_path, [spy, confusion], logger=CSVLogger(tmp_path, "csv") if logger else False).fit(
        Small(), Patches()
    )
    assert spy.seen == []
    assert spy.record._batches == []
    assert "Panel" not in capsys.readouterr().out
    assert not any("per_class" in path.read_text() for path in (tmp_path / "csv").rglob("metrics.csv"))


def loader(count: int, channels: int = 3) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, channels, SIZE, SIZE, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(count) % 3), batch_size=50)


def test_images_of_other_data_come_from_their_batches(tmp_path: Path, plain_figures: dict[str, list[Any]]) -> None:
    spy = Spy()
    make_trainer(tmp_path, [spy, *panels()], max_epochs=1).fit(ForeignWithLayer(), loader(9), loader(KEPT + 20))
    evaluated = spy.seen[0]
    assert plain_figures["confusion"][0][0].sum() == KEPT + 20
    assert plain_figures["confusion"][0][1] == ("0", "1", "2")
    # The first 47 of each of 11 batches of 50.
    assert evaluated.places.tolist() == [i for i in range(KEPT + 20) if i % 50 < 47]
    rows = [1, 47, len(evaluated.places) - 1]
    pixels, inputs = evaluated.find(rows, torch.device("cpu"))
    assert torch.equal(inputs, torch.stack([loader(KEPT + 20).dataset[i][0] for i in evaluated.places[rows]]))
    np.testing.assert_array_equal(pixels, stretched(inputs))
    assert len(plain_figures["tiles"]) == 3


def test_only_the_first_of_several_loaders_is_looked_at(tmp_path: Path, plain_figures: dict[str, list[Any]]) -> None:
    class Several(Foreign):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
            return super().validation_step(batch, batch_idx)

    make_trainer(tmp_path, panels()).validate(Several(), [loader(9), loader(6)])
    assert plain_figures["confusion"][0][0].sum() == 9


def test_pixels_are_stretched_image_by_image() -> None:
    images = torch.tensor([[-1.0, 0.0, 1.0, 3.0], [5.0, 5.0, 5.0, 5.0]]).reshape(2, 1, 2, 2)
    pixels = stretched(images)
    assert pixels.shape == (2, 2, 2, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[0, ..., 1], [[0, 64], [128, 255]])
    np.testing.assert_array_equal(pixels[1], np.zeros((2, 2, 3)))


def test_ranks_count_their_images_in_turns() -> None:
    first, second = KeptPictures(0, 2), KeptPictures(1, 2)
    images = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 3, 2, 2)
    assert [first.note(0, images).tolist(), first.note(1, images).tolist()] == [[0, 2, 4], [6, 8, 10]]
    places: NDArray[np.int64] = second.note(0, images)
    assert places.tolist() == [1, 3, 5]
    assert first.has(np.arange(4)).tolist() == [True, False, True, False]
    assert first.find(np.array([8]), torch.device("cpu"))[1].flatten().tolist() == [1.0] * 12


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: GradCamPanel(method="GradCam"), "give one of GradCAM, GradCAMPlusPlus"),
        (lambda: GradCamPanel(groups=0), "groups is 0"),
        (lambda: MisclassifiedPanel(groups=4), "from 1 to 3"),
        (lambda: ConfusionPanel(-1), "every_n_epochs is -1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(make: Callable[[], Panel], told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("panel", "expected"),
    [
        (GradCamPanel(), ("GradCAM", [2, 2, 2])),
        (GradCamPanel(method="HiResCAM"), ("HiResCAM", [2, 2, 2])),
        # For the predicted class, and for the true one.
        (MisclassifiedPanel(), ("GradCAM", [2, 2, 0, 1])),
    ],
)
def test_maps_are_for_the_classes_that_they_say(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plain_figures: dict[str, list[Any]],
    panel: Panel,
    expected: tuple[str, list[int]],
) -> None:
    asked = []

    def maps(net: nn.Module, layer: nn.Module, images: Tensor, classes: Any, method: str) -> NDArray[np.float32]:
        asked.append((method, classes.tolist()))
        return np.zeros((len(images), SIZE, SIZE), np.float32)

    monkeypatch.setattr("cifar_lit.callbacks.panel.class_activation_maps", maps)
    make_trainer(tmp_path, [panel]).test(always(2), Patches())
    assert asked == [expected]


@pytest.mark.parametrize(("batches", "size"), [(20, 50), (100, 50), (157, 64), (1000, 3)])
def test_of_data_in_the_order_of_classes_images_of_every_class_are_kept(batches: int, size: int) -> None:
    kept = KeptPictures(0, 1, batches)
    for batch in range(batches):
        kept.note(batch, torch.full((size, 3, 2, 2), float(batch)))
    found = np.flatnonzero(kept.has(np.arange(batches * size)))
    assert KEPT - 2 * size < len(found) < 2 * KEPT
    of_ten_classes = np.bincount(10 * found // (batches * size), minlength=10)
    assert of_ten_classes.min() > 0.7 * of_ten_classes.max()
    assert kept.find(found[-1:], torch.device("cpu"))[1].flatten()[0] == found[-1] // size


def test_of_data_of_unknown_length_the_first_images_are_kept() -> None:
    for batches in (float("inf"), 1):
        kept = KeptPictures(0, 1, batches)
        kept.note(0, torch.zeros(600, 3, 2, 2))
        assert np.flatnonzero(kept.has(np.arange(600))).tolist() == [*range(KEPT)]


def test_tensorboard_need_not_be_the_first_logger(tmp_path: Path) -> None:
    loggers = [CSVLogger(str(tmp_path), name="csv"), CurvesLogger(str(tmp_path))]
    make_trainer(tmp_path, [*panels(), Curves(), LayerPanel()], logger=loggers, max_epochs=1).fit(Small(), Patches())
    assert {"val/confusion", "val/gradcam/group_1", "val/misclassified/group_1"} <= images_in(tmp_path).keys()
    assert "per_class_recall/cat" in scalars_in(tmp_path, "val")
    events = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0")).Reload()
    assert "layers/text_summary" in events.Tags()["tensors"]
    assert "results/val/accuracy" in events.Tags()["scalars"]
    assert not any("per_class" in path.read_text() for path in (tmp_path / "csv").rglob("metrics.csv"))
