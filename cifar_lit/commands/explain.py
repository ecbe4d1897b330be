"""What a trained network gets wrong and where it looks: a page, pictures, a table and figures."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from tqdm import tqdm

from cifar_lit.checkpoint_content import load_checkpoint
from cifar_lit.commands.evaluation import (
    ImageData,
    cam_target_of,
    evaluate,
    gather_provenance,
    image_data,
    load_weights,
    normalised_batches,
)
from cifar_lit.commands.learning_curves import learning_curves
from cifar_lit.commands.learnt_data import take_learnt
from cifar_lit.console import printable, say
from cifar_lit.errors import UserError
from cifar_lit.explain.figures import (
    Tile,
    calibration_figure,
    class_scores_figure,
    confusion_figure,
    curves_figure,
    tile_figure,
    to_png,
)
from cifar_lit.explain.fonts import lacking
from cifar_lit.explain.gradcam import check_method, class_activation_maps, overlay
from cifar_lit.explain.layer_rows import LayerTable
from cifar_lit.explain.layers import network_table
from cifar_lit.explain.report import Report, choose_shown, render
from cifar_lit.explain.scoring import Predictions, calibration, class_scores, worst_errors
from cifar_lit.files import ready_to_write, write_atomically
from cifar_lit.runs import run_of

Maps = NDArray[np.float32]

REPORT, TABLE, METRICS = "report.html", "predictions.csv", "metrics.json"
# Errors in report.html: of 10,000 images of which 90 % are right all. Their Grad-CAM takes 5 s for ResNet-20.
SHOWN = 1000
# Of the pictures errors_1.png, errors_2.png, …
ERRORS_IN_A_PICTURE, COLUMNS, PICTURES_OF_ERRORS = 16, 8, 4
ROWS = ("image", "seen as predicted", "seen as true")
NAMES = {"GradCAM": "Grad-CAM"}  # where that of the package is not as people write it


def explain(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule | None,
    checkpoint: Path,
    output_dir: Path,
    method: str = "GradCAM",
    limit: int = SHOWN,
) -> None:
    """Evaluates a checkpoint on the test split, and writes all that there is to say about it.

    ``report.html`` has everything in one file. ``predictions.csv`` has a row an image: true and predicted class, loss,
    and the probability of every class; ``metrics.json`` accuracy, loss, calibration error, mean confidence, precision,
    recall and F1 of every class (null where they are shares of nothing), the confusion matrix, and where they come
    from. The figures are PNG. Learning curves are those of the run's folder, where the checkpoint stands in one.

    Images are predicted by the trainer as `Trainer.test` does it, so that the figures are the same to the digit;
    Grad-CAM computes in float32, on the CPU.

    Args:
        trainer: Decides device and precision, and shows progress.
        model: Built with the settings of the checkpoint's run.
        datamodule: An `ImageDataModule`.
        checkpoint: Whose weights to take.
        output_dir: Where to write; files of other names there stay.
        method: Of `class_activation_maps`.
        limit: Most errors that the page shows.

    Raises:
        UserError: The checkpoint is damaged or of another architecture, the data are no images, or the folder cannot
            be written to.
    """
    if limit < 0:
        raise UserError(f"limit is {limit}: give the number of errors to show, 0 or more.")
    check_method(method)
    data = image_data(datamodule)
    ready_to_write(output_dir)
    # Of other classes its weights are of another shape, too, and the classes are what to look at.
    take_learnt(load_checkpoint(checkpoint), data, checkpoint)
    content = load_weights(model, checkpoint)
    predictions = evaluate(trainer, model, datamodule)
    run = run_of(checkpoint)
    provenance = gather_provenance(content, checkpoint, run, data, str(trainer.precision))
    shown = choose_shown(predictions, limit)
    maps_predicted, maps_true = _maps(model, data, predictions, shown, method)
    if maps_predicted is not None:
        provenance["class activation maps"] = method
    files = getattr(data, "test_files", None)
    report = Report(
        title=provenance.get("recipe", type(model).__name__),
        predictions=predictions,
        pixels=data.test_images.pixels[: len(predictions)],
        shown=shown,
        maps_predicted=maps_predicted,
        maps_true=maps_true,
        metrics=_metrics(predictions),
        provenance=provenance,
        curves=learning_curves(run) if run is not None else {},
        layers=_layers(model, data.test_images.pixels.shape[1:3]),
        curves_over="step",
        maps_method=NAMES.get(method, method),
        files=[*map(printable, files)] if files else None,
    )
    write_atomically(output_dir / TABLE, _table(predictions, files))
    write_atomically(output_dir / METRICS, json.dumps(_figures(report), indent=2, ensure_ascii=False) + "\n")
    if boxes := lacking(predictions.class_names):
        say(boxes)
    _write_pictures(report, output_dir)
    write_atomically(output_dir / REPORT, render(report))
    images = f"{len(predictions):,} image{'' if len(predictions) == 1 else 's'}"
    say(f"Accuracy {predictions.correct.mean():.2%} of {images}; report: {output_dir / REPORT}")


def _maps(
    model: LightningModule, data: ImageData, predictions: Predictions, shown: NDArray[np.int64], method: str
) -> tuple[Maps, Maps] | tuple[None, None]:
    """Grad-CAM of images for the predicted and the true class, float32 (n, H, W) each; none, and a line, without."""
    predicted, true = np.zeros((2, len(shown), *data.test_images.pixels.shape[1:3]), np.float32)
    try:
        target = cam_target_of(model)
        with tqdm(total=len(shown), desc="Grad-CAM", unit=" images", leave=False, disable=None) as progress:
            for places, images in normalised_batches(data, shown):
                for maps, classes in ((predicted, predictions.predicted), (true, predictions.labels)):
                    maps[places] = class_activation_maps(*target, images, classes[shown[places]], method)
                progress.update(len(places))
    except UserError as error:
        # The page tells something without them, too.
        say(f"No Grad-CAM: {error}")
        return None, None
    return predicted, true


def _layers(model: LightningModule, image_size: Sequence[int]) -> LayerTable | None:
    try:
        return network_table(model, image_size)
    except ValueError:
        # A module that computes what no table can hold has a report all the same.
        return None


def _metrics(predictions: Predictions) -> dict[str, float]:
    return {
        "accuracy": float(predictions.correct.mean()),
        "loss": float(predictions.losses.mean()),
        "ece": calibration(predictions.confidence, predictions.correct).ece,
        "images": len(predictions),
        "errors": int((~predictions.correct).sum()),
    }


def _figures(report: Report) -> dict[str, Any]:
    predictions = report.predictions
    return {
        **report.metrics,
        "mean_confidence": float(predictions.confidence.mean()),
        "classes": [asdict(score) for score in class_scores(predictions.confusion, predictions.class_names)],
        "confusion": predictions.confusion.tolist(),
        "provenance": report.provenance,
    }


def _table(predictions: Predictions, files: Sequence[str | Path] | None) -> str:
    names = predictions.class_names
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    file_heading = ["file"] if files is not None else []
    writer.writerow(["index", *file_heading, "true", "predicted", "loss", *(f"p_{name}" for name in names)])
    for index, (label, guess) in enumerate(zip(predictions.labels, predictions.predicted, strict=True)):
        # With nine digits what is computed from the table is what was computed here. The loss may be -0.
        numbers = (f"{number:.9g}" for number in (abs(predictions.losses[index]), *predictions.probabilities[index]))
        file = [files[index]] if files is not None else []
        writer.writerow([index, *file, names[label], names[guess], *numbers])
    return table.getvalue()


def _write_pictures(report: Report, folder: Path) -> None:
    """Writes the figures that papers and slides want, and removes those of a run before that there no longer are."""
    predictions = report.predictions
    figures: dict[str, Figure] = {
        "confusion.png": confusion_figure(predictions.confusion, predictions.class_names),
        "class_scores.png": class_scores_figure(class_scores(predictions.confusion, predictions.class_names)),
        "calibration.png": calibration_figure(calibration(predictions.confidence, predictions.correct)),
    }
    if report.curves:
        figures["curves.png"] = curves_figure(report.curves, "Learning curves", report.curves_over)
    tiles = _error_tiles(report, ERRORS_IN_A_PICTURE * PICTURES_OF_ERRORS)
    for number, start in enumerate(range(0, len(tiles), ERRORS_IN_A_PICTURE), start=1):
        page = tiles[start : start + ERRORS_IN_A_PICTURE]
        stop = start + len(page)
        # Where few are asked for, first suspects are among them, whatever their loss.
        worst = np.array_equal(report.shown[:stop], worst_errors(predictions, stop))
        title = f"Errors{' of largest loss' * worst}, {start + 1} to {stop}"
        figures[f"errors_{number}.png"] = tile_figure(page, title, COLUMNS, ROWS[: len(page[0].pictures)])
    for path in (folder / "curves.png", *folder.glob("errors_[1-9].png")):
        if path.name not in figures:
            path.unlink(missing_ok=True)
    for name, figure in figures.items():
        write_atomically(folder / name, to_png(figure))


def _error_tiles(report: Report, limit: int) -> list[Tile]:
    """The first of the shown images; with Grad-CAM for the predicted and the true class, where there are maps."""
    predictions, shown = report.predictions, report.shown[:limit]
    rows = [report.pixels[shown]]
    rows += [overlay(rows[0], maps[:limit]) for maps in (report.maps_predicted, report.maps_true) if maps is not None]
    names = predictions.class_names
    return [
        Tile(
            pictures=[row[i] for row in rows],
            caption=f"{names[predictions.labels[index]]}, taken for\n"
            f"{names[predictions.predicted[index]]} ({predictions.confidence[index]:.0%})",
        )
        for i, index in enumerate(shown)
    ]
