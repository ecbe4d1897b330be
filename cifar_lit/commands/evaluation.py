"""What the commands share that look into a trained network: its weights, its predictions, where they come from."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn

import cifar_lit
from cifar_lit.checkpoint_content import epochs_in, is_chosen_by_test, load_checkpoint
from cifar_lit.classes import check_classes
from cifar_lit.commands.outputs import logits_of
from cifar_lit.console import printable
from cifar_lit.errors import UserError
from cifar_lit.explain.network import cam_layer_of, network_of
from cifar_lit.explain.network import modes_kept as modes_kept  # shared from here
from cifar_lit.explain.scoring import Predictions
from cifar_lit.identity import fingerprint
from cifar_lit.plain import class_path_of

#: A trainer's attributes that leave test images out.
LIMITS = ("limit_test_batches", "limit_predict_batches")


@runtime_checkable
class ImageData(Protocol):
    """What these commands ask of a data module, as `ImageDataModule` has it."""

    #: With ``pixels``, uint8 (N, H, W, 3), RGB, and ``labels``, int64 (N,); None before `setup`.
    test_images: Any

    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102

    def prepare_data(self) -> None: ...  # noqa: D102

    def setup(self, stage: str) -> None: ...  # noqa: D102

    def predict_dataloader(self) -> Iterable[tuple[Tensor, Tensor]]: ...  # noqa: D102

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any: ...  # noqa: D102


def image_data(datamodule: LightningDataModule | None) -> ImageData:
    """The data module, seen to be one of images.

    Raises:
        UserError: There is none, or it is of another kind.
    """
    if not isinstance(datamodule, ImageData):
        kind = "No data is given" if datamodule is None else f"{type(datamodule).__name__} is no ImageDataModule"
        raise UserError(f"{kind}: give the images of a run with --data, such as --data DigitsDataModule.")
    return datamodule


def load_weights(model: LightningModule, path: Path) -> dict[str, Any]:
    """Gives a model a checkpoint's weights; its mode stays.

    Args:
        model: Built with the settings of the checkpoint's run.
        path: The checkpoint.

    Returns:
        What the checkpoint holds.

    Raises:
        UserError: It cannot be read, is no checkpoint of a run, or is of another architecture.
    """
    content = load_checkpoint(path)
    if "state_dict" not in content:
        raise UserError(f"{path} is no checkpoint of a run: give one that `fit` wrote.")
    model.on_load_checkpoint(content)
    try:
        model.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise UserError(
            f"{path} is of another architecture than {type(model).__name__} with these settings: leave --config out "
            "to take its run's own, or give the options that it was trained with."
        ) from error
    return content


def cam_target_of(model: LightningModule) -> tuple[nn.Module, nn.Module]:
    """The network for Grad-CAM and its layer.

    Raises:
        UserError: The model names none.
    """
    layer = cam_layer_of(model)
    # The network itself, if that is all there is: a module may call it compiled, past the layers of a copy, and a copy
    # of the module would keep its activations until the next collection of garbage, 165 MB a call.
    return network_of(model), layer


class _Logits(LightningModule):
    """Lets a trainer run a model's forward pass, in the trainer's precision, and hand the labels back, too."""

    def __init__(self, model: LightningModule) -> None:
        super().__init__()
        self.model = model

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> tuple[Tensor, Tensor]:
        """Logits float32 (n, C) and labels int64 (n,) of a batch."""
        return logits_of(self.model, batch[0]), batch[1]


def evaluate(trainer: Trainer, model: LightningModule, datamodule: LightningDataModule | None) -> Predictions:
    """Predicts every image of the test split.

    The same trainer, batches and forward pass as those of `Trainer.test`: figures agree with its to the digit.

    Args:
        trainer: Decides device and precision, and shows progress.
        model: Maps normalised images to logits.
        datamodule: An `ImageDataModule`.

    Raises:
        UserError: The data module is of another kind, the trainer has several devices or is to leave images out, or
            logits are no numbers or of other classes.
    """
    data = image_data(datamodule)
    # A folder's images come class by class: the first are no sample. And what is written has the place of the whole.
    limits = [getattr(trainer, limit) for limit in LIMITS]
    # 1 is one batch, 1.0 all.
    if any(isinstance(limit, int) or limit < 1 for limit in limits) or trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise UserError(f"This command is about the whole test split: leave {' and '.join(LIMITS)} out.")
    if trainer.world_size > 1:
        raise UserError(f"{trainer.world_size} devices are too many for this command: give --trainer.devices=1.")
    batches = trainer.predict(_Logits(model), datamodule=datamodule)
    logits, labels = (torch.cat(parts).cpu().numpy() for parts in zip(*batches or [], strict=True))
    check_classes(type(model).__name__, logits.shape[1], data, "predict")
    lost = int((~np.isfinite(logits)).any(axis=1).sum())
    if lost:
        raise UserError(f"The network's output for {lost:,} of {len(logits):,} images is no number: training diverged.")
    return Predictions(labels, logits, tuple(map(printable, data.class_names)))


def normalised_images(data: ImageData, indices: NDArray[np.int64]) -> Tensor:
    """Test images at the indices, int64 (n,), as the network gets them: float32 (n, 3, H, W), on the CPU."""
    places, images = zip(*normalised_batches(data, indices), strict=True)
    return torch.cat(images)[np.argsort(np.concatenate(places))]


def normalised_batches(data: ImageData, indices: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Test images at the indices, int64 (n,), batch by batch: together they may be too many for memory.

    Args:
        data: Has them.
        indices: Each once.

    Yields:
        Places in ``indices``, int64 (k,), and those images as the network gets them, float32 (k, 3, H, W), on the CPU.
    """
    order, start = np.argsort(indices), 0
    for batch in data.predict_dataloader():
        stop = start + len(batch[0])
        begin, end = np.searchsorted(indices[order], (start, stop))
        places = order[begin:end]
        if len(places):
            here = indices[places] - start
            yield places, data.on_after_batch_transfer([part[here] for part in batch], 0)[0].cpu()
        start = stop


def gather_provenance(
    content: Mapping[str, Any], path: Path, run: Path | None, datamodule: Any = None, precision: str | None = None
) -> dict[str, str]:
    """Where a network comes from and what evaluates it, for people and for programs.

    Args:
        content: What the checkpoint holds.
        path: The checkpoint.
        run: The folder of the run that wrote it, where it still stands there.
        datamodule: That it is evaluated on, if it is: with ``test_images``.
        precision: That it is evaluated in; of two classes that bfloat16 cannot tell apart the first is predicted.
    """
    # A run that was resumed has an entry for every start.
    start = (content.get("provenance") or [{}])[-1]
    settings = content.get("datamodule_hyper_parameters", {})
    test = start.get("data", {}).get("test", {})
    evaluated = fingerprint(datamodule.test_images) if datamodule is not None else None
    others = (
        {"trained beside test data SHA-256": test.get("sha256")} if evaluated not in (None, test.get("sha256")) else {}
    )
    versions = {"cifar-lit": cifar_lit.__version__, "torch": torch.__version__}
    known = {
        "recipe": run.resolve().parent.name if run is not None else None,
        "checkpoint": path,
        "epoch chosen by": "the test split" if is_chosen_by_test(content, path) else None,
        "model": content.get("hyper_parameters", {}).get("_class_path"),
        "data": settings.get("_class_path") if datamodule is None else class_path_of(datamodule),
        "data root": settings.get("root") if datamodule is None else getattr(datamodule, "root", None),
        "test data SHA-256": evaluated or test.get("sha256"),
        **others,
        "seed": start.get("seed"),
        "epoch": epochs_in(content),
        "step": content.get("global_step"),
        "command": start.get("command"),
        "started": start.get("started"),
        "trained with": _listed(start.get("versions")),
        "machine": _listed(start.get("machine")),
        "commit": start.get("commit"),
        "evaluated with": _listed({**versions, "precision": precision} if precision else versions),
    }
    return {name: str(value) for name, value in known.items() if value is not None}


def _listed(values: Mapping[str, Any] | None) -> str | None:
    return ", ".join(f"{name} {value}" for name, value in values.items()) if values else None
