"""Writes what `predict` predicted to a table."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from cifar_lit.console import printable, say
from cifar_lit.errors import UserError
from cifar_lit.files import write_atomically
from cifar_lit.ranks import dealt_in_turn, of_all_ranks

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# An image's place in the data set, its label where it has one, and its probabilities.
Row = tuple[int, int | None, list[float]]


class PredictionTable(Callback):
    """Writes ``predictions.csv``: a row an image with its index, true class, predicted class and probabilities.

    Of a folder of images it has their files, too. Images of one's own DataLoader, of several the first, are numbered in
    its order, in which Lightning deals them out to ranks. Where a batch holds no labels behind its images, int64 (n,)
    in [0, num_classes), the true class is left empty.

    Expects `predict_step` to give probabilities, float (n, num_classes), as `Classifier` does and as
    `CifarTrainer.predict` has modules do that have none; where it gives something else, a line says that nothing is
    written.

    Args:
        folder: Where to write the file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "predictions.csv"
        self._rows: list[Row] = []
        self._seen = self._batches = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets what was predicted before."""
        self._rows, self._seen, self._batches = [], 0, 0

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps a batch's rows, of the first loader."""
        if dataloader_idx:
            return
        self._batches += 1
        if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
            return
        plan = getattr(trainer.predict_dataloaders, "plan", None)
        if plan is not None:
            indices = plan.key(0, batch_idx).indices.tolist()
        else:
            indices = dealt_in_turn(self._seen, len(outputs), trainer.global_rank, trainer.world_size).tolist()
            self._seen += len(outputs)
        self._rows += zip(indices, _labels(batch, len(outputs)), outputs.tolist(), strict=True)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers the rows of all ranks and writes them in the order of the images."""
        rows: list[Row] = [row for share in of_all_ranks(self._rows) for row in share]
        lost = sum(any(map(math.isnan, probabilities)) for *_, probabilities in rows)
        if lost:
            raise UserError(
                f"The network's output for {lost:,} of {len(rows):,} images is no number: training diverged."
            )
        classes = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        # Seen by all ranks, of which none is to wait for another.
        if rows and classes and len(classes) != len(rows[0][2]):
            raise UserError(
                f"{type(pl_module).__name__} predicts {len(rows[0][2])} numbers for an image, and the data have "
                f"{len(classes)} classes: no table is written."
            )
        if not trainer.is_global_zero or not self._batches:
            return
        if not rows:
            say(
                f"No table is written: {type(pl_module).__name__}.predict_step gives no probabilities, a tensor of "
                "shape (n, classes) for each batch."
            )
            return
        classes = [printable(str(name)) for name in classes or range(len(rows[0][2]))]
        files = getattr(getattr(trainer, "datamodule", None), "test_files", None)
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        file_heading = ["file"] if files is not None else []
        writer.writerow(["index", *file_heading, "true", "predicted", *(f"p_{name}" for name in classes)])
        for index, label, probabilities in sorted(rows, key=lambda row: row[0]):
            predicted = max(range(len(probabilities)), key=probabilities.__getitem__)
            file = [files[index]] if files is not None else []
            numbers = (f"{probability:.9g}" for probability in probabilities)
            true = classes[label] if label is not None and 0 <= label < len(classes) else ""
            writer.writerow([index, *file, true, classes[predicted], *numbers])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, table.getvalue())
        say(f"Wrote {len(rows):,} predictions to {self.path}")


def _labels(batch: Any, count: int) -> Sequence[int | None]:
    """The labels of a batch's images, if it has any."""
    labels = batch[1] if isinstance(batch, (list, tuple)) and len(batch) > 1 else None
    if isinstance(labels, torch.Tensor) and labels.shape == (count,) and labels.dtype in INTEGERS:
        whole: list[int] = labels.tolist()
        return whole
    return [None] * count
