"""What callbacks share that take part in the training step of a classifier."""

from typing import ClassVar

from pytorch_lightning import Callback, LightningModule, Trainer

from cifar_lit.classifier import Classifier
from cifar_lit.console import say
from cifar_lit.errors import UserError


class PartOfTraining(Callback):
    """Puts a function into a `Classifier` for a fit, and says so where training steps of one's own do not call it.

    A subclass puts it in, sets ``_is_called`` when it is called, and calls `is_due` for a batch that is to call it.

    Attributes:
        attribute: Of the classifier, for the function; None without one.
        changes: What of a classifier it changes.
        left_out: What a training step has done that did not call it, and what it has to do.
    """

    attribute: ClassVar[str]
    changes: ClassVar[str]
    left_out: ClassVar[str]

    def __init__(self) -> None:
        # In this fit, by a batch; None before the first that is to call it.
        self._is_called: bool | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a module without the attribute, before anything else is done."""
        if stage == "fit":
            self._is_called = None
            if not isinstance(pl_module, Classifier):
                name, other = type(self).__name__, type(pl_module).__name__
                raise UserError(f"{name} changes the {self.changes} of a Classifier, which {other} is not.")

    def is_due(self) -> None:
        """Notes a batch that is to call the function, or to have called it."""
        self._is_called = bool(self._is_called)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says so once where a training step of one's own leaves the function out."""
        if self._is_called is False:
            self._is_called = True
            say(f"The training_step of {type(pl_module).__name__} has {self.left_out}.")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the module as it was, where the run is broken off."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the module as it was."""
        if isinstance(pl_module, Classifier):
            setattr(pl_module, self.attribute, None)
