"""Loss, metrics, optimizer and schedule of a Classifier, trained with a plain Trainer."""

import math
import pickle
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, ExponentialLR, LambdaLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics.classification import MulticlassAccuracy

from cifar_lit.classifier import Classifier
from cifar_lit.compiling import CompilableModule
from cifar_lit.data import DigitsDataModule
from cifar_lit.errors import UserError
from cifar_lit.models import DepthwiseNet, DilatedSeparableNet, ResNet18, ResNetV1
from cifar_lit.schedules import InverseTime, OneCycle, Plateau, Triangular
from cifar_lit.scores import MeanLoss, Scores, TopAccuracy, together
from cifar_lit.weight_decay import split_by_decay


class Pixels(Classifier):
    """The pixels of the left half, so that a flip changes the logits."""

    def __init__(self, num_classes: int = 10, **kwargs: Any) -> None:
        net = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, num_classes))
        super().__init__(net=net, num_classes=num_classes, **kwargs)


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def trainer(folder: Path, **kwargs: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, **{**quiet, "enable_checkpointing": False, "max_epochs": 1, **kwargs})


def test_views_that_there_are_not_are_refused() -> None:
    with pytest.raises(UserError, match="tta is 'mirror': give one of none, flip, multi_view"):
        DepthwiseNet(tta="mirror")


@pytest.mark.parametrize("guesses", [1, 5])
def test_accuracy_is_that_of_torchmetrics_whatever_the_logits(guesses: int) -> None:
    ours = TopAccuracy(num_classes=7, guesses=guesses)
    theirs = MulticlassAccuracy(num_classes=7, average="micro", top_k=guesses, validate_args=False)
    generator = torch.Generator().manual_seed(0)
    for size in (1, 5, 64):
        # Rounded, many logits are equal; one image has none that is a number.
        logits = torch.randn(size, 7, generator=generator).round().bfloat16()
        logits[0] = math.nan
        labels = torch.randint(0, 7, (size,), generator=generator)
        ours.update(logits, labels)
        theirs.update(logits, labels)
        assert ours.compute() == theirs.compute()
    assert 0 < ours.compute() < 1
    # Its states in a checkpoint are as those of before.
    for name in ("tp", "fn"):
        assert getattr(ours, name).shape == getattr(theirs, name).shape
        assert getattr(ours, name).sum() == getattr(theirs, name).sum()


def test_a_subclass_may_have_a_loss_of_its_own(tmp_path: Path) -> None:
    class Weighted(Pixels):
        def training_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(logits, labels, weight=torch.eye(10)[3] + 1e-4)

    data = DigitsDataModule(batch_size=64)
    fitted = trainer(tmp_path, limit_val_batches=0, max_epochs=2)
    fitted.fit(model := Weighted(), data)
    images, labels = next(iter(data.val_dataloader()))
    assert len(labels) > 100
    predicted = model.eval()(data.on_after_batch_transfer([images, labels], 0)[0]).argmax(dim=1)
    assert (predicted == 3).all(), "no other class counts"
    assert 0 < fitted.callback_metrics["train/loss"] < 1


def test_a_step_of_ones_own_that_counts_nothing_logs_nothing(tmp_path: Path) -> None:
    class Own(Pixels):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    # And so when it goes on in the middle of the epoch.
    keep: dict[str, Any] = {"enable_checkpointing": True, "limit_train_batches": 2}
    keep["callbacks"] = [ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)]
    for checkpoint, further in ((None, keep), (tmp_path / "step=1.ckpt", {"limit_train_batches": 2})):
        fitted = trainer(tmp_path, **further)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*called before the `*update`* method")
            fitted.fit(Own(), DigitsDataModule(batch_size=64), ckpt_path=checkpoint, weights_only=True)
        assert fitted.global_step == 2
        assert not [name for name in fitted.callback_metrics if name.startswith("train")]


def test_what_a_checkpoint_has_counted_stays_while_a_run_that_took_it_up_counts_on() -> None:
    before = Scores(3)
    before.update(torch.tensor(1.0), torch.eye(3), torch.arange(3))
    counted = before.so_far()
    scores = Scores(3)
    scores.go_on_from(counted)
    scores.update(torch.tensor(1.0), torch.eye(3), torch.arange(3))
    assert scores.loss.count == 6
    assert counted["loss"]["count"] == 3
    assert counted["accuracy"]["tp"] == 3


@pytest.mark.parametrize("shift", [0, 1000])
def test_the_mean_loss_is_the_same_to_the_last_digit_in_any_order(shift: float) -> None:
    losses = torch.rand(1003, generator=torch.Generator().manual_seed(0)) * 5
    losses[7] += shift  # a loss too large to be counted exactly, among others
    found = set()
    for size in (1, 2, 3, 6, 500, 1003):
        mean = MeanLoss()
        for part in torch.split(losses, size):
            mean.update(part)
        found.add(mean.compute().item())
    (same,) = found
    assert same == pytest.approx(losses.double().mean().item(), rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_mean_loss_is_counted_in_float32_also_where_a_module_is_not(dtype: torch.dtype) -> None:
    scores = Scores(3).to(dtype)
    for _ in range(2):
        for _ in range(400):
            scores.loss.update(torch.tensor(1.5, dtype=dtype), 128)
        assert scores.loss.compute() == 1.5
        scores.reset()


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_mean_loss_that_is_no_number_stays_one(loss: float) -> None:
    mean = MeanLoss()
    mean.update(torch.tensor([1.0, loss]))
    mean.update(torch.tensor(1.0), 2)
    assert mean.compute().item() == pytest.approx(loss, nan_ok=True)


def test_scores_are_means_over_images_not_batches() -> None:
    scores = Scores(num_classes=3)
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, 0.0, 2.0]])
    labels = torch.tensor([0, 1, 2])
    for part in (slice(0, 2), slice(2, 3), slice(3, 3)):
        scores.update(F.cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    named = scores.named()
    assert named["accuracy"].compute().item() == pytest.approx(2 / 3)
    assert named["loss"].compute().item() == pytest.approx(F.cross_entropy(logits, labels).item())
    assert "accuracy_top5" not in named


def test_scores_begin_anew_in_inference_mode_and_count_outside_of_it() -> None:
    scores = Scores(num_classes=11)
    logits, labels = -torch.arange(11.0).repeat(2, 1), torch.tensor([0, 2])
    for _ in range(2):
        scores.update(torch.tensor([1.0, 2.0]), logits, labels)
        figures = {name: float(metric.compute()) for name, metric in scores.named().items()}
        assert figures == pytest.approx({"loss": 1.5, "accuracy": 0.5, "accuracy_top5": 1.0})
        with torch.inference_mode():
            scores.reset()


def test_top5_from_eleven_classes_on() -> None:
    scores = Scores(num_classes=11)
    logits = torch.arange(11.0).repeat(2, 1)
    scores.update(torch.tensor(0.0), logits, torch.tensor([6, 5]))
    assert scores.named()["accuracy_top5"].compute().item() == 0.5


def test_norms_and_biases_do_not_decay() -> None:
    model = ResNetV1(8, conv_bias=True, optimizer=lambda params: SGD(params, lr=0.1, weight_decay=1e-3))
    groups = model.optimizer(model.parameter_groups()).param_groups
    assert [group["weight_decay"] for group in groups] == [1e-3, 0.0]
    assert {p.ndim for p in groups[0]["params"]} == {2, 4}
    assert {p.ndim for p in groups[1]["params"]} == {1}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_decay_on_convolutions_alone_and_on_all() -> None:
    convolutions = ResNetV1(8, weight_decay_on="convolutions").parameter_groups()
    assert {p.ndim for p in convolutions[0]["params"]} == {4}
    assert len(ResNetV1(8, weight_decay_on="all").parameter_groups()) == 1


def test_decay_on_dense_weights_leaves_depthwise_kernels() -> None:
    model = DilatedSeparableNet(weight_decay_on="dense")
    decayed, free = model.parameter_groups()
    pointwise = [m.weight for m in model.net.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    assert {id(p) for p in decayed["params"]} == {id(weight) for weight in pointwise}
    assert free["weight_decay"] == 0
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))
    # One channel in, as of grey images, makes a kernel no less dense; without kernels of that sort all is as before.
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3, groups=2))
    assert [len(part) for part in split_by_decay(grey, "dense")] == [2, 4]
    assert [len(part) for part in split_by_decay(grey, "weights")] == [3, 3]


def test_norms_over_maps_scales_and_wide_biases_do_not_decay() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.bias = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.zeros(4, 8, 8))
            self.positions, self.to_one = nn.Parameter(torch.ones(1, 16, 4)), nn.Linear(4, 1, bias=False)
            self.norm = nn.LayerNorm((4, 8, 8))

    net = Odd()
    for on in ("weights", "dense"):
        decayed, free = split_by_decay(net, on)
        assert {id(p) for p in decayed} == {id(net.positions), id(net.to_one.weight)}
        assert len(free) == 4
    assert len(split_by_decay(net, "all")[0]) == 6


def test_the_l1_penalty_is_of_all_that_is_trained() -> None:
    class Beside(Classifier):
        def __init__(self, l1_penalty: float) -> None:
            super().__init__(net=nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), l1_penalty=l1_penalty)
            self.extra, self.frozen = nn.Linear(10, 10), nn.Parameter(torch.ones(3), requires_grad=False)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.extra(self.net(images))
            return logits

    model, batch = Beside(0.5), (torch.ones(2, 3, 2, 2), torch.tensor([0, 1]))
    with_penalty = model.training_step(batch, 0)
    model.l1_penalty = 0.0
    absolute = sum(p.abs().sum() for layer in (model.net, model.extra) for p in layer.parameters())
    torch.testing.assert_close(with_penalty - model.training_step(batch, 0), 0.5 * absolute)


def test_shared_and_further_layers_are_in_the_groups_once() -> None:
    class Tied(Classifier):
        def __init__(self) -> None:
            net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
            net[1].weight = net[0].weight
            super().__init__(net=net)
            self.head = nn.Linear(4, 2)

    model = Tied()
    decayed, free = (group["params"] for group in model.parameter_groups())
    assert [id(p) for p in decayed] == [id(model.net[0].weight), id(model.head.weight)]
    assert [id(p) for p in free] == [id(layer.bias) for layer in (*model.net, model.head)]


def test_a_choice_that_there_is_not_is_named() -> None:
    for build, said in (
        (lambda: DepthwiseNet(head="sepaable"), "head is 'sepaable': give one of pointwise, separable, separable_relu"),  # type: ignore[arg-type]
        (lambda: ResNet18(initialization="He"), "initialization is 'He': give one of he, torch"),  # type: ignore[arg-type]
        (lambda: ResNetV1(8, weight_decay_on="norms").parameter_groups(), "weight_decay_on is 'norms'"),
    ):
        with pytest.raises(UserError, match=said):
            build()


def test_a_fit_may_follow_an_evaluation_and_one_the_other(tmp_path: Path) -> None:
    # Lightning evaluates in inference mode, but for the validation within a fit.
    model, data = ResNetV1(depth=8, tta="flip"), DigitsDataModule(batch_size=64)
    for command in ("validate", "fit", "test", "predict", "fit"):
        getattr(trainer(tmp_path, max_epochs=1, limit_train_batches=2), command)(model, datamodule=data)
    figures = trainer(tmp_path).validate(model, datamodule=data)
    assert figures == trainer(tmp_path).validate(model, datamodule=data)
    assert figures[0].keys() == {"val/loss", "val/accuracy"}


def test_what_is_drawn_behind_a_run_is_another_each_time(tmp_path: Path) -> None:
    seed_everything(3)
    drawn = []
    for _ in range(3):
        model = ResNetV1(depth=8)
        drawn.append(next(model.parameters()).sum().item())
        trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(model, datamodule=DigitsDataModule())
    assert len(set(drawn)) == 3
    # And it depends on the seed alone.
    last = torch.rand(3)
    seed_everything(3)
    for _ in range(3):
        model = ResNetV1(depth=8)
        trainer(tmp_path, limit_train_batches=2, limit_val_batches=0).fit(model, datamodule=DigitsDataModule())
    assert torch.equal(torch.rand(3), last)


def test_an_evaluation_that_was_broken_off_does_not_count_in_the_next(tmp_path: Path) -> None:
    model, data = Pixels(tta="flip"), DigitsDataModule(batch_size=64)
    right = [trainer(tmp_path).validate(model, data), trainer(tmp_path).test(model, data)]
    images, labels = torch.randn(8, 3, 32, 32), torch.zeros(8, dtype=torch.long)
    with torch.no_grad():
        model.validation_step((images, labels), 0)
        model.test_step((images, labels), 0)
    assert [trainer(tmp_path).validate(model, data), trainer(tmp_path).test(model, data)] == right


def test_a_copy_has_no_teacher_of_a_run_of_the_other() -> None:
    model = DepthwiseNet(widths=[[4]], dropout=[0.0])
    model.taught = lambda images, logits, loss: loss
    model.resized = lambda images: images
    copy = deepcopy(model)
    assert (copy.taught, copy.resized) == (None, None)
    assert None not in (model.taught, model.resized)
    # Of a module that can have none.
    assert "taught" not in CompilableModule().__getstate__()


def test_a_copy_of_a_compiled_model_runs_its_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled(function))
    model = Pixels(compile_mode="default")
    images = torch.randn(2, 3, 32, 32)
    model(images)
    copy = deepcopy(model)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    assert not copy(images).any()
    assert model(images).any()
    model.training_step((images, torch.zeros(2, dtype=torch.long)), 0).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in copy.parameters())


@pytest.mark.parametrize(
    ("reason", "expected", "said"),
    [
        ("No working C++ compiler found.\nSet", UserError, r"C\+\+ compiler found\).* CXX.* --model.compile_mode out"),
        ("Failed to find C compiler. Please", UserError, r"Failed to find C compiler.* CC\)"),
        ("CUDA out of memory", BackendCompilerFailed, "CUDA out of memory"),
    ],
)
def test_where_no_compiler_is_it_says_what_to_do(
    reason: str, expected: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(graph: Any, inputs: Any) -> Any:
        raise RuntimeError(reason)

    compiled = partial(torch.compile, backend=failing)
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled(function))
    with pytest.raises(expected, match=said):
        Pixels(compile_mode="default")(torch.randn(2, 3, 32, 32))


def test_each_batch_size_has_a_program_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def counted(graph: Any, inputs: Any) -> Any:
        (images,) = (value for value in inputs if isinstance(value, Tensor) and value.shape[1:] == (3, 32, 32))
        sizes.append(images.shape[0])
        return graph

    compiled = partial(torch.compile, backend=counted)
    monkeypatch.setattr(torch, "compile", lambda function, mode, **settings: compiled(function, **settings))
    torch.compiler.reset()
    model = ResNetV1(depth=8, compile_mode="default")
    for size in (4, 3, 2, 4, 3):
        model(torch.randn(size, 3, 32, 32))
    # Numbers, none of which stands for any size.
    assert [(size, type(size)) for size in sizes] == [(4, int), (3, int), (2, int)]


def test_a_model_of_python_can_be_pickled() -> None:
    model = ResNetV1(depth=8)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(pickle.loads(pickle.dumps(model)).eval()(images), model.eval()(images))


def test_a_checkpoint_may_be_saved_when_another_trainer_has_had_the_model(tmp_path: Path) -> None:
    model, data = Pixels(), DigitsDataModule()
    first, second = trainer(tmp_path, limit_train_batches=2), trainer(tmp_path, max_epochs=-1)
    first.fit(model, data)
    second.test(model, data)
    first.save_checkpoint(tmp_path / "saved.ckpt")
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    assert saved["progress"] == {"batches": 2, "a_step": 1, "ahead": 0}
    assert saved["class_path"] == f"{__name__}.Pixels"


def test_what_cannot_be_run_is_said_in_a_line() -> None:
    with pytest.raises(UserError, match="pixels of uint8, and not yet normalised: give a trainer the data module"):
        Pixels()(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    with pytest.raises(UserError, match="optimizer is null: name one"):
        Pixels(optimizer=None)


def test_flip_average_is_reported_beside_the_plain_figure(tmp_path: Path) -> None:
    model, data = Pixels(tta="flip"), DigitsDataModule()
    (results,) = trainer(tmp_path).test(model, data, verbose=False)
    images, labels = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    plain = model.net(images)
    both = (plain + model.net(images.flip(3))) / 2
    assert results["test/accuracy"] == pytest.approx((plain.argmax(1) == labels).float().mean().item())
    assert results["test/accuracy_flip"] == pytest.approx((both.argmax(1) == labels).float().mean().item())
    assert results["test/loss_flip"] == pytest.approx(F.cross_entropy(both, labels).item(), rel=1e-4)
    assert results["test/loss"] != pytest.approx(results["test/loss_flip"], rel=1e-4)


def test_several_views_are_reported_beside_the_plain_figure(tmp_path: Path) -> None:
    results = trainer(tmp_path).test(Pixels(tta="multi_view"), DigitsDataModule(), verbose=False)[0]
    assert {"test/accuracy", "test/loss", "test/accuracy_multi_view", "test/loss_multi_view"} <= set(results)
    assert results["test/loss_multi_view"] != results["test/loss"]


def test_evaluation_gives_the_logits_of_a_batch() -> None:
    model, batch = Pixels(tta="flip").eval(), (torch.rand(5, 3, 8, 8), torch.arange(5))
    expected = model(batch[0])
    for step in (model.validation_step, model.test_step):
        torch.testing.assert_close(step(batch, 0), expected)


def test_compiling_keeps_names_layers_and_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[dict[str, Any]] = []

    def compile_without_a_compiler(function: Any, **kwargs: Any) -> Any:
        compiled.append(kwargs)
        return real(function, backend="aot_eager")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compile_without_a_compiler)
    torch.manual_seed(0)
    plain = ResNetV1(depth=8)
    torch.manual_seed(0)
    model = ResNetV1(depth=8, compile_mode="reduce-overhead")
    assert compiled == [{"mode": "reduce-overhead", "dynamic": False}]
    assert model.state_dict().keys() == plain.state_dict().keys()
    seen: list[torch.Size] = []
    model.cam_layer.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    losses = [m.training_step((images, labels), 0) for m in (plain, model)]
    torch.testing.assert_close(losses[0], losses[1])
    for m, loss in zip((plain, model), losses, strict=True):
        loss.backward()  # type: ignore[no-untyped-call]
        assert m.net.stem[0].weight.grad is not None
    torch.testing.assert_close(plain.eval()(images), model.eval()(images))
    model.net(images)
    assert seen, "Grad-CAM's hooks see the network itself"


@pytest.mark.usefixtures("small_evaluations")
def test_weights_of_sixteen_bits_train_and_are_tested(tmp_path: Path) -> None:
    model = ResNetV1(depth=8)
    run = trainer(tmp_path, precision="bf16-true", max_steps=2, limit_val_batches=1, limit_test_batches=1)
    run.fit(model, DigitsDataModule(batch_size=8))
    assert model.net.stem[0].weight.dtype == torch.bfloat16
    assert 0 <= run.test(model, DigitsDataModule(), verbose=False)[0]["test/accuracy"] <= 1


def test_schedule_is_told_the_length_of_the_run(tmp_path: Path) -> None:
    told: list[int] = []

    def schedule(optimizer: Optimizer, total_steps: int) -> CosineAnnealingLR:
        told.append(total_steps)
        return CosineAnnealingLR(optimizer, total_steps)

    data = DigitsDataModule(batch_size=100, val_size=138)
    trainer(tmp_path, max_epochs=3, limit_val_batches=0).fit(Pixels(schedule=schedule), data)
    assert told == [3 * 13]


def test_schedule_without_an_end_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_epochs"):
        trainer(tmp_path, max_epochs=-1).fit(Pixels(schedule=OneCycle), DigitsDataModule())


def test_label_smoothing_and_l1_change_the_training_loss_alone() -> None:
    batch = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    torch.manual_seed(0)
    model = Pixels(label_smoothing=0.2, l1_penalty=0.01)
    smoothed = F.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.2)
    penalty = 0.01 * sum(p.abs().sum() for p in model.parameters())
    assert model.training_step(batch, 0).item() == pytest.approx((smoothed + penalty).item())
    model.validation_step(batch, 0)
    plain = F.cross_entropy(model(batch[0]), batch[1]).item()
    assert model.val_scores.loss.compute().item() == pytest.approx(plain)
    with pytest.raises(UserError, match="label_smoothing"):
        Pixels(label_smoothing=1.0)
    with pytest.raises(UserError, match=r"l1_penalty is -0\.1: give"):
        Pixels(l1_penalty=-0.1)


def test_dropout_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    def fit(disturb: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = DepthwiseNet(widths=[[8], [8]], dropout=[0.5, 0.5])
        if disturb:
            torch.manual_seed(123)
        trainer(tmp_path, max_steps=3, limit_val_batches=0).fit(model, DigitsDataModule())
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(fit(disturb=False), fit(disturb=True))


def test_checkpoint_of_a_model_made_in_python_loads_as_data(tmp_path: Path) -> None:
    model = ResNetV1(depth=14, num_classes=100, schedule=OneCycle, optimizer=lambda params: SGD(params, lr=0.5))
    run = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    run.fit(model, DigitsDataModule())
    run.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["depth"] == 14
    loaded = ResNetV1.load_from_checkpoint(tmp_path / "model.ckpt")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.eval()(images), model.eval()(images))


class Chooses(Pixels):
    def __init__(self, activation: Any = nn.GELU, rates: Any = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activation


def test_what_a_sweep_gives_becomes_a_number_and_no_object_is_kept(tmp_path: Path) -> None:
    data = DigitsDataModule(val_size=np.linspace(0.2, 0.4, 3)[1], batch_size=np.int64(64))
    run = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    run.fit(Chooses(label_smoothing=np.float64(0.1), rates=[np.float64(0.5), 1], tta="flip"), data)
    run.save_checkpoint(tmp_path / "model.ckpt")
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert "activation" not in content["hyper_parameters"]
    assert content["hyper_parameters"]["label_smoothing"] == 0.1
    assert content["hyper_parameters"]["rates"] == [0.5, 1]
    assert content["datamodule_hyper_parameters"]["batch_size"] == 64
    assert content["datamodule_hyper_parameters"]["val_size"] == pytest.approx(0.3)


def test_settings_of_a_resumed_run_beat_the_checkpoints(tmp_path: Path) -> None:
    def model(lr: float, decay: float) -> Pixels:
        return Pixels(
            schedule=CosineAnnealingLR,
            optimizer=lambda params: SGD(params, lr=lr, momentum=0.9, weight_decay=decay),
        )

    first = trainer(tmp_path, max_epochs=2, limit_train_batches=5, limit_val_batches=0)
    first.fit(model(0.1, 1e-3), DigitsDataModule())
    first.save_checkpoint(tmp_path / "first.ckpt")

    resumed = model(0.05, 1e-4)
    rates: list[float] = []

    class Recorder(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    second = trainer(tmp_path, max_epochs=4, limit_train_batches=5, limit_val_batches=0, callbacks=[Recorder()])
    second.fit(resumed, DigitsDataModule(), ckpt_path=tmp_path / "first.ckpt")

    fresh = SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    cosine = CosineAnnealingLR(fresh, 20)
    expected = []
    for step in range(20):
        fresh.step()
        cosine.step()
        if step >= 10:
            expected.append(fresh.param_groups[0]["lr"])
    assert second.optimizers[0].param_groups[0]["weight_decay"] == 1e-4
    assert "momentum_buffer" in next(iter(second.optimizers[0].state.values()))
    assert rates == pytest.approx(expected[: len(rates)])
    assert len(rates) == 10


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # Ten steps and two epochs are done when the second run begins; it has twenty and four.
        (None, CosineAnnealingLR, lambda step: 0.05 * (1 + math.cos(math.pi * step / 20)) / 2),
        (
            lambda o, n: InverseTime(o, n, decay=1),
            CosineAnnealingLR,
            lambda s: 0.05 * (1 + math.cos(math.pi * s / 20)) / 2,
        ),
        (CosineAnnealingLR, lambda o, n: InverseTime(o, n, decay=1), lambda step: 0.05 / (1 + step // 5)),
    ],
)
def test_a_resumed_run_may_have_another_schedule(tmp_path: Path, before: Any, after: Any, expected: Any) -> None:
    first = trainer(tmp_path, max_epochs=2, limit_train_batches=5, limit_val_batches=0)
    first.fit(Pixels(schedule=before, optimizer=lambda p: SGD(p, lr=0.1)), DigitsDataModule())
    first.save_checkpoint(tmp_path / "first.ckpt")
    rates = Rates()
    second = trainer(tmp_path, max_epochs=4, limit_train_batches=5, limit_val_batches=0, callbacks=[rates])
    resumed = Pixels(schedule=after, optimizer=lambda p: SGD(p, lr=0.05))
    second.fit(resumed, DigitsDataModule(), ckpt_path=tmp_path / "first.ckpt")
    assert rates.seen == pytest.approx([expected(step) for step in range(10, 20)])


@pytest.mark.parametrize(("before", "after"), [(64, 32), (32, 64)])
@pytest.mark.parametrize("accumulated", [False, True])
def test_a_run_that_goes_on_with_other_batches_goes_on_at_the_same_share_of_its_schedule(
    tmp_path: Path, before: int, after: int, accumulated: bool
) -> None:
    def run(batch: int, epochs: int, *callbacks: Callback, ckpt_path: Path | None = None) -> Trainer:
        # As many images a step, in a batch or in two.
        sizes = {"accumulate_grad_batches": batch // 16} if accumulated else {}
        new = trainer(tmp_path, max_epochs=4, limit_val_batches=0, callbacks=[Ends(epochs), *callbacks], **sizes)
        model = Pixels(schedule=Triangular, optimizer=lambda params: SGD(params, lr=0.1))
        # 254 images are left to train on.
        data = DigitsDataModule(batch_size=16 if accumulated else batch, val_size=1184)
        new.fit(model, data, ckpt_path=ckpt_path)
        new.save_checkpoint(tmp_path / "last.ckpt")
        return new

    class Ends(Callback):
        def __init__(self, epochs: int) -> None:
            self.epochs = epochs

        def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
            trainer.should_stop = trainer.current_epoch + 1 >= self.epochs

    whole, rates, third = Rates(), Rates(), Rates()
    run(after, 4, whole)
    run(before, 1)
    run(after, 3, rates, ckpt_path=tmp_path / "last.ckpt")
    per_epoch = len(whole.seen) // 4
    assert rates.seen == pytest.approx(whole.seen[per_epoch : 3 * per_epoch])
    # Its steps are of both sizes now; to the first size again, and to the end.
    end = run(before, 4, third, ckpt_path=tmp_path / "last.ckpt")
    assert 0 < third.seen[-1] < third.seen[0] < 0.05
    assert end.optimizers[0].param_groups[0]["lr"] == pytest.approx(0)


def test_a_run_that_goes_on_by_steps_counts_those_that_were_taken(tmp_path: Path) -> None:
    """Whatever batches they were of: its length is a number of steps now."""

    def run(batch: int, **length: int) -> Trainer:
        new = trainer(tmp_path, limit_val_batches=0, limit_train_batches=256 // batch, **length)
        resume = tmp_path / "last.ckpt" if (tmp_path / "last.ckpt").exists() else None
        model = Pixels(schedule=OneCycle, optimizer=lambda params: SGD(params, lr=0.1))
        new.fit(model, DigitsDataModule(batch_size=batch), ckpt_path=resume)
        new.save_checkpoint(tmp_path / "last.ckpt")
        return new

    # 4 steps, then 8 that stand at 16; 20 is the end.
    run(64, max_epochs=1)
    assert run(32, max_epochs=2).global_step == 12
    end = run(32, max_epochs=-1, max_steps=20)
    assert end.global_step == 20
    assert end.lr_scheduler_configs[0].scheduler.last_epoch == 20


class OwnPlateau(ReduceLROnPlateau):
    """As somebody may write it."""

    interval, monitor = "epoch", "train/loss"

    def __init__(self, optimizer: Optimizer, total_steps: int) -> None:
        super().__init__(optimizer, mode="max", factor=0.5, patience=0)


def test_a_plateau_of_ones_own_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    def run(**settings: Any) -> list[float]:
        rates = Rates()
        keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        limits: dict[str, Any] = {"limit_train_batches": 2, "limit_val_batches": 0, "enable_checkpointing": True}
        new = trainer(tmp_path, max_epochs=4, callbacks=[rates, keep], **limits)
        model = Pixels(schedule=OwnPlateau, optimizer=lambda params: SGD(params, lr=0.1))
        new.fit(model, DigitsDataModule(), **settings)
        return rates.seen

    whole = run()
    assert whole[-1] < whole[0], "the loss falls, which this plateau takes for getting worse"
    assert run(ckpt_path=tmp_path / "epoch=1.ckpt") == whole[4:]


class NoMonitor(ReduceLROnPlateau):
    def __init__(self, optimizer: Optimizer, total_steps: int) -> None:
        super().__init__(optimizer)


def test_a_plateau_needs_something_to_monitor(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"NoMonitor has no `monitor`, .*: give Plateau"):
        trainer(tmp_path).fit(Pixels(schedule=NoMonitor), DigitsDataModule())


class Own(LambdaLR):
    """A schedule of one's own, which keeps the number of steps under a name of its own."""

    def __init__(self, optimizer: Optimizer, num_steps: int) -> None:
        self.num_steps = num_steps
        super().__init__(optimizer, lambda step: 1 - step / num_steps)


def test_a_schedule_of_ones_own_may_call_its_length_as_it_likes(tmp_path: Path) -> None:
    rates = Rates()
    new = trainer(tmp_path, limit_train_batches=4, limit_val_batches=0, callbacks=[rates])
    new.fit(Pixels(schedule=Own, optimizer=lambda params: SGD(params, lr=1.0)), DigitsDataModule())
    assert rates.seen == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer, steps: OneCycleLR(optimizer, steps, total_steps=4),
        lambda optimizer, steps: CyclicLR(optimizer, steps, 1000),
    ],
)
def test_the_number_of_steps_is_no_rate(schedule: Any, tmp_path: Path) -> None:
    new = trainer(tmp_path, limit_train_batches=4, limit_val_batches=0)
    with pytest.raises(UserError, match="does not take the run's number of steps: give OneCycle"):
        new.fit(
            Pixels(schedule=schedule, optimizer=lambda params: SGD(params, lr=0.1, momentum=0.9)), DigitsDataModule()
        )


def test_a_schedule_of_torch_that_is_told_its_rates_is_taken(tmp_path: Path) -> None:
    rates = Rates()
    new = trainer(tmp_path, limit_train_batches=4, limit_val_batches=0, callbacks=[rates])
    new.fit(Pixels(schedule=lambda o, n: OneCycleLR(o, 0.5, total_steps=n)), DigitsDataModule())
    assert max(rates.seen) == pytest.approx(0.5, abs=0.1)


class Stream(IterableDataset[Any]):
    """Data that do not know how many they are."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(3, 8, 8), 0)] * 12)


@pytest.mark.parametrize("schedule", [Triangular, OneCycle, CosineAnnealingLR])
def test_data_without_a_length_need_a_number_of_steps_for_a_schedule_by_steps(tmp_path: Path, schedule: Any) -> None:
    def fit(schedule: Any, **length: int) -> list[float]:
        rates = Rates()
        data = DataLoader(Stream(), batch_size=4)
        model = Pixels(schedule=schedule, optimizer=lambda params: SGD(params, lr=0.1))
        trainer(tmp_path, callbacks=[rates], **{"max_epochs": 2, **length}).fit(model, data)
        return rates.seen

    with pytest.raises(UserError, match=r"needs the run's length: give .*--trainer\.limit_train_batches"):
        fit(schedule)
    assert max(fit(schedule, limit_train_batches=3)) > 0
    # By epochs it does not matter how many there are.
    assert fit(lambda o, n: InverseTime(o, n, decay=1)) == [0.1] * 3 + [0.05] * 3


class ConfiguresItself(Pixels):
    """Takes its optimizer and schedule into its own hands, as Lightning's documentation shows."""

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.01, momentum=0.5)
        return [optimizer], [ExponentialLR(optimizer, 0.5)]


class Adds(Pixels):
    """Takes what the settings make, and adds to it."""

    def configure_optimizers(self) -> Any:
        return super().configure_optimizers()


def test_who_adds_to_what_the_settings_make_goes_on_by_the_settings(tmp_path: Path) -> None:
    def rate_behind(epochs: int, lr: float, schedule: Any, **resumed: Any) -> float:
        new = trainer(tmp_path, max_epochs=epochs, limit_train_batches=2, limit_val_batches=0)
        new.fit(Adds(schedule=schedule, optimizer=lambda params: SGD(params, lr=lr)), DigitsDataModule(), **resumed)
        new.save_checkpoint(tmp_path / "added.ckpt")
        return float(new.optimizers[0].param_groups[0]["lr"])

    assert rate_behind(3, 0.1, OwnPlateau) < 0.1
    falling = partial(InverseTime, decay=1)
    assert rate_behind(1, 0.1, falling) == pytest.approx(0.05)
    assert rate_behind(2, 0.01, falling, ckpt_path=tmp_path / "added.ckpt") == pytest.approx(0.01 / 3)


@pytest.mark.parametrize(("before", "after", "goes_on"), [(Adam, AdamW, True), (SGD, AdamW, False)])
def test_kin_among_optimizers_go_on_from_one_another(tmp_path: Path, before: Any, after: Any, goes_on: bool) -> None:
    def run(kind: Any, epochs: int, **resumed: Any) -> Trainer:
        new = trainer(tmp_path, max_epochs=epochs, limit_train_batches=2, limit_val_batches=0)
        new.fit(Pixels(optimizer=lambda params: kind(params, lr=0.01)), DigitsDataModule(), **resumed)
        return new

    run(before, 1).save_checkpoint(tmp_path / "before.ckpt")
    with nullcontext() if goes_on else pytest.raises(UserError, match="SGD, of whose state AdamW can make nothing"):
        assert run(after, 2, ckpt_path=tmp_path / "before.ckpt").global_step == 4


def test_weights_alone_are_not_gone_on_from(tmp_path: Path) -> None:
    new = trainer(tmp_path, limit_train_batches=2, limit_val_batches=0)
    new.fit(Pixels(), DigitsDataModule())
    new.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    with pytest.raises(KeyError, match="contains only the model"):
        trainer(tmp_path, max_epochs=2).fit(Pixels(), DigitsDataModule(), ckpt_path=tmp_path / "weights.ckpt")


def test_who_configures_an_optimizer_in_its_own_way_goes_on_with_it(tmp_path: Path) -> None:
    first = trainer(tmp_path, max_epochs=2, limit_train_batches=2, limit_val_batches=0)
    first.fit(ConfiguresItself(), DigitsDataModule())
    first.save_checkpoint(tmp_path / "first.ckpt")
    rates = Rates()
    second = trainer(tmp_path, max_epochs=3, limit_train_batches=2, limit_val_batches=0, callbacks=[rates])
    second.fit(ConfiguresItself(), DigitsDataModule(), ckpt_path=tmp_path / "first.ckpt")
    assert rates.seen == [0.0025, 0.0025]
    assert second.optimizers[0].param_groups[0]["momentum"] == 0.5


def test_a_resumed_plateau_keeps_its_rate_and_takes_new_settings(tmp_path: Path) -> None:
    class Falling(Pixels):
        def on_train_epoch_end(self) -> None:
            self.log("train/left", -float(self.current_epoch))
            super().on_train_epoch_end()

    def model(lr: float, factor: float) -> Pixels:
        return Falling(
            schedule=lambda o, n: Plateau(o, n, monitor="train/left", mode="max", factor=factor, patience=0),
            optimizer=lambda params: SGD(params, lr=lr),
        )

    first = trainer(tmp_path, max_epochs=3, limit_train_batches=2, limit_val_batches=0)
    first.fit(model(0.1, 0.5), DigitsDataModule())
    rate = first.optimizers[0].param_groups[0]["lr"]
    assert rate < 0.1, "what it monitors falls"
    first.save_checkpoint(tmp_path / "first.ckpt")
    for lr, expected in ((0.1, rate), (0.01, 0.01)):
        rates = Rates()
        second = trainer(tmp_path, max_epochs=4, limit_train_batches=2, limit_val_batches=0, callbacks=[rates])
        second.fit(model(lr, 0.25), DigitsDataModule(), ckpt_path=tmp_path / "first.ckpt")
        plateau = second.lr_scheduler_configs[0].scheduler
        assert isinstance(plateau, Plateau)
        assert plateau.factor == 0.25
        assert rates.seen[0] == pytest.approx(expected)


def test_dropout_differs_between_accumulated_batches(tmp_path: Path) -> None:
    draws: list[float] = []

    class Drawing(Pixels):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            draws.append(torch.rand(1).item())
            return super().training_step(batch, batch_idx)

    run = trainer(tmp_path, limit_train_batches=4, limit_val_batches=0, accumulate_grad_batches=2, max_epochs=2)
    run.fit(Drawing(), DigitsDataModule())
    assert len(draws) == len(set(draws)) == 8


@pytest.mark.parametrize(("batches", "gathered"), [(9, 8), (8, 3), (6, 3), (2, 5)])
def test_an_epochs_last_step_is_the_mean_over_its_batches_too(tmp_path: Path, batches: int, gathered: int) -> None:
    alone: list[torch.Tensor] = []
    steps: list[torch.Tensor] = []

    class Gradients(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, model: LightningModule, optimizer: Optimizer) -> None:
            gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
            (steps if trainer.accumulate_grad_batches > 1 else alone).append(torch.cat(gradients))

    for gather in (1, gathered):
        seed_everything(0)
        model = Pixels(optimizer=lambda params: SGD(params, lr=0.0))
        limits: dict[str, Any] = {"limit_train_batches": batches, "limit_val_batches": 0}
        limits["accumulate_grad_batches"] = gather
        trainer(tmp_path, **limits, callbacks=[Gradients()]).fit(model, DigitsDataModule(batch_size=16))
    whole = [torch.stack(alone[first : first + gathered]).mean(dim=0) for first in range(0, batches, gathered)]
    torch.testing.assert_close(steps, whole)


def test_network_is_laid_out_channels_last() -> None:
    assert ResNetV1(8).net.stem[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_what_was_counted_goes_on_where_the_network_is() -> None:
    before = Scores(3)
    before.update(torch.tensor(0.5), torch.eye(3), torch.arange(3))
    # A device that every machine has, and whose tensors do not mix with those of the host.
    scores = Scores(3).to("meta")
    scores.go_on_from(before.so_far())
    states = [getattr(metric, name) for metric in scores.named().values() for name in metric.metric_state]
    assert {state.device.type for state in states} == {"meta"}
    scores.update(*(tensor.to("meta") for tensor in (torch.tensor(0.5), torch.eye(3), torch.arange(3))))


def test_what_ranks_have_counted_goes_on_on_any_number_of_them() -> None:
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    ranks = [Scores(3) for _ in range(3)]
    for rank, own in enumerate(ranks):
        own.update(
            F.cross_entropy(logits[rank::3], labels[rank::3], reduction="none"), logits[rank::3], labels[rank::3]
        )
    counted = [rank.so_far() for rank in ranks]
    (whole := Scores(3)).update(F.cross_entropy(logits, labels, reduction="none"), logits, labels)
    one, (first, second) = Scores(3), (Scores(3), Scores(3))
    one.go_on_from(together(counted[0::1]))
    first.go_on_from(together(counted[0::2]))
    second.go_on_from(together(counted[1::2]))
    assert [metric.compute() for metric in one.named().values()] == [m.compute() for m in whole.named().values()]
    assert (int(first.loss.count), int(second.loss.count)) == (4, 2)
    assert together([]) == {}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_gradients_are_clipped_also_for_a_fused_optimizer(tmp_path: Path, precision: Any) -> None:
    norms: list[float] = []

    class Clipped(Pixels):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            norms.append(math.hypot(*(float(p.grad.norm()) for p in self.parameters() if p.grad is not None)))

    model = Clipped()
    limits: dict[str, Any] = {"limit_train_batches": 3, "limit_val_batches": 0, "gradient_clip_val": 0.01}
    if precision == "16-mixed":
        # Which Lightning gives to GPUs only.
        limits["plugins"] = MixedPrecision(precision, "cpu", torch.amp.GradScaler("cpu"))
    else:
        limits["precision"] = precision
    run = trainer(tmp_path, **limits)
    run.fit(model, DigitsDataModule())
    assert run.optimizers[0].param_groups[0]["fused"]
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_graphs_that_are_replayed_on_a_gpu_gather_no_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    monkeypatch.setattr(Pixels, "device", torch.device("cuda"))
    model = Pixels(compile_mode=mode)
    model.trainer = trainer(tmp_path, accumulate_grad_batches=2)
    with pytest.raises(UserError, match="compile_mode=default"):
        model.configure_optimizers()
    model.trainer = trainer(tmp_path)
    assert isinstance(model.configure_optimizers(), SGD)
