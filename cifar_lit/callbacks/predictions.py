"""Writes what `predict` predicted to a table."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from cifar_lit.console import printable, say
from cifar_lit.errors import UserError
from cifar_lit.files import write_atomically
from cifar_lit.ranks import of_all_ranks

Row = tuple[int, int, list[float]]


class PredictionTable(Callback):
    """Writes ``predictions.csv``: a row an image with its index, true class, predicted class and probabilities.

    Of a folder of images it has their files, too.

    Expects `predict_step` to give probabilities, float (n, num_classes), as `Classifier` does; for other modules it
    writes nothing.

    Args:
        folder: Where to write the file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "predictions.csv"
        self._rows: list[Row] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps a batch's rows."""
        plan = getattr(trainer.predict_dataloaders, "plan", None)
        if plan is None or not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
            return
        indices = plan.key(0, batch_idx).indices.tolist()
        self._rows += zip(indices, batch[1].tolist(), outputs.tolist(), strict=True)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers the rows of all ranks and writes them in the order of the images."""
        rows: list[Row] = [row for share in of_all_ranks(self._rows) for row in share]
        lost = sum(any(map(math.isnan, probabilities)) for *_, probabilities in rows)
        if lost:
            raise UserError(
                f"The network's output for {lost:,} of {len(rows):,} images is no number: training diverged."
            )
        if not trainer.is_global_zero or not rows:
            return
        classes = getattr(getattr(trainer, "datamodule", None), "class_names", None) or range(len(rows[0][2]))
        classes = [printable(str(name)) for name in classes]
        files = getattr(getattr(trainer, "datamodule", None), "test_files", None)
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        file_heading = ["file"] if files is not None else []
        writer.writerow(["index", *file_heading, "true", "predicted", *(f"p_{name}" for name in classes)])
        for index, label, probabilities in sorted(rows):
            predicted = max(range(len(probabilities)), key=probabilities.__getitem__)
            file = [files[index]] if files is not None else []
            numbers = (f"{probability:.9g}" for probability in probabilities)
            writer.writerow([index, *file, classes[label], classes[predicted], *numbers])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, table.getvalue())
        say(f"Wrote {len(rows):,} predictions to {self.path}")
