"""Lightning's Trainer, with the further commands of the command line as methods."""

from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule, Trainer

from cifar_lit.checkpoint_content import load_checkpoint
from cifar_lit.commands import explain as explaining
from cifar_lit.commands import export as exporting
from cifar_lit.commands.evaluation import load_weights, modes_kept
from cifar_lit.commands.learnt_data import preprocessing_in, size_of_images
from cifar_lit.commands.outputs import predicting_probabilities
from cifar_lit.commands.picture_files import FORMATS, OVERLAYS
from cifar_lit.commands.pictures import predict_pictures
from cifar_lit.commands.summary import Format, summarize
from cifar_lit.data.decoding import decode
from cifar_lit.errors import UserError
from cifar_lit.files import expanded
from cifar_lit.runs import BEST, LAST, find_checkpoint, run_of


class CifarTrainer(Trainer):
    """Lightning's Trainer, with the further commands of the command line as methods."""

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Trains a network.

        Args:
            model: The model.
            train_dataloaders: Batches, instead of a data module.
            val_dataloaders: Batches, instead of a data module.
            datamodule: The data.
            ckpt_path: The checkpoint to go on from: a file, a run's folder for its last, or on the command line best or
                last of the newest run; by default training begins afresh.
            weights_only: Load it as data alone.
        """
        checkpoint = self._of_folder(ckpt_path, LAST)
        super().fit(model, train_dataloaders, val_dataloaders, datamodule, checkpoint, weights_only)

    def validate(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> Any:
        """Measures a trained network on the images that were held out from its training.

        Args:
            model: The model.
            dataloaders: Batches, instead of a data module.
            ckpt_path: The checkpoint: a file, a run's folder for its best, or on the command line best or last of the
                newest run, and by default best.
            verbose: Print what was measured.
            datamodule: The data.
            weights_only: Load it as data alone.
        """
        return super().validate(model, dataloaders, self._of_folder(ckpt_path), verbose, datamodule, weights_only)

    def test(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> Any:
        """Measures a trained network on the test split.

        Args:
            model: The model.
            dataloaders: Batches, instead of a data module.
            ckpt_path: The checkpoint: a file, a run's folder for its best, or on the command line best or last of the
                newest run, and by default best.
            verbose: Print what was measured.
            datamodule: The data.
            weights_only: Load it as data alone.
        """
        return super().test(model, dataloaders, self._of_folder(ckpt_path), verbose, datamodule, weights_only)

    def summary(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        format: Format = "text",
        output: Path | None = None,
        max_params: int | None = None,
        min_receptive_field: int | None = None,
        ckpt_path: str | Path | None = None,
    ) -> None:
        """Shows a network's layers: sizes, parameters, multiply-adds and receptive fields.

        Args:
            model: The model.
            datamodule: The data; only its image size is asked for. Where it was given none it is the checkpoint's.
            format: text for the terminal, or markdown, csv or json.
            output: File to write to instead of the terminal.
            max_params: Most trainable parameters allowed; more end the command with exit code 1.
            min_receptive_field: Least receptive field of any layer in pixels, pooling over the whole image included;
                less ends the command with exit code 1.
            ckpt_path: A checkpoint whose run's settings to take, where no --config is given: a file, a run's folder, or
                best or last of the newest run.
        """
        size = size_of_images(datamodule, load_checkpoint(self._meant(ckpt_path)) if ckpt_path is not None else {})
        output = expanded(output) if output else None
        summarize(model, size, format, output, max_params, min_receptive_field)

    def explain(
        self,
        model: LightningModule,
        ckpt_path: str | Path = BEST,
        datamodule: LightningDataModule | None = None,
        output_dir: Path | None = None,
        method: str | None = None,
        limit: int = explaining.SHOWN,
    ) -> None:
        """Writes a page about a trained network's errors on the test split, with figures, a table and metrics.

        Args:
            model: The model.
            ckpt_path: Its checkpoint: a file, a run's folder, or best or last of the newest run; by default best.
            datamodule: The data.
            output_dir: Folder to write to; by default explain in the run's folder.
            method: Of drawing where the network looks, by grad-cam's name for it, such as HiResCAM; by default
                GradCAM, or that of the run's panel (--gradcam.method).
            limit: Most errors that the page shows.
        """
        checkpoint = self._meant(ckpt_path)
        folder = _folder(output_dir, checkpoint, "explain")
        with modes_kept(model):
            explaining.explain(self, model, datamodule, checkpoint, folder, method or "GradCAM", limit)

    def export(
        self,
        model: LightningModule,
        ckpt_path: str | Path = BEST,
        datamodule: LightningDataModule | None = None,
        output_dir: Path | None = None,
        format: exporting.Format = "both",
    ) -> None:
        """Writes a trained network as ONNX and torch.export, and checks both against the checkpoint on test images.

        They take pixels, uint8 (N, H, W, 3), RGB, and give logits, float32 (N, num_classes).

        Args:
            model: The model.
            ckpt_path: Its checkpoint: a file, a run's folder, or best or last of the newest run; by default best.
            datamodule: The data, for the check.
            output_dir: Folder to write to; by default export in the run's folder.
            format: onnx, torch, or both.
        """
        checkpoint = self._meant(ckpt_path)
        with modes_kept(model):
            exporting.export(model, datamodule, checkpoint, _folder(output_dir, checkpoint, "export"), format)

    def predict(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        return_predictions: bool | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
        images: Path | None = None,
        overlays: bool = False,
        output_dir: Path | None = None,
        method: str | None = None,
    ) -> Any:
        """Predicts the test images or, in float32 on the CPU, one's own pictures.

        A module without a `predict_step` of its own is given a batch's images alone, and what it makes of them, (n, C),
        is taken for logits: it gives probabilities.

        Args:
            model: The model.
            dataloaders: Batches, instead of a data module.
            datamodule: The data.
            return_predictions: Return them; by default so where one process runs.
            ckpt_path: The checkpoint: a file, a run's folder for its best, or on the command line best or last of the
                newest run, and by default best.
            weights_only: Load it as data alone.
            images: A folder of pictures, or one, to predict instead of the test images.
            overlays: Also write each picture with Grad-CAM of what was predicted.
            output_dir: Folder for the predictions of pictures; by default pictures in the run's folder.
            method: Of drawing where the network looks, by grad-cam's name for it, such as HiResCAM; by default
                GradCAM, or that of the run's panel (--gradcam.method).
        """
        if images is None:
            if overlays or output_dir is not None or method is not None:
                raise UserError(
                    "--overlays, --method and --output_dir are for one's own pictures: give --images. Predictions of "
                    "the test images go to the run's folder."
                )
            ckpt_path = self._of_folder(ckpt_path)
            with predicting_probabilities(self.lightning_module if model is None else model):
                return super().predict(model, dataloaders, datamodule, return_predictions, ckpt_path, weights_only)
        if method is not None and not overlays:
            raise UserError(f"{method} is drawn on overlays: give --overlays, or leave --method out.")
        assert model is not None
        checkpoint = self._meant(ckpt_path or BEST)
        folder = _folder(output_dir, checkpoint, "pictures")
        content = load_weights(model, checkpoint)
        class_names, normalize = preprocessing_in(content, checkpoint)
        read = partial(decode, size=size_of_images(datamodule, content), formats=FORMATS)
        table, shown = folder / "predictions.csv", folder / OVERLAYS if overlays else None
        with modes_kept(model):
            predict_pictures(model, read, normalize, expanded(images), table, class_names, shown, method or "GradCAM")

    def _meant(self, ckpt_path: str | Path) -> Path:
        """A checkpoint: a file, a run's folder for its best, or best or last of the newest run."""
        if ckpt_path in (BEST, LAST):
            return find_checkpoint(str(ckpt_path), Path(self.default_root_dir))
        return expanded(self._of_folder(ckpt_path) or ckpt_path)

    def _of_folder(self, ckpt_path: str | Path | None, kind: str = BEST) -> str | Path | None:
        """The checkpoint of a run's folder; what is no folder as it is, which the command line has looked at."""
        # Lightning has meanings of its own for these words.
        if not ckpt_path or ckpt_path in (BEST, LAST) or not expanded(ckpt_path).is_dir():
            return ckpt_path
        return find_checkpoint(str(ckpt_path), Path(self.default_root_dir), kind=kind)


def _folder(asked: Path | None, checkpoint: Path, name: str) -> Path:
    """The folder that was asked for; else one of a name in the run's, or in the working directory if there is none."""
    return expanded(asked) if asked is not None else (run_of(checkpoint) or Path()) / name
