"""A loss that is no number stops a run before it costs anything."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from cifar_lit.callbacks.checkpoint import LastCheckpoint
from cifar_lit.callbacks.finite_loss import FiniteLoss
from cifar_lit.data import DigitsDataModule
from cifar_lit.errors import UserError
from cifar_lit.models import DepthwiseNet


class Diverging(DepthwiseNet):
    """Its loss is as given in the fourth step of the second epoch."""

    def __init__(self, loss: float) -> None:
        super().__init__(widths=[[4], [4]], dropout=[0.0, 0.0])
        self.loss = loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * self.loss if (self.current_epoch, batch_idx) == (1, 3) else loss


def fit(folder: Path, loss: float, stop: bool = True, kind: type[Diverging] = Diverging) -> Diverging:
    model = kind(loss)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=2,
        limit_train_batches=5,
        limit_val_batches=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FiniteLoss(stop), LastCheckpoint()],
    )
    trainer.fit(model, DigitsDataModule(batch_size=16))
    return model


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_stops_within_the_step_and_keeps_the_last_finite_checkpoint(tmp_path: Path, loss: float) -> None:
    with pytest.raises(UserError, match=r"The loss is -?(nan|inf) in step 9, at a learning rate of 0\.1"):
        fit(tmp_path, loss)
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 5
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


class Overflowing(Diverging):
    """Its weights are infinite behind the last step of the second epoch, whose loss was none of that."""

    def optimizer_step(self, epoch: int, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(epoch, batch_idx, *args, **kwargs)
        if (epoch, batch_idx) == (1, 4):
            next(self.parameters()).data.fill_(float("inf"))


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Weights are no numbers any more behind step 10, and are not saved"):
        fit(tmp_path, 1.0, kind=Overflowing)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5


def test_goes_on_when_told_to(tmp_path: Path) -> None:
    model = fit(tmp_path, float("nan"), stop=False)
    assert not all(value.isfinite().all() for value in model.state_dict().values())


def test_a_loss_on_a_gpu_is_looked_at_when_it_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for CUDA's events: the first loss arrives after two more steps."""

    class Event:
        made = 0

        def __init__(self) -> None:
            Event.made += 1
            self.number = Event.made

        def record(self) -> None: ...

        def query(self) -> bool:
            return Event.made >= self.number + 2

        def synchronize(self) -> None: ...

    class OnGpu:
        is_cuda, dtype = True, torch.float32

        def __init__(self, value: float) -> None:
            self.value = value

        def detach(self) -> Tensor:
            return torch.tensor(self.value)

    class Run:
        global_step = 0

        class Optimizer:
            param_groups = ({"lr": 0.5, "params": ()},)

        optimizers = (Optimizer(),)

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory: empty(shape, dtype=dtype))
    watch, run, module = FiniteLoss(), Run(), None
    for step, value in enumerate([float("nan"), 1.0]):
        run.global_step = step
        watch.on_before_backward(run, module, OnGpu(value))  # type: ignore[arg-type]
    run.global_step = 2
    with pytest.raises(UserError, match=r"nan in step 1, at a learning rate of 0\.5"):
        watch.on_before_backward(run, module, OnGpu(1.0))  # type: ignore[arg-type]
    run.global_step = 3
    watch.on_before_backward(run, module, OnGpu(float("inf")))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="inf in step 4"):
        watch.on_save_checkpoint(run, module, {})  # type: ignore[arg-type]
    watch.on_before_backward(run, module, OnGpu(float("inf")))  # type: ignore[arg-type]
    # Another fit is not ended by what this one left behind; but this one by its last loss.
    watch.on_train_start(run, module)  # type: ignore[arg-type]
    watch.on_train_end(run, module)  # type: ignore[arg-type]
    watch.on_before_backward(run, module, OnGpu(float("inf")))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="inf in step 4"):
        watch.on_train_end(run, module)  # type: ignore[arg-type]
