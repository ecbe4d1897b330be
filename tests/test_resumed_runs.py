"""What a resumed run goes on with beside weights: an optimizer's own progress, one's own order of images, the best."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset

from cifar_lit.callbacks.checkpoint import BestCheckpoint, LastCheckpoint
from cifar_lit.callbacks.endings import last_words
from cifar_lit.data import DigitsDataModule
from cifar_lit.models import DepthwiseNet
from cifar_lit.stepping import seed_order

IMAGES = 24


class Numbered(Dataset[tuple[Tensor, Tensor]]):
    """Images that are their own number, and labels."""

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.full((3, 32, 32), float(index)), torch.tensor(index % 10)


class Estimating(SGD):
    """Takes shorter and shorter steps, by a count among its groups' settings, as Prodigy keeps its estimates."""

    def __init__(self, params: Iterable[Any], lr: float = 0.01, shrink: float = 0.9) -> None:
        super().__init__(params, lr=lr)
        self.defaults |= {"taken": 0, "shrink": shrink}
        for group in self.param_groups:
            group.setdefault("taken", 0)
            group.setdefault("shrink", shrink)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= group["shrink"] ** group["taken"]
            group["taken"] += 1
        loss = super().step(closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        return loss


class Order(Callback):
    """The first image of each batch, by epoch."""

    def __init__(self) -> None:
        self.seen: dict[int, list[int]] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.setdefault(trainer.current_epoch, []).append(int(batch[0][0, 0, 0, 0]))


def fit(
    folder: Path,
    epochs: int,
    ckpt_path: Path | None = None,
    optimizer: Any = Estimating,
    batch_size: int = 4,
    **settings: Any,
) -> tuple[DepthwiseNet, Trainer]:
    seed_everything(3)
    model = DepthwiseNet(widths=[[8], [8]], dropout=[0.2, 0.2], optimizer=optimizer)
    # All of them.
    best = BestCheckpoint(dirpath=folder, monitor="val/loss", filename="best-{step}", save_top_k=-1)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=epochs,
        callbacks=[best, LastCheckpoint(), Order()],
        **settings,
    )
    loader = DataLoader(Numbered(), batch_size, shuffle=True)
    trainer.fit(model, loader, DataLoader(Numbered(), IMAGES), ckpt_path=ckpt_path, weights_only=True)
    return model, trainer


def order(trainer: Trainer) -> dict[int, list[int]]:
    return next(c for c in trainer.callbacks if isinstance(c, Order)).seen  # type: ignore[attr-defined]


def last(folder: Path) -> Path:
    (found,) = folder.rglob("last.ckpt")
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[DepthwiseNet, Trainer]:
    """A run of three epochs that nobody stopped."""
    return fit(tmp_path_factory.mktemp("whole"), 3)


def test_what_an_optimizer_has_found_out_goes_on(whole: tuple[DepthwiseNet, Trainer], tmp_path: Path) -> None:
    fit(tmp_path, 2)
    model, trainer = fit(tmp_path, 3, last(tmp_path))
    assert {group["taken"] for group in trainer.optimizers[0].param_groups} == {3 * IMAGES // 4}
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, whole[0].state_dict()[name]), name


def test_its_settings_are_those_of_the_run_that_goes_on(tmp_path: Path) -> None:
    fit(tmp_path, 1)
    _, trainer = fit(tmp_path, 2, last(tmp_path), optimizer=lambda params: Estimating(params, lr=0.5, shrink=0.8))
    (group,) = {(group["lr"], group["shrink"], group["taken"]) for group in trainer.optimizers[0].param_groups}
    assert group == (0.5, 0.8, 2 * IMAGES // 4)


class Passing(SGD):
    """Passes its arguments on under names of their own, as SAM does."""

    def __init__(self, params: Iterable[Any], lr: float = 0.01, **others: Any) -> None:
        super().__init__(params, lr=lr)
        self.defaults.update(others)
        for group in self.param_groups:
            group.update(others)


def test_a_setting_that_no_argument_names_is_the_runs_too(tmp_path: Path) -> None:
    fit(tmp_path, 1, optimizer=lambda params: Passing(params, rho=0.05, kept="a"))
    _, trainer = fit(tmp_path, 2, last(tmp_path), optimizer=lambda params: Passing(params, rho=0.1, kept="a"))
    assert [group["rho"] for group in trainer.optimizers[0].param_groups] == [0.1, 0.1]


def test_a_loader_of_ones_own_goes_on_with_the_order_of_the_next_epoch(
    whole: tuple[DepthwiseNet, Trainer], tmp_path: Path
) -> None:
    orders = order(whole[1])
    assert len({*map(tuple, orders.values())}) == 3
    first = order(fit(tmp_path, 1)[1])
    second = order(fit(tmp_path, 2, last(tmp_path))[1])
    third = order(fit(tmp_path, 3, last(tmp_path))[1])
    assert {**first, **second, **third} == orders
    assert [*first, *second, *third] == [0, 1, 2]


def test_inside_an_epoch_it_does_not_begin_with_the_images_that_were_just_learnt(
    whole: tuple[DepthwiseNet, Trainer], tmp_path: Path
) -> None:
    fit(tmp_path, -1, max_steps=9)
    # Lightning begins the loader anew, and takes what is left of the number of batches.
    resumed = order(fit(tmp_path, 2, last(tmp_path))[1])[1]
    assert len(resumed) == 3
    assert resumed != order(whole[1])[1][:3]


def test_behind_a_fit_that_is_over_the_next_epoch_is_the_next_one(
    whole: tuple[DepthwiseNet, Trainer], tmp_path: Path
) -> None:
    _, trainer = fit(tmp_path, 2)
    trainer.save_checkpoint(tmp_path / "over.ckpt")
    assert order(fit(tmp_path / "behind", 3, tmp_path / "over.ckpt")[1]) == {2: order(whole[1])[2]}


def test_every_number_of_batches_gives_another_order() -> None:
    orders = []
    for batches in range(4):
        seed_order(1, batches)
        orders.append(tuple(torch.randperm(100).tolist()))
    assert len(set(orders)) == 4


def test_without_a_seed_the_order_is_left_to_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    chance = torch.get_rng_state()
    seed_order(0)
    assert not torch.equal(torch.get_rng_state(), chance)
    torch.set_rng_state(chance)
    monkeypatch.delenv("PL_GLOBAL_SEED")
    seed_order(0)
    assert torch.equal(torch.get_rng_state(), chance)


def test_gradients_that_a_checkpoint_does_not_hold_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gathered: dict[str, Any] = {"batch_size": 2, "accumulate_grad_batches": 4, "val_check_interval": 6}
    fit(tmp_path, 1, **gathered)
    assert "lost" not in capsys.readouterr().out
    fit(tmp_path / "behind", 1, tmp_path / "best-step=1.ckpt", **gathered)
    assert "middle of a step: the gradients of 2 of its 4 batches are lost" in capsys.readouterr().out
    # Whatever is gathered from now on.
    fit(tmp_path / "other", 1, tmp_path / "best-step=1.ckpt", **{**gathered, "accumulate_grad_batches": 2})
    assert "the gradients of 2 of its 4 batches are lost" in capsys.readouterr().out
    fit(tmp_path / "end", 2, tmp_path / "best-step=3.ckpt", **{**gathered, "accumulate_grad_batches": 5})
    assert "lost" not in capsys.readouterr().out


def test_the_best_so_far_that_is_elsewhere_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path / "before", 1)
    alone = Path(shutil.copy(last(tmp_path / "before"), tmp_path / "mine.ckpt"))
    fit(tmp_path / "before", 2, last(tmp_path / "before"))
    assert "best so far" not in capsys.readouterr().out
    fit(tmp_path / "behind", 2, alone)
    said = capsys.readouterr().out
    assert "The best so far (best-step=6.ckpt, val/loss " in said
    assert "is not in this run's folder: the best is chosen among the epochs to come." in said


def test_the_best_of_another_run_is_not_named_as_this_ones(tmp_path: Path) -> None:
    fit(tmp_path / "before", 1)
    alone = Path(shutil.copy(last(tmp_path / "before"), tmp_path / "mine.ckpt"))
    # Nothing is left to do, and so there is no best here.
    _, trainer = fit(tmp_path / "behind", 1, alone)
    assert not [line for line in last_words(trainer) if "Best checkpoint" in line]
    _, trainer = fit(tmp_path / "behind", 2, alone)
    (line,) = (line for line in last_words(trainer) if "Best checkpoint" in line)
    assert str(tmp_path / "behind") in line


def test_what_is_validated_no_more_is_no_best(tmp_path: Path) -> None:
    fit(tmp_path / "begun", 1)
    alone = Path(shutil.copy(last(tmp_path / "begun"), tmp_path / "mine.ckpt"))
    _, trainer = fit(tmp_path / "on", 2, alone, limit_val_batches=0)
    assert not [name for name in trainer.callback_metrics if name.startswith("val/")]
    assert not [*(tmp_path / "on").rglob("best-*.ckpt")]


def test_a_number_among_the_metrics_is_no_obstacle(tmp_path: Path) -> None:
    class Writes(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.callback_metrics["mine"] = 0.5  # type: ignore[assignment]

    seed_everything(3)
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=[Writes(), LastCheckpoint()], **options)
    loader = DataLoader(Numbered(), 4)
    trainer.fit(DepthwiseNet(widths=[[8], [8]], dropout=[0.2, 0.2]), loader, loader)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert "mine" not in torch.load(tmp_path / "x.ckpt", weights_only=True)["monitored"]


def test_what_was_logged_last_is_there_when_nothing_is_logged_any_more(tmp_path: Path) -> None:
    every: dict[str, Any] = {"check_val_every_n_epoch": 2}
    _, whole = fit(tmp_path / "whole", 3, **every)
    # Stopped behind the only validation.
    fit(tmp_path / "begun", 2, **every)
    _, resumed = fit(tmp_path / "begun", 3, last(tmp_path / "begun"), **every)
    assert whole.callback_metrics.keys() == resumed.callback_metrics.keys() >= {"val/loss", "val/accuracy"}
    assert all(torch.equal(value, resumed.callback_metrics[name]) for name, value in whole.callback_metrics.items())


def test_the_last_checkpoint_is_of_the_last_fit(tmp_path: Path) -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    last = LastCheckpoint()
    for _ in range(2):
        options: dict[str, Any] = {"default_root_dir": tmp_path, "max_epochs": 1, "limit_train_batches": 2}
        trainer = Trainer(accelerator="cpu", callbacks=[last], limit_val_batches=1, **options, **quiet)
        # As many steps each, from weights of their own.
        model = DepthwiseNet(widths=[[4], [4]], dropout=[0.0, 0.0])
        trainer.fit(model, DigitsDataModule(batch_size=16))
        kept = torch.load(last.best_model_path, weights_only=True)["state_dict"]
        assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())


def test_by_the_clock_ranks_ask_each_other_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    # Never where validation is due, be it every tenth step.
    monkeypatch.setattr("cifar_lit.callbacks.checkpoint.may_pause", lambda trainer, _: trainer.global_step % 10 != 0)
    monkeypatch.setattr(
        ModelCheckpoint, "on_train_batch_end", lambda _, trainer, *__: asked.append(trainer.global_step)
    )
    for ranks, expected in ((1, [step for step in range(1, 31) if step % 10]), (2, [11, 22])):
        asked.clear()
        by_clock: Any = LastCheckpoint(60)
        for step in range(1, 31):
            by_clock.on_train_batch_end(SimpleNamespace(world_size=ranks, global_step=step), None, None, None, 0)
        assert asked == expected
