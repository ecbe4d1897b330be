"""What commands that do not train make of a run's settings: it may have had what is not here, and is not needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import dict_to_namespace

from cifar_lit.checkpoint_content import data_in, is_chosen_by_test, load_checkpoint
from cifar_lit.commands.learnt_data import preprocessing_in, stand_in_for_data
from cifar_lit.console import say
from cifar_lit.errors import UserError
from cifar_lit.precision import can_use
from cifar_lit.runs import LAST

MEASURES = ("validate", "test", "explain")
IN_ONE_PROCESS = ("summary", "explain", "export")


def tell_of(checkpoint: Path, command: str) -> None:
    """Says which checkpoint a command takes, and what to know of its figures.

    Raises:
        UserError: It is none of a run.
    """
    content = load_checkpoint(checkpoint)
    if "state_dict" not in content:
        raise UserError(f"{checkpoint} is no checkpoint of a run: give one that `fit` wrote.")
    if command != "summary":
        say(f"{'Resuming' if command == 'fit' else 'Checkpoint'} {checkpoint}")
    if command in MEASURES and is_chosen_by_test(content, checkpoint):
        last = checkpoint.with_name(f"{LAST}.ckpt")
        behind = f": --ckpt_path={last} is of the last epoch" if last.is_file() else ""
        say(f"This epoch was chosen by the test split, as no images were held out{behind}.")


def of_pictures(settings: Any, command: str) -> bool:
    """Whether a command is about one's own pictures alone."""
    return command == "predict" and settings.images is not None


def _names(arguments: Sequence[str], *options: str) -> bool:
    return any(argument.startswith(options) for argument in arguments)


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
        asked = _names(arguments, "--data", "--config", "-c")
        # The run's own may be gone, or with the colleague who trained it.
        if pictures or (settings.data is not None and not asked and data_in(content) is not None):
            settings.data = dict_to_namespace(stand_in_for_data(content))
    trainer = settings.trainer
    if pictures or command in IN_ONE_PROCESS:
        # Without what only training needs, such as a run's own ModelCheckpoint. Of pictures nothing is logged: the
        # checkpoint's run may be somebody else's.
        trainer.logger, trainer.enable_checkpointing, trainer.callbacks = False, False, None
        trainer.devices, trainer.num_nodes, trainer.strategy = 1, 1, "auto"
        if command != "explain":
            trainer.accelerator, trainer.precision = "cpu", None
    # The run may have been elsewhere. Whoever asks for a GPU, or gives a config, means it.
    meant = command == "fit" or _names(arguments, "--trainer.accelerator", "--config", "-c")
    if not meant and not can_use(str(trainer.accelerator)):
        trainer.accelerator = "auto"
        trainer.devices = trainer.devices if _names(arguments, "--trainer.devices") else 1
        trainer.strategy = trainer.strategy if _names(arguments, "--trainer.strategy") else "auto"
    if command in ("explain", "predict") and settings.method is None:
        settings.method = settings.gradcam.method
