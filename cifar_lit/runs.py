"""Where runs land, and how to find a run or a checkpoint again."""

import argparse
import os
import sys
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from cifar_lit.best_checkpoints import LAST as LAST  # known from here
from cifar_lit.best_checkpoints import best_of, held_for_best
from cifar_lit.checkpoint_content import settings_in
from cifar_lit.console import say
from cifar_lit.errors import UserError
from cifar_lit.files import expanded, files_below

LOGS = "lightning_logs"
# In the folder of a run, written at each of its starts.
CONFIG, PROVENANCE = "config.yaml", "provenance.json"
# Options whose value may be left out where it is true.
SWITCHES = ("--overlays", "--trainer.fast_dev_run", "--trainer.deterministic", "--trainer.detect_anomaly")
# What names the folder within `save_dir` where a logger of Lightning keeps runs.
SUBFOLDER = {"TensorBoardLogger": "name", "CSVLogger": "name", "WandbLogger": "project"}
BEST = "best"


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that wrote a checkpoint, or None where it stands elsewhere."""
    folder = checkpoint.parent if checkpoint.parent.name else checkpoint.absolute().parent
    return folder.parent if folder.name == "checkpoints" and (folder.parent / CONFIG).is_file() else None


def recipe_name(config: Path) -> str:
    """What runs of a config file are called: its name, and for a run's own config that run's name."""
    return config.resolve().parent.parent.name if _is_a_runs_own(config) else config.stem


def runs_of(config: Path | None, root: Path, logger: Any = None, is_fit: bool = False) -> Path | None:
    """The folder of the runs of some settings; of a run's own config that run; None for all that there are.

    Args:
        config: The settings' file, if they have one.
        root: Folder that holds ``lightning_logs``.
        logger: The trainer's setting of this name: where the first logger keeps its own, a run's checkpoints are.
        is_fit: Whether a run is gone on with. Of an evaluation a logger tells where its results go: it is asked where
            there is no run in the usual place.
    """
    if config is not None and _is_a_runs_own(config):
        return config.parent
    usual = _folder_of_runs(root, config.stem) if config is not None else None
    kept = _folder_of_logger(logger)
    if kept is None or (not is_fit and _in_order_of_time(usual or root / LOGS, "")):
        return usual
    return kept


def _folder_of_logger(logger: Any) -> Path | None:
    """Where Lightning keeps the runs of a logger's settings, if these say that in a way known here."""
    first = logger[0] if isinstance(logger, list) and logger else logger
    setting = SUBFOLDER.get(str(getattr(first, "class_path", "")).rpartition(".")[2])
    settings = getattr(first, "init_args", None)
    if setting is None or settings is None or settings.get("save_dir") is None:
        return None
    return expanded(settings["save_dir"]) / str(settings.get(setting, LOGS) or "")


def _is_a_runs_own(config: Path) -> bool:
    return config.name == CONFIG and (config.parent / "checkpoints").is_dir()


def _folder_of_runs(root: Path, recipe: str | None) -> Path:
    return root / LOGS / recipe if recipe else root / LOGS


def checkpoints(kind: str, root: Path, recipe: str | None = None) -> list[Path]:
    """The checkpoints of all runs, the oldest first.

    Args:
        kind: ``best`` or ``last``, or nothing for any.
        root: Folder that holds ``lightning_logs``.
        recipe: Look only among the runs of this recipe.
    """
    return _in_order_of_time(_folder_of_runs(root, recipe), kind)


def _in_order_of_time(runs: Path, kind: str) -> list[Path]:
    return _by_time(files_below(runs, "checkpoints", f"{kind}*.ckpt"))


def _by_time(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda file: file.stat().st_mtime)


def find_checkpoint(ckpt_path: str, root: Path, runs: Path | None = None, kind: str = BEST) -> Path:
    """The checkpoint that is meant, seen to be whole.

    Args:
        ckpt_path: A file; a run's folder, or one of several runs, whose newest is meant; or ``best`` or ``last`` for
            that of the newest run of all.
        root: Folder that holds ``lightning_logs``.
        runs: Look only among the runs in this folder.
        kind: What is taken where ``ckpt_path`` is a folder: ``best`` or ``last``.

    Raises:
        UserError: There is none, or it is damaged.
    """
    path = expanded(ckpt_path)
    if ckpt_path in (BEST, LAST):
        path = _of_newest_run(ckpt_path, runs or root / LOGS, resumes=kind == LAST)
    elif ckpt_path and path.is_dir():
        path = _of_folder(path, kind)
    elif not path.is_file():
        raise UserError(
            f"There is no checkpoint {path}: give a .ckpt file, a run's folder, or `best` or `last` of the newest run."
        )
    # A checkpoint is a zip file, whose table of contents stands at its end and holds a checksum an entry.
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # What a damaged archive raises is not limited to any list.
        raise UserError(f"{path} is cut short or no checkpoint ({error}): give another with --ckpt_path.") from error
    if damaged is not None:
        raise UserError(f"{path} is damaged at {damaged}: give another with --ckpt_path.")
    return path


def _of_newest_run(kind: str, runs: Path, resumes: bool) -> Path:
    every = _in_order_of_time(runs, "")
    if not every:
        raise UserError(
            f"{runs} holds no run with a {kind} checkpoint: train one with `fit`, "
            "afresh without --ckpt_path, or give --ckpt_path FILE."
        )
    newest = every[-1].parent  # An older run's would be taken for the newest one's.
    if (without := _begun_behind(every[-1], runs)) is not None:
        if resumes:
            raise UserError(
                f"The newest run, {without}, has no checkpoint: begin anew without --ckpt_path, or go on with an "
                f"earlier one, as by --ckpt_path={newest.parent}."
            )
        say(f"{without} is newer, and has no checkpoint", sys.stderr)
    found = _of_kind(kind, every, newest)
    if not found:
        others = "--ckpt_path last or FILE" if kind == BEST else "--ckpt_path FILE"
        raise UserError(f"The newest run, {newest.parent}, has no {kind} checkpoint: give {others}.")
    return best_of(found)


def _begun_behind(checkpoint: Path, runs: Path) -> Path | None:
    """The run that began last, if that was behind a checkpoint and it has none itself, as where it was killed early."""
    latest = _by_time([checkpoint, *runs.rglob(PROVENANCE)])[-1]
    has_one = latest == checkpoint or any(latest.parent.glob("checkpoints/*.ckpt"))
    return None if has_one else latest.parent


def _of_folder(folder: Path, kind: str) -> Path:
    # A run's own come before those of runs below it.
    own = [here for here in (folder, folder.absolute(), folder / "checkpoints") if here.name == "checkpoints"]
    every = _in_order_of_time(next((here for here in own if here.is_dir()), folder), "")
    # A run may keep its checkpoints in another place than Lightning's.
    every = every or _by_time(folder.glob("*.ckpt"))
    if not every:
        raise UserError(f"{folder} holds no run with a checkpoint: give a run's folder, or a .ckpt file.")
    found = _of_kind(kind, every, every[-1].parent)
    if not found:
        where = every[-1].parent
        run = where.parent if where.name == "checkpoints" else where
        raise UserError(f"The run {run} has no {kind} checkpoint: give another, such as --ckpt_path={every[-1]}.")
    return best_of(found)


def _of_kind(kind: str, files: list[Path], folder: Path) -> list[Path]:
    here = [file for file in files if file.parent == folder]
    # The best may be called otherwise, by --checkpoint.filename.
    return [file for file in here if file.name.startswith(kind)] or (held_for_best(here) if kind == BEST else [])


def with_own_config(args: list[str], commands: Collection[str]) -> list[str]:
    """Lets a command that names no config take that of the run whose checkpoint it is about.

    Args:
        args: Of the command line, the command first.
        commands: Those that are about a checkpoint, or may be.

    Returns:
        The arguments, with the config and the checkpoint that are meant.
    """
    # A switch may stand alone, which jsonargparse does not know of.
    bare = [i for i, arg in enumerate(args) if arg in SWITCHES and (args[i + 1 :] or ["-"])[0].startswith("-")]
    args = [f"{arg}=true" if i in bare else arg for i, arg in enumerate(args)]
    if not args or args[0] not in commands or any(_asks(arg) for arg in args):
        return args
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("-c", "--config")
    peek.add_argument("--model")
    # One that is named is gone on with.
    resumes = args[0] == "fit"
    peek.add_argument("--ckpt_path", default=None if resumes else BEST)
    peek.add_argument("--trainer.default_root_dir", dest="root", default=".")
    given, _ = peek.parse_known_args(args[1:])
    named = given.config or given.model or any(arg.startswith("--model.class_path") for arg in args)
    if named or given.ckpt_path in (None, "null"):
        return args
    root = expanded(given.root)
    checkpoint = find_checkpoint(given.ckpt_path, root, kind=LAST if resumes else BEST)
    run = run_of(checkpoint)
    # What lies among one's own runs is one's own; anybody may have written what comes from elsewhere.
    if run is not None and run.resolve().is_relative_to((root / LOGS).resolve()):
        told = f"Settings of {run}"
        config = str(run / CONFIG)
    elif resumes:
        # A checkpoint does not tell how it was trained.
        own = run / CONFIG if run is not None else "FILE"
        raise UserError(f"{checkpoint} is of no run in {root / LOGS}: give its settings, too, with --config={own}.")
    else:
        told = "Settings of the checkpoint"
        config = settings_in(checkpoint)
    # `summary` prints a table, which a program may read.
    say(told, sys.stderr if args[0] == "summary" else None)
    # It may have been trained on several machines, and this is one of them, unless a launcher says otherwise.
    alone = not resumes and not {"WORLD_SIZE", "SLURM_NNODES"} & os.environ.keys()
    nodes = ["--trainer.num_nodes=1"] if alone else []
    return [args[0], "--config", config, *nodes, *args[1:], f"--ckpt_path={checkpoint}"]


def _asks(arg: str) -> bool:
    """Whether an argument asks for a text instead of a run."""
    option = arg.partition("=")[0]
    return option in ("-h", "--help", "--print_config") or option.endswith(".help")
