"""The command line: ``python -m cifar_lit fit --config configs/resnet20.yaml``."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import SIGTERMException

# Imported so that YAML and the command line can name what they hold without its module.
import cifar_lit.callbacks
import cifar_lit.data
import cifar_lit.models
import cifar_lit.optimizers
import cifar_lit.schedules  # noqa: F401
from cifar_lit import parsing
from cifar_lit.allocator import keep_freed_memory
from cifar_lit.callbacks.checkpoint import BestCheckpoint, LastCheckpoint
from cifar_lit.callbacks.confusion import ConfusionPanel
from cifar_lit.callbacks.curves import Curves
from cifar_lit.callbacks.endings import last_words
from cifar_lit.callbacks.finite_loss import FiniteLoss
from cifar_lit.callbacks.gradcam import GradCamPanel
from cifar_lit.callbacks.layers import LayerPanel
from cifar_lit.callbacks.misclassified import MisclassifiedPanel
from cifar_lit.callbacks.predictions import PredictionTable
from cifar_lit.callbacks.progress import EpochProgress
from cifar_lit.callbacks.provenance import Provenance
from cifar_lit.callbacks.run_lock import RunLock
from cifar_lit.callbacks.settings import SaveFitConfig
from cifar_lit.callbacks.stops import Stopped, Stops
from cifar_lit.checkpoint_content import load_checkpoint
from cifar_lit.checkpoint_io import with_atomic_saving
from cifar_lit.commands.learnt_data import take_learnt
from cifar_lit.commands.run_settings import names, of_pictures, suit, tell_of
from cifar_lit.console import exit_with, hush_libraries, say
from cifar_lit.errors import TRACEBACK_VARIABLE, UserError
from cifar_lit.files import expanded, ready_to_write
from cifar_lit.hooks import leave_out_what_is_empty
from cifar_lit.identity import versions
from cifar_lit.logger import CurvesLogger, logger_of
from cifar_lit.monitor import check_early_stopping
from cifar_lit.precision import can_use, choose_precision
from cifar_lit.ranks import leave_ranks, share_batch_norm_on_cpu
from cifar_lit.runs import BEST, LAST, find_checkpoint, recipe_name, run_of, runs_of, with_own_config
from cifar_lit.trainer import CifarTrainer

RUNS_A_CHECKPOINT = ("validate", "test", "predict", "explain", "export")
KNOWS_ITS_RUN = (*RUNS_A_CHECKPOINT, "summary", "fit")
PANELS = {"gradcam": GradCamPanel, "misclassified": MisclassifiedPanel, "confusion": ConfusionPanel}
_CLASSES_GIVEN = ("--model.num_classes", "--model.init_args.num_classes")
DEFAULTS = Path(__file__).with_name("defaults.yaml")


class CifarCLI(LightningCLI):
    """One LightningCLI for every model and data set, with the defaults of ``defaults.yaml``.

    Args:
        args: Command-line arguments; by default those of this process.
    """

    def __init__(self, args: Sequence[str] | None = None) -> None:
        # Without abbreviations a slip of the pen stays one, and no new option changes what an old command means.
        strict = {"exit_on_error": False, "allow_abbrev": False}
        shared = {"default_config_files": [str(DEFAULTS)], **strict}
        # The generated usage lists every option on a hundred lines; the help below it does so with explanations.
        usage = "cifar-lit {} [--config FILE] [--OPTION=VALUE …]"
        self._arguments = sys.argv[1:] if args is None else [*args]
        parsing.check_files_of_settings(self._arguments)
        asked = parsing.in_order(self._arguments)
        given, every = with_own_config(asked, KNOWS_ITS_RUN), self.subcommands()
        # A parser takes 0.1 s to make: only that of the command is, where one is named.
        commands = {given[0]: every[given[0]]} if given and given[0] in every else every
        self.subcommands = lambda: commands  # type: ignore[method-assign]
        super().__init__(
            LightningModule,
            # Left open, data may be left out: for `summary`, and for a module that brings its own.
            datamodule_class=None,
            subclass_mode_model=True,
            save_config_callback=SaveFitConfig,
            # A resumed run's settings replace those before.
            save_config_kwargs={"overwrite": True},
            trainer_class=CifarTrainer,
            parser_kwargs={
                "prog": "cifar-lit",
                "description": "Train, measure and understand small image classifiers.",
                "version": versions(),
                **strict,
                **{command: {"usage": usage.format(command), **shared} for command in commands},
            },
            # A recipe's optimizer and schedule belong to its model.
            auto_configure_optimizers=False,
            args=given,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's four commands and ours, with the arguments that the CLI itself provides."""
        ours = {command: {"model", "datamodule"} for command in ("summary", "explain", "export")}
        return {**LightningCLI.subcommands(), **ours}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``--checkpoint.*`` and other callbacks', and lets the data tell the model its number of classes."""
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.add_lightning_class_args(FiniteLoss, "finite_loss")
        parser.add_lightning_class_args(Curves, "curves")
        for name, panel in PANELS.items():
            parser.add_lightning_class_args(panel, name)
        parsing.let_whole_numbers_count(parser)
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")

    @property
    def _settings(self) -> Any:
        return self.config[self.config.subcommand]

    def _parse_ckpt_path(self) -> None:
        """Finds the checkpoint that is meant. Lightning would let its settings override config and command line."""
        settings = self._settings
        kind = LAST if self.config.subcommand == "fit" else BEST
        wanted = settings.ckpt_path or (BEST if self.config.subcommand in RUNS_A_CHECKPOINT else None)
        self.checkpoint = find_checkpoint(wanted, self._root, self._runs_meant, kind) if wanted else None
        if self.checkpoint is not None:
            tell_of(self.checkpoint, self.config.subcommand)
        settings.ckpt_path = str(self.checkpoint) if self.checkpoint else None

    @property
    def _of_pictures(self) -> bool:
        return of_pictures(self._settings, self.config.subcommand)

    @property
    def _root(self) -> Path:
        return expanded(self._settings.trainer.default_root_dir or ".")

    @property
    def _config_given(self) -> Path | None:
        return parsing.of_recipe([Path(one.relative) for one in self._settings.config or [] if one is not None])

    @property
    def _runs_meant(self) -> Path | None:
        return runs_of(self._config_given, self._root, self._settings.trainer.logger, self.config.subcommand == "fit")

    @property
    def recipe(self) -> str:
        """What runs of these settings are called: the config file's name, without one the model's class."""
        given = self._config_given
        return recipe_name(given) if given is not None else str(self._settings.model.class_path).rpartition(".")[2]

    def before_instantiate_classes(self) -> None:
        """Sees to it that what is asked for is there."""
        suit(self._settings, self.config.subcommand, self.checkpoint, self._arguments)
        trainer = self._settings.trainer
        if not can_use(str(trainer.accelerator)):
            raise UserError("There is no such GPU that torch can use: leave --trainer.accelerator out, or give cpu.")
        # Lightning would make a folder named ~.
        trainer.default_root_dir = trainer.default_root_dir and str(self._root)
        needs_data = self.subcommand != "summary" and str(self._settings.model.class_path).startswith("cifar_lit.")
        if needs_data and self._settings.data is None:
            raise UserError("No data is given: name some, such as --data DigitsDataModule, or a recipe with --config.")
        self.config_dump = parsing.as_data(self.parser, self.config)[self.config.subcommand]

    def before_validate(self) -> None:
        """Has images normalised as the checkpoint's were; figures and pictures stand at its step, not at 0."""
        if self.checkpoint is not None:
            content = load_checkpoint(self.checkpoint)
            take_learnt(content, self.datamodule, self.checkpoint)
            step = int(content.get("global_step", 0))
            loop = self.trainer.fit_loop.epoch_loop
            # Counted from 0, as in `fit`.
            loop._batches_that_stepped = max(step - 1, 0)
            loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step

    before_test = before_predict = before_validate

    def instantiate_trainer(self, **kwargs: object) -> Trainer:
        """Adds what every run has: progress, curves, checkpoints, and TensorBoard unless there is another logger."""
        config = self._get(self.config_init, "trainer")
        if hasattr(self.datamodule, "num_classes") and names(self._arguments, *_CLASSES_GIVEN):
            say("--model.num_classes is not used: the data say how many classes there are")
        if not torch.cuda.is_available():
            keep_freed_memory()
        if config.precision is None and self.subcommand not in ("summary", "export") and not self._of_pictures:
            # Not among the saved settings: another machine is to choose for itself.
            config.precision, reason = choose_precision(config.accelerator)
            say(f"Precision {config.precision}: {reason} (--trainer.precision changes it)")
        callbacks: list[Callback] = [LayerPanel()]
        callbacks += [self._get(self.config_init, name) for name in ("curves", "finite_loss", *PANELS)]
        given = config.callbacks if isinstance(config.callbacks, list) else [config.callbacks]
        if config.enable_progress_bar is not False and not any(isinstance(one, ProgressBar) for one in given):
            callbacks.append(EpochProgress())
        if config.enable_checkpointing is not False:
            best = self._get(self.config_init, "checkpoint")
            callbacks += [best, LastCheckpoint()]
            callbacks += [LastCheckpoint(best.every_n_minutes)] if best.every_n_minutes is not None else []
            config.plugins = with_atomic_saving(config.plugins)
        if config.logger in (None, True):
            config.logger = logger_of(self.checkpoint, self._root, self.recipe, self.subcommand != "fit")
        if self.subcommand == "fit":
            settings = parsing.as_yaml(self._parser("fit"), self._settings)
            callbacks += [RunLock(), Provenance(settings, self._arguments)]
        if self.subcommand == "predict" and not self._of_pictures:
            assert self.checkpoint is not None, "predict always has one"
            others = run_of(self.checkpoint) if config.logger else None
            folder = Path(config.logger.log_dir if isinstance(config.logger, CurvesLogger) else others or self._root)
            ready_to_write(folder, "give --trainer.logger=false and a --trainer.default_root_dir elsewhere")
            callbacks.append(PredictionTable(folder))
        # Behind those that have something to do for the step behind which it stops.
        callbacks.append(Stops())
        trainer: Trainer = self._instantiate_trainer({**config, **kwargs}, callbacks)
        leave_out_what_is_empty(trainer)
        check_early_stopping(trainer.callbacks if self.subcommand == "fit" else ())  # type: ignore[attr-defined]
        share_batch_norm_on_cpu(trainer)
        return trainer

    def after_fit(self) -> None:
        """Says where everything is, and why it ended early."""
        if lines := last_words(self.trainer):
            say("\n".join(lines))


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command. An error ends it in one line on stderr; ``CIFAR_LIT_TRACEBACK=1`` shows the traceback.

    Args:
        args: Command-line arguments; by default those of this process.
    """
    hush_libraries()
    parsing.begin_new_classes_anew()
    try:
        CifarCLI(args)
        leave_ranks()
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, Stopped):
            leave_ranks()
        elif KeyboardInterrupt in (type(end), type(end.__context__)):
            # Lightning ends with 1, Python with a traceback.
            sys.exit(128 + signal.SIGINT)
        raise
    except SIGTERMException:
        # Where Lightning listens alone, as in an evaluation; it would end as if all were well.
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0"):
            raise
        exit_with(error)
