"""A teacher's outputs enter the loss as stated, and nothing else of a run changes."""

import os
import re
import shutil
from collections.abc import Mapping
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from albumentations import Normalize
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor

from benchmarks.accuracy import QUIET
from cifar_lit.callbacks import distillation
from cifar_lit.callbacks.checkpoint import LastCheckpoint
from cifar_lit.callbacks.distillation import Distillation
from cifar_lit.checkpoint_content import load_checkpoint
from cifar_lit.cli import main
from cifar_lit.data import DigitsDataModule
from cifar_lit.errors import UserError
from cifar_lit.models import DepthwiseNet

SMALL: dict[str, Any] = {"widths": [[8], [8]], "dropout": [0.0, 0.0], "num_classes": 10}
STUDENT = ["--model=DepthwiseNet", "--model.widths=[[8],[8]]", "--model.dropout=[0.1,0]"]
RUN = ["--data=DigitsDataModule", "--trainer.accelerator=cpu", "--trainer.limit_train_batches=4"]
RUN += ["--trainer.limit_val_batches=1", *QUIET]

pytestmark = [
    pytest.mark.filterwarnings("ignore:(?s).*[dD]ir(path|ectory)"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]


def a_teacher(path: Path, seed: int = 0, data: Mapping[str, Any] | None = None, **settings: Any) -> str:
    """Writes a checkpoint as `fit` does."""
    torch.manual_seed(seed)
    settings = {**SMALL, **settings}
    model = DepthwiseNet(**settings)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    content = {
        "hyper_parameters": {"_class_path": "cifar_lit.models.DepthwiseNet", **settings, "compile_mode": "none"},
        "datamodule_hyper_parameters": {"normalize": "channel", "val_size": 0.1, "split_seed": 0, **(data or {})},
        "state_dict": model.state_dict(),
    }
    torch.save(content, path)
    return str(path)


def started(
    callback: Distillation, student: LightningModule | None = None, data: DigitsDataModule | None = None
) -> Distillation:
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    student = DepthwiseNet(**SMALL) if student is None else student
    trainer.datamodule = data or DigitsDataModule()  # type: ignore[attr-defined]
    callback.setup(trainer, student, "fit")
    callback.on_fit_start(trainer, student)
    return callback


def weights_of(run: Path) -> dict[str, Tensor]:
    (path,) = run.rglob("last*.ckpt")
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def fit(root: Path, *options: str, epochs: int = 2) -> dict[str, Tensor]:
    main(["fit", *STUDENT, *RUN, f"--trainer.default_root_dir={root}", f"--trainer.max_epochs={epochs}", *options])
    return weights_of(root)


def with_teacher(path: str, **settings: float) -> list[str]:
    options = ["--trainer.callbacks+=Distillation", f"--trainer.callbacks.teacher={path}"]
    return options + [f"--trainer.callbacks.{name}={value}" for name, value in settings.items()]


@pytest.mark.parametrize(("weight", "temperature"), [(0.9, 4.0), (0.3, 1.0), (1.0, 2.0)])
def test_the_loss_is_the_published_one(weight: float, temperature: float, tmp_path: Path) -> None:
    path = a_teacher(tmp_path / "teacher.ckpt", seed=1)
    callback = started(Distillation(path, weight, temperature))
    teacher = DepthwiseNet(**SMALL)
    teacher.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    images, logits = torch.randn(5, 3, 32, 32), torch.randn(5, 10, requires_grad=True)
    hard = F.cross_entropy(logits, torch.arange(5))
    with torch.no_grad():
        soft = (teacher.eval()(images).double() / temperature).softmax(1)
    kl = (soft * (soft.log() - (logits.double() / temperature).log_softmax(1))).sum(1).mean()
    loss = callback.loss(images, logits, hard)
    torch.testing.assert_close(loss, ((1 - weight) * hard.double() + weight * temperature**2 * kl).float())
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.abs().max() > 0


def test_a_student_that_answers_alike_has_nothing_to_learn_from_the_teacher(tmp_path: Path) -> None:
    callback = started(Distillation(path := a_teacher(tmp_path / "teacher.ckpt"), weight=1.0))
    twin = DepthwiseNet(**SMALL).eval()
    twin.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    images = torch.randn(7, 3, 32, 32)
    assert callback.loss(images, twin(images), torch.tensor(9.0)).item() == pytest.approx(0, abs=1e-5)


def test_at_weight_zero_a_run_is_the_same_to_the_bit_and_at_another_it_is_not(tmp_path: Path) -> None:
    path = a_teacher(tmp_path / "teacher.ckpt")
    before = Path(path).read_bytes()
    alone = fit(tmp_path / "alone")
    none = fit(tmp_path / "none", *with_teacher(path, weight=0))
    much = fit(tmp_path / "much", *with_teacher(path, weight=0.9))
    assert alone.keys() == none.keys() == much.keys()  # the teacher is not in the checkpoint
    assert all(torch.equal(alone[name], none[name]) for name in alone)
    assert not all(torch.equal(alone[name], much[name]) for name in alone)
    assert Path(path).read_bytes() == before


def test_a_student_comes_near_its_teacher(tmp_path: Path) -> None:
    seed_everything(0)
    data = DigitsDataModule()
    path = a_teacher(tmp_path / "teacher.ckpt", seed=3)
    student = DepthwiseNet(**SMALL)
    teacher = DepthwiseNet(**SMALL).eval()
    teacher.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    callback = Distillation(path, weight=1.0, temperature=1.0)
    trainer = Trainer(max_epochs=6, accelerator="cpu", limit_val_batches=0, callbacks=[callback], **settings)

    def apart() -> float:
        with torch.no_grad():
            answers = [net.eval()(images).softmax(1) for net in (student, teacher)]
        return float((answers[0] - answers[1]).abs().mean())

    images = torch.randn(64, 3, 32, 32)
    before = apart()
    trainer.fit(student, datamodule=data)
    assert apart() < before / 2
    assert student.taught is None


class BrokenOff(Callback):
    def on_train_batch_end(self, *args: object) -> None:
        raise KeyError("broken off")


def test_a_fit_that_is_broken_off_leaves_no_teacher_in_the_student(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    callbacks = [Distillation(a_teacher(tmp_path / "teacher.ckpt")), BrokenOff()]
    student = DepthwiseNet(**SMALL)
    with pytest.raises(KeyError, match="broken off"):
        Trainer(max_epochs=1, accelerator="cpu", callbacks=callbacks, **settings).fit(student, DigitsDataModule())
    assert student.taught is None


def test_a_run_of_python_may_teach(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "limit_train_batches": 1}
    trainer = Trainer(max_epochs=1, accelerator="cpu", enable_checkpointing=False, **settings)
    trainer.fit(DepthwiseNet(**SMALL), DigitsDataModule())
    trainer.save_checkpoint(tmp_path / "teacher.ckpt")
    (data := DigitsDataModule()).setup()
    callback = started(Distillation(tmp_path / "teacher.ckpt", weight=1.0), data=data)
    images, logits = torch.randn(3, 3, 32, 32), torch.randn(3, 10)
    assert callback.loss(images, logits, torch.tensor(0.0)) > 0
    # What normalised for a run is not in its checkpoint where it was given as an object; that it did is.
    (data := DigitsDataModule(transforms=[Normalize()])).setup()
    with pytest.raises(UserError, match="were normalised by their transforms, and the others were not"):
        started(Distillation(tmp_path / "teacher.ckpt"), data=data)


@pytest.mark.parametrize("changed", [False, True])
def test_a_resumed_run_goes_on_to_the_bit_with_its_teacher_and_with_no_other(changed: bool, tmp_path: Path) -> None:
    path = a_teacher(tmp_path / "teacher.ckpt")
    whole = fit(tmp_path / "whole", *with_teacher(path))
    root = tmp_path / "parts"
    fit(root, *with_teacher(path), epochs=1)
    if changed:
        # Its own run has gone on, for one.
        a_teacher(Path(path), seed=2)
    resumed = fit(root, *with_teacher(path), "--ckpt_path=last")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    other = a_teacher(tmp_path / "other.ckpt", seed=1)
    with pytest.raises(SystemExit) as end:
        fit(root, *with_teacher(other), "--ckpt_path=last", epochs=3)
    assert f"{other} is not the teacher that this run began with" in str(end.value.code)


def test_the_teacher_is_named_and_other_commands_do_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = a_teacher(tmp_path / "teacher.ckpt")
    fit(tmp_path / "run", *with_teacher(path))
    assert f"Teacher: DepthwiseNet of {path}" in capsys.readouterr().out
    Path(path).unlink()
    main(["test", f"--trainer.default_root_dir={tmp_path / 'run'}", "--trainer.accelerator=cpu"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weight": -0.1}, "weight is -0.1"),
        ({"weight": 1.1}, "weight is 1.1"),
        ({"temperature": 0}, "temperature is 0"),
    ],
)
def test_arguments_out_of_range(settings: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Distillation("teacher.ckpt", **settings)


def test_a_runs_folder_means_its_last_checkpoint(tmp_path: Path) -> None:
    path = a_run(tmp_path, "depthwise", 0, seed=1)
    teaching = Distillation(str(path.parent.parent))
    started(teaching)
    assert teaching.path == path


def test_a_teacher_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no teacher .*none\.ckpt"):
        started(Distillation(str(tmp_path / "none.ckpt")))


def a_run(root: Path, recipe: str, version: int, seed: int) -> Path:
    """A teacher among the runs, as old as its seed says."""
    folder = root / "lightning_logs" / recipe / f"version_{version}" / "checkpoints"
    folder.mkdir(parents=True)
    path = a_teacher(folder / "last.ckpt", seed=seed)
    os.utime(path, (seed, seed))
    return Path(path)


def test_a_recipe_as_the_teacher_is_its_newest_run_and_a_run_keeps_a_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = a_run(tmp_path, "teacher", version=0, seed=2)
    learnt = newest.read_bytes()
    a_run(tmp_path, "teacher", version=1, seed=1)
    a_run(tmp_path, "other", version=0, seed=3)
    root = f"--trainer.default_root_dir={tmp_path}"
    taught = [*STUDENT, *RUN, root, *with_teacher("teacher")]
    main(["fit", *taught, "--trainer.max_epochs=1"])
    assert f"Teacher: DepthwiseNet of {newest}" in capsys.readouterr().out
    run = tmp_path / "lightning_logs" / "DepthwiseNet" / "version_0"
    copy = run / "teacher.ckpt"
    assert copy.read_bytes() == learnt
    # Whoever runs the run's settings again has the same teacher.
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert [c["init_args"]["teacher"] for c in config["trainer"]["callbacks"]] == [str(copy)]
    # There is a newer one meanwhile, and the teacher's own run has gone on; later nothing is left but the copy.
    later = a_run(tmp_path, "teacher", version=2, seed=4)
    a_teacher(newest, seed=5)
    resume = ["fit", *taught, f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}"]
    main([*resume, "--trainer.max_epochs=2"])
    assert f"Teacher: DepthwiseNet of {copy}" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "lightning_logs" / "teacher")
    main([*resume, "--trainer.max_epochs=3"])
    assert f"Teacher: DepthwiseNet of {copy}" in capsys.readouterr().out
    copy.unlink()
    with pytest.raises(SystemExit) as end:
        main([*resume, "--trainer.max_epochs=4"])
    assert "holds no run of the teacher teacher" in str(end.value.code)
    a_run(tmp_path, "teacher", version=2, seed=4)
    with pytest.raises(SystemExit) as end:
        main([*resume, "--trainer.max_epochs=4"])
    assert f"{later} is not the teacher that this run began with, whose copy was {copy}: give" in str(end.value.code)


def test_a_run_whose_folder_was_taken_elsewhere_goes_on_with_its_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = a_teacher(tmp_path / "teacher.ckpt")
    fit(tmp_path / "here", *with_teacher(path), epochs=1)
    Path(path).unlink()
    (tmp_path / "here").rename(tmp_path / "elsewhere")
    fit(tmp_path / "elsewhere", *with_teacher(path), "--ckpt_path=last")
    (copy,) = (tmp_path / "elsewhere").rglob("version_0/teacher.ckpt")
    assert f"Teacher: DepthwiseNet of {copy}" in capsys.readouterr().out
    # Also by its own settings, which name the copy where it was; and then still as it was first asked for.
    (tmp_path / "elsewhere").rename(tmp_path / "there")
    (config,) = (tmp_path / "there").rglob("version_0/config.yaml")
    root = f"--trainer.default_root_dir={tmp_path / 'there'}"
    main(["fit", f"--config={config}", root, "--ckpt_path=last", "--trainer.max_epochs=3"])
    assert f"Teacher: DepthwiseNet of {config.with_name('teacher.ckpt')}" in capsys.readouterr().out
    fit(tmp_path / "there", *with_teacher(path), "--ckpt_path=last", epochs=4)
    assert f"Teacher: DepthwiseNet of {config.with_name('teacher.ckpt')}" in capsys.readouterr().out


def test_a_callback_without_a_list_keeps_its_teacher_too(tmp_path: Path) -> None:
    a_run(tmp_path, "teacher", version=0, seed=1)
    (tmp_path / "alone.yaml").write_text(
        "trainer: {max_epochs: 1, callbacks: {class_path: Distillation, init_args: {teacher: teacher}}}"
    )
    main(["fit", f"--config={tmp_path / 'alone.yaml'}", *STUDENT, *RUN, f"--trainer.default_root_dir={tmp_path}"])
    config = tmp_path / "lightning_logs" / "alone" / "version_0" / "config.yaml"
    callback = yaml.safe_load(config.read_text(encoding="utf-8"))["trainer"]["callbacks"]
    assert callback["init_args"]["teacher"] == str(config.with_name("teacher.ckpt"))


def test_a_recipe_that_was_never_run_does_not_teach(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", *STUDENT, *RUN, f"--trainer.default_root_dir={tmp_path}", *with_teacher("nobody")])
    assert "lightning_logs holds no run of the teacher nobody: train that recipe first" in str(end.value.code)


def test_a_teacher_of_other_classes(tmp_path: Path) -> None:
    path = a_teacher(tmp_path / "teacher.ckpt", num_classes=7)
    with pytest.raises(UserError, match="knows 7 classes, and the data have 10"):
        started(Distillation(path))


def test_a_teacher_that_saw_other_images(tmp_path: Path) -> None:
    path = a_teacher(tmp_path / "teacher.ckpt", data={"normalize": "none"})
    with pytest.raises(UserError, match="normalize: none, and these have channel"):
        started(Distillation(path))


def test_a_teacher_whose_list_of_transforms_normalised(tmp_path: Path) -> None:
    def listed(*names: str) -> dict[str, Any]:
        return {"transforms": [{"class_path": f"albumentations.{name}"} for name in names]}

    data = DigitsDataModule()
    data.hparams.update(listed("HorizontalFlip"))
    started(Distillation(a_teacher(tmp_path / "alike.ckpt", data=listed("VerticalFlip"))), data=data)
    path = a_teacher(tmp_path / "teacher.ckpt", data=listed("VerticalFlip", "ToFloat"))
    with pytest.raises(UserError, match="do not normalise alike"):
        started(Distillation(path), data=data)


@pytest.mark.parametrize(
    ("learnt", "words"),
    [
        ({}, ""),
        ({"mean": 1.0}, ""),
        ({"mean": 40.0}, "had another mean or deviation"),
        ({"std": 40.0}, "had another mean or deviation"),
        ({"mean": torch.zeros(3, 32, 32)}, "had another mean or deviation"),
        ({"class_names": [*"0123456798"]}, "has learnt other classes than those of the data (9 where they have 8)"),
    ],
)
def test_a_teacher_of_classes_or_images_of_another_kind(learnt: dict[str, Any], words: str, tmp_path: Path) -> None:
    data = DigitsDataModule()
    data.setup()
    state = data.state_dict()
    changed = {key: state[key] + value if isinstance(value, float) else value for key, value in learnt.items()}
    path = a_teacher(tmp_path / "teacher.ckpt")
    torch.save({**torch.load(path, weights_only=True), "DigitsDataModule": {**state, **changed}}, path)
    if not words:
        started(Distillation(path), data=data)
        return
    with pytest.raises(UserError, match=re.escape(words)):
        started(Distillation(path), data=data)


def test_a_teacher_that_trained_on_what_is_held_out_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = DigitsDataModule().hparams
    started(Distillation(a_teacher(tmp_path / "same.ckpt", data={"val_size": own["val_size"]})))
    assert "too good" not in capsys.readouterr().out
    teacher = Distillation(a_teacher(tmp_path / "all.ckpt", data={"val_size": 0.3}))
    # That validates on images of the test split.
    started(teacher, data=DigitsDataModule(val_size=0))
    assert "too good" not in capsys.readouterr().out
    started(Distillation(a_teacher(tmp_path / "all.ckpt", data={"val_size": 0})))
    assert "validation accuracy is too good" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["os.System", "torch.nn.ReLU", "cifar_lit.cli.CifarCLI", None])
def test_a_checkpoint_does_not_choose_what_is_imported(name: str | None, tmp_path: Path) -> None:
    content = torch.load(a_teacher(tmp_path / "teacher.ckpt"), weights_only=True)
    content["hyper_parameters"]["_class_path"] = name
    torch.save(content, tmp_path / "teacher.ckpt")
    with pytest.raises(UserError, match="of none of cifar_lit's architectures"):
        started(Distillation(str(tmp_path / "teacher.ckpt")))


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    content = torch.load(a_teacher(tmp_path / "teacher.ckpt"), weights_only=True)
    content["hyper_parameters"]["widths"] = [[9], [8]]
    torch.save(content, tmp_path / "teacher.ckpt")
    with pytest.raises(UserError, match="does not fit its architecture"):
        started(Distillation(str(tmp_path / "teacher.ckpt")))


def test_building_a_teacher_draws_nothing(tmp_path: Path) -> None:
    """A DataLoader of one's own draws its order behind it."""
    path = a_teacher(tmp_path / "teacher.ckpt")
    student = DepthwiseNet(**SMALL)
    before = torch.get_rng_state()
    started(Distillation(path), student)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_teacher_whose_file_is_replaced_is_the_one_that_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = Path(a_teacher(tmp_path / "teacher.ckpt")), a_teacher(tmp_path / "other.ckpt", seed=1)
    expected = path.read_bytes()

    def replaced_meanwhile(*args: Any) -> dict[str, Any]:
        shutil.copy(other, path)
        return load_checkpoint(*args)

    monkeypatch.setattr(distillation, "load_checkpoint", replaced_meanwhile)
    callback = started(Distillation(path))
    assert callback.state_dict()["teacher"] == sha256(expected).hexdigest()
    assert callback._teacher is not None
    weights = torch.load(BytesIO(expected), weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in callback._teacher.state_dict().items())


def test_a_new_fit_may_have_another_teacher_than_the_run_that_was_tested(tmp_path: Path) -> None:
    path = Path(a_teacher(tmp_path / "teacher.ckpt"))
    callback, last = Distillation(path), LastCheckpoint()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options: dict[str, Any] = {"default_root_dir": tmp_path, "max_epochs": 1, "limit_train_batches": 1}
    options |= {"limit_val_batches": 1, "limit_test_batches": 1}
    trainer = Trainer(accelerator="cpu", callbacks=[callback, last], **options, **quiet)
    data, student = DigitsDataModule(val_size=0.1), DepthwiseNet(**SMALL)
    trainer.fit(student, datamodule=data)
    trainer.test(student, datamodule=data, ckpt_path=last.best_model_path, verbose=False)
    other = a_teacher(tmp_path / "other.ckpt", seed=1)
    shutil.copy(other, path)
    trainer = Trainer(accelerator="cpu", callbacks=[callback, last], **options, **quiet)
    trainer.fit(student, datamodule=data)
    assert callback.state_dict()["teacher"] == sha256(Path(other).read_bytes()).hexdigest()


class StepOfItsOwn(DepthwiseNet):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


def test_a_step_that_leaves_the_teacher_out_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = Distillation(a_teacher(tmp_path / "teacher.ckpt"))
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    said = []
    for student in (StepOfItsOwn(**SMALL), DepthwiseNet(**SMALL)):
        trainer = Trainer(max_epochs=2, limit_train_batches=1, accelerator="cpu", callbacks=[callback], **quiet)
        trainer.fit(student, datamodule=DigitsDataModule(val_size=0.1))
        said.append(capsys.readouterr().out.count("The training_step of StepOfItsOwn has not asked the teacher: it"))
    assert said == [1, 0]


def test_ranks_that_read_different_teachers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", lambda _self, _object: "that of rank zero")
    with pytest.raises(UserError, match="changed while it was read: start again, or give a copy of it"):
        started(Distillation(a_teacher(tmp_path / "teacher.ckpt")))


def test_a_module_without_the_loss(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the loss of a Classifier, which LightningModule is not"):
        started(Distillation(a_teacher(tmp_path / "teacher.ckpt")), LightningModule())


def test_scores_are_of_the_loss_that_was_trained_on(tmp_path: Path) -> None:
    losses = {}
    for weight in (0.0, 1.0):
        seed_everything(0)
        student = DepthwiseNet(**SMALL)
        started(Distillation(a_teacher(tmp_path / "teacher.ckpt"), weight=weight), student)
        batch = torch.randn(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64)
        student.eval()
        losses[weight] = student.training_step(batch, 0).item()
        assert float(student.train_scores.named()["loss"].compute()) == pytest.approx(losses[weight])
    assert not np.isclose(losses[0.0], losses[1.0])


def test_a_teacher_of_images_of_another_size_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = DigitsDataModule()
    data.setup()
    path = a_teacher(tmp_path / "teacher.ckpt")
    torch.save(
        {**torch.load(path, weights_only=True), "DigitsDataModule": {**data.state_dict(), "image_size": 64}}, path
    )
    started(Distillation(path), data=data)
    assert "its images had 64 pixels a side, and these have 32" in capsys.readouterr().out
