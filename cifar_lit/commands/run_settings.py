"""What commands that do not train make of a run's settings: it may have had what is not here, and is not needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import dict_to_namespace

from cifar_lit.checkpoint_content import data_in, load_checkpoint
from cifar_lit.commands.learnt_data import preprocessing_in, stand_in_for_data

IN_ONE_PROCESS = ("summary", "explain", "export")


def of_pictures(settings: Any, command: str) -> bool:
    """Whether a command is about one's own pictures alone."""
    return command == "predict" and settings.images is not None


def suit(settings: Any, command: str, checkpoint: Path | None, arguments: Sequence[str]) -> None:
    """Changes a run's settings to what a command needs.

    Args:
        settings: The command's, with its run's.
        command: Such as explain.
        checkpoint: That it is about, if it is about one.
        arguments: Of the command line, as given: data that are asked for there are meant.

    Raises:
        UserError: One's own pictures cannot be prepared as the checkpoint's images were.
    """
    pictures = of_pictures(settings, command)
    if checkpoint is not None and (pictures or command == "summary"):
        content = load_checkpoint(checkpoint)
        if pictures:
            preprocessing_in(content, checkpoint)
        asked = any(argument.startswith(("--data", "--config", "-c")) for argument in arguments)
        # The run's own may be gone, or with the colleague who trained it.
        if pictures or (settings.data is not None and not asked and data_in(content) is not None):
            settings.data = dict_to_namespace(stand_in_for_data(content))
    if pictures or command in IN_ONE_PROCESS:
        trainer = settings.trainer
        # Without what only training needs, such as a run's own ModelCheckpoint. Of pictures nothing is logged: the
        # checkpoint's run may be somebody else's.
        trainer.logger, trainer.enable_checkpointing, trainer.callbacks = False, False, None
        trainer.devices, trainer.num_nodes = 1, 1
    if command in ("explain", "predict") and settings.method is None:
        settings.method = settings.gradcam.method
