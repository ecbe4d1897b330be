"""What commands that do not train make of a run's settings: it may have had what is not here, and is not needed."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import dict_to_namespace
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from cifar_lit.checkpoint_content import data_in, is_chosen_by_test, load_checkpoint
from cifar_lit.commands.learnt_data import preprocessing_in, stand_in_for_data
from cifar_lit.console import say
from cifar_lit.errors import UserError
from cifar_lit.precision import can_use, count_devices
from cifar_lit.runs import LAST

MEASURES = ("validate", "test", "explain")
IN_ONE_PROCESS = ("summary", "explain", "export")
# Callbacks that every run has, of which there may be but one.
OPTIONS_OF = {
    "GradCamPanel": "gradcam.*",
    "MisclassifiedPanel": "misclassified.*",
    "ConfusionPanel": "confusion.*",
    "FiniteLoss": "finite_loss.*",
    "Curves": "curves.*",
    "LastCheckpoint": "checkpoint.every_n_minutes",
}
# Of the trainer's settings, the least that they may be.
LEAST = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "gradient_clip_val": 0, "log_every_n_steps": 0}


def tell_of(checkpoint: Path, command: str) -> None:
    """Says which checkpoint a command takes, and what to know of its figures.

    Raises:
        UserError: It is none of a run.
    """
    content = load_checkpoint(checkpoint)
    if "state_dict" not in content:
        raise UserError(f"{checkpoint} is no checkpoint of a run: give one that `fit` wrote.")
    if command == "fit" and "optimizer_states" not in content:
        raise UserError(f"{checkpoint} holds weights alone: give a checkpoint of the whole run, as --ckpt_path=last.")
    if command != "summary":
        say(f"{'Resuming' if command == 'fit' else 'Checkpoint'} {checkpoint}")
    if command in MEASURES and is_chosen_by_test(content, checkpoint):
        last = checkpoint.with_name(f"{LAST}.ckpt")
        behind = f": --ckpt_path={last} is of the last epoch" if last.is_file() else ""
        say(f"This epoch was chosen by the test split, as no images were held out{behind}.")


def of_pictures(settings: Any, command: str) -> bool:
    """Whether a command is about one's own pictures alone."""
    return command == "predict" and settings.images is not None


def names(arguments: Sequence[str], *options: str) -> bool:
    """Whether one of some options, or of what they begin, is among the arguments of a command line."""
    return any(argument.startswith(options) for argument in arguments)


def suit(settings: Any, command: str, checkpoint: Path | None, arguments: Sequence[str]) -> None:
    """Changes a run's settings to what a command needs.

    Args:
        settings: The command's, with its run's.
        command: Such as explain.
        checkpoint: That it is about, if it is about one.
        arguments: Of the command line, as given: data that are asked for there are meant.

    Raises:
        UserError: One's own pictures cannot be prepared as the checkpoint's images were; the trainer's settings are
            none that a run can have.
    """
    pictures = of_pictures(settings, command)
    if checkpoint is not None and (pictures or command == "summary"):
        content = load_checkpoint(checkpoint)
        if pictures:
            preprocessing_in(content, checkpoint)
        asked = names(arguments, "--data", "--config", "-c")
        # The run's own may be gone, or with the colleague who trained it.
        if pictures or (settings.data is not None and not asked and data_in(content) is not None):
            stand_in = stand_in_for_data(content)
            if names(arguments, *(f"--data.{prefix}image_size" for prefix in ("", "init_args."))):
                stand_in["init_args"]["image_size"] = settings.data.init_args.image_size
            settings.data = dict_to_namespace(stand_in)
    trainer = settings.trainer
    _check_callbacks(trainer)
    if command == "fit":
        # Older runs, which had them, can be evaluated all the same.
        _check_numbers(trainer)
        if str(settings.checkpoint.filename or "").startswith(LAST):
            raise UserError(f"--checkpoint.filename is of the best one, and {LAST} of the other: begin it otherwise.")
    if pictures or command in IN_ONE_PROCESS:
        # Without what only training needs, such as a run's own ModelCheckpoint. Of pictures nothing is logged: the
        # checkpoint's run may be somebody else's.
        trainer.logger, trainer.enable_checkpointing, trainer.callbacks = False, False, None
        trainer.devices, trainer.num_nodes, trainer.strategy = 1, 1, "auto"
        if command != "explain":
            trainer.accelerator, trainer.precision = "cpu", None
    # Whoever gives a config means it.
    if command != "fit" and not names(arguments, "--config", "-c"):
        _suit_machine(trainer, arguments)
        if command == "explain" and not names(arguments, "--trainer.limit_", "--trainer.fast_dev_run"):
            # A run that was only tried out is looked at as a whole, too.
            trainer.limit_test_batches = trainer.limit_predict_batches = None
    if (command == "explain" or (pictures and settings.overlays)) and settings.method is None:
        settings.method = settings.gradcam.method


def _check_callbacks(trainer: Any) -> None:
    """Refuses what every run has of its own already."""
    given = getattr(trainer, "callbacks", None) or []
    for callback in given if isinstance(given, list) else [given]:
        package, _, name = str(callback.class_path).rpartition(".")
        if package.startswith("cifar_lit.") and name in OPTIONS_OF:
            raise UserError(f"Every run has {name}: give its settings as --{OPTIONS_OF[name]}, and not it again.")


def _check_numbers(trainer: Any) -> None:
    """Refuses what Lightning would divide by, or take without a word and never do."""
    for name, least in LEAST.items():
        value = getattr(trainer, name, None)
        if value is not None and value < least:
            raise UserError(f"--trainer.{name} is {value}: give a number of at least {least}.")
    if trainer.val_check_interval is not None and trainer.val_check_interval <= 0:
        raise UserError(
            f"--trainer.val_check_interval is {trainer.val_check_interval}: give a share of an epoch, or a number of "
            "batches, or --trainer.limit_val_batches=0 to validate never."
        )


def _suit_machine(trainer: Any, arguments: Sequence[str]) -> None:
    """The run may have been on a larger machine than this one; what the command line asks for is meant."""
    elsewhere = not can_use(str(trainer.accelerator)) and not names(arguments, "--trainer.accelerator")
    if elsewhere:
        trainer.accelerator = "auto"
    # A launcher has begun as many processes as it was told to, each of which must come to the same.
    launched = "WORLD_SIZE" in os.environ or SLURMEnvironment.detect()
    left_open = not launched and not names(arguments, "--trainer.devices")
    if elsewhere or (left_open and count_devices(str(trainer.accelerator)) < _count(trainer.devices)):
        trainer.devices = trainer.devices if names(arguments, "--trainer.devices") else 1
        trainer.strategy = trainer.strategy if names(arguments, "--trainer.strategy") else "auto"


def _count(devices: Any) -> int:
    """How many devices there must be for a trainer's ``devices``: a number, their numbers from 0, or all there are."""
    numbers = devices.split(",") if isinstance(devices, str) and "," in devices else devices
    if isinstance(numbers, (list, tuple)):
        return 1 + max((int(number) for number in numbers if str(number).strip()), default=0)
    # "auto" and -1 are all there are.
    return max(int(devices), 1) if str(devices).lstrip("-").isdigit() else 1
