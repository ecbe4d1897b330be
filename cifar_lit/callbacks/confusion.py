"""Which classes a network takes for which, and how well it tells each."""

from collections.abc import Sequence

from pytorch_lightning import LightningModule, Trainer

from cifar_lit.callbacks.panel import Panel, board
from cifar_lit.callbacks.record import Evaluated
from cifar_lit.explain.figures import class_scores_figure, confusion_figure
from cifar_lit.explain.scoring import ClassScore, class_scores, percent
from cifar_lit.logger import tensorboard_of


class ConfusionPanel(Panel):
    """Draws the confusion matrix and each class's precision, recall and F1, and logs these three after every epoch.

    TensorBoard's page of images has ``val/confusion`` and ``val/classes``, its page of texts the figures of
    ``val/classes`` as a table, and its page of scalars a chart a class in ``per_class_recall`` and its siblings.

    Args:
        every_n_epochs: Epochs from one drawing to the next; 0 switches the panel off, and its curves, too.

    Raises:
        UserError: ``every_n_epochs`` is negative.
    """

    def __init__(self, every_n_epochs: int = 5) -> None:
        super().__init__(every_n_epochs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the curves, and draws where it is time."""
        self._log_curves(trainer)
        super().on_validation_epoch_end(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the figures, and draws."""
        self._log_curves(trainer)
        super().on_test_epoch_end(trainer, pl_module)

    def _log_curves(self, trainer: Trainer) -> None:
        if not self.pending:
            return
        with self.harmless():
            evaluated = self.record.read(trainer)
            if evaluated is not None:
                curves = {}
                for score in self._scores(evaluated):
                    for measure in ("precision", "recall", "f1"):
                        # A curve has a point every epoch, also where the share would be of nothing.
                        curves[f"{evaluated.split}/per_class_{measure}/{score.name}"] = getattr(score, measure) or 0.0
                logger = tensorboard_of(trainer)
                assert logger is not None
                logger.log_metrics(curves, evaluated.step)

    def draw(self, trainer: Trainer, pl_module: LightningModule, evaluated: Evaluated) -> None:
        """Draws the matrix and the scores, and writes the scores as a table."""
        predictions, scores = evaluated.predictions, self._scores(evaluated)
        self.show(trainer, evaluated, "confusion", confusion_figure(predictions.confusion, predictions.class_names))
        self.show(trainer, evaluated, "classes", class_scores_figure(scores))
        board(trainer).add_text(f"{evaluated.split}/classes", table(scores), evaluated.step)

    @staticmethod
    def _scores(evaluated: Evaluated) -> list[ClassScore]:
        return class_scores(evaluated.predictions.confusion, evaluated.predictions.class_names)


def table(scores: Sequence[ClassScore]) -> str:
    """The scores as a table in Markdown, a row a class."""
    rows = ["| class | precision | recall | F1 | support |", "| --- | ---: | ---: | ---: | ---: |"]
    for s in scores:
        name = s.name.replace("|", "\\|")
        rows.append(f"| {name} | {percent(s.precision)} | {percent(s.recall)} | {percent(s.f1)} | {s.support:,} |")
    return "\n".join(rows)
