"""Kills a run without warning, again and again, and looks whether what comes of it is the run that nobody killed.

    python -m benchmarks.survival [--kills 20] [--executors device workers-0 workers-2]

For each way of making batches a run is trained to its end once. Then, for each kill, a run of its own is started,
killed with SIGKILL and resumed with ``--ckpt_path last`` (started afresh where it had not saved yet), until its end. A
third of the kills strike at a random moment of the run, a third at a random moment around a checkpoint, a third while a
checkpoint is being written. Weights, optimizer and every scalar in TensorBoard must be equal, bit for bit.

Runs are forked from a process that has imported everything, so that a kill costs seconds.
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.measure import parser, positive, save
from cifar_lit.cli import main as command_line
from cifar_lit.console import hush_libraries

EXECUTORS = {
    "device": ["--data.executor=device"],
    "workers-0": ["--data.executor=workers", "--data.num_workers=0"],
    "workers-2": ["--data.executor=workers", "--data.num_workers=2"],
}
RUN = [
    *["fit", "--model=DepthwiseNet", "--model.widths=[[16],[32]]", "--model.dropout=[0.1,0.1]"],
    *["--model.schedule=OneCycle", "--data=DigitsDataModule", "--data.batch_size=32", "--seed_everything=5"],
    "--data.transforms=[{class_path: Affine, init_args: {rotate: [-20, 20]}}, {class_path: CoarseDropout}]",
    *["--trainer.max_epochs=4", "--trainer.log_every_n_steps=5", "--trainer.accelerator=cpu"],
    # Half a second: several in an epoch.
    "--checkpoint.every_n_minutes=0.008",
]
# What differs between any two runs: speeds, moments, paths.
SPEED = "images_per_second"
MOMENTS = ("random moment", "around a checkpoint", "within a write")
# Seconds after which a run that was not killed counts as stuck.
PATIENCE = 300.0


def start(arguments: Sequence[str], log: Path) -> int:
    """Forks a process that runs the command line, in a session of its own; returns its number."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    os.setsid()
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 1
    try:
        command_line(arguments)
        code = 0
    except SystemExit as end:
        print(end.code)
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(process: int) -> int | None:
    """The exit status of a process, or None while it runs."""
    number, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if number else None


def kill(process: int) -> None:
    """Ends a process and its workers as a power cut would."""
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)


def finish(arguments: Sequence[str], log: Path) -> None:
    """Runs to the end.

    Raises:
        RuntimeError: It fails, or does not end.
    """
    process, deadline = start(arguments, log), time.monotonic() + PATIENCE
    while (status := ended(process)) is None:
        if time.monotonic() > deadline:
            kill(process)
            status = -1
            break
        time.sleep(0.02)
    if status:
        raise RuntimeError(f"exit status {status}: {log.read_text(encoding='utf-8')[-500:]}")


def strike(arguments: Sequence[str], folder: Path, moment: str, seconds: float, draw: random.Random) -> bool:
    """Starts a run and kills it at a moment of the kind; False where it ended before.

    Args:
        arguments: Of the command line.
        folder: That it writes to.
        moment: One of `MOMENTS`.
        seconds: That a whole run takes.
        draw: Decides when.
    """
    process, begun = start(arguments, folder / "log"), time.monotonic()
    at, wanted, seen = draw.uniform(0.2, 1.0) * seconds, draw.randint(1, 8), 0
    delay, latest = draw.uniform(0, 0.05), begun + seconds * 2
    partial_before: set[str] = set()
    while ended(process) is None:
        now = time.monotonic()
        if moment == "random moment":
            if now - begun >= at:
                kill(process)
                return True
        else:
            partial = {str(path) for path in folder.glob("**/checkpoints/.*.partial")}
            if partial - partial_before:
                seen += 1
                if seen >= wanted:
                    time.sleep(delay if moment == "around a checkpoint" else 0)
                    kill(process)
                    return True
            partial_before = partial
            if now > latest:
                break
        time.sleep(0.0005)
    return False


def last_checkpoint(folder: Path) -> dict[str, Any]:
    """What the last checkpoint of the run in a folder holds."""
    content: dict[str, Any] = torch.load(next(folder.rglob("last.ckpt")), weights_only=True)
    return content


def outcome(folder: Path) -> dict[str, Any]:
    """What a run ended in: its last checkpoint's tensors by place, and its scalars by chart and step."""
    checkpoint = last_checkpoint(folder)
    found: dict[str, Any] = {"epoch": checkpoint["epoch"], "step": checkpoint["global_step"]}
    for name, value in checkpoint["state_dict"].items():
        found[f"weights {name}"] = value
    for index, state in checkpoint["optimizer_states"][0]["state"].items():
        found.update({f"optimizer {index} {name}": value for name, value in state.items()})
    for events in {path.parent for path in folder.rglob("events.out.tfevents.*")}:
        split = "" if events.name.startswith("version_") else events.name
        accumulator = EventAccumulator(str(events), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
        for chart in accumulator.Tags()["scalars"]:
            if SPEED not in chart:
                for event in accumulator.Scalars(chart):
                    # What was logged between the checkpoint and the kill is logged again.
                    found.setdefault(f"scalar {split} {chart} {event.step}", set()).add(event.value)
    return found


def went_on(folder: Path) -> bool:
    """Whether the last start of a run went on from a step, and did not begin it anew, which would end as it does."""
    return bool(last_checkpoint(folder)["provenance"][-1]["from_step"] > 0)


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Names of what is not equal, or there only once."""

    def equal(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else bool(a == b)

    names = expected.keys() | found.keys()
    return sorted(n for n in names if n not in expected or n not in found or not equal(expected[n], found[n]))


def survive(executor: str, kills: int, folder: Path) -> dict[str, Any]:
    """Kills runs of an executor and compares each with the one that was left alone."""
    draw = random.Random(executor)
    whole = folder / "whole"
    whole.mkdir(parents=True)
    arguments = [*RUN, *EXECUTORS[executor]]
    begun = time.monotonic()
    finish([*arguments, f"--trainer.default_root_dir={whole}"], whole / "log")
    seconds = time.monotonic() - begun
    expected = outcome(whole)
    tries: list[dict[str, Any]] = []
    while len(tries) < kills:
        moment = MOMENTS[len(tries) % len(MOMENTS)]
        own = folder / f"kill-{len(tries)}"
        own.mkdir()
        mine = [*arguments, f"--trainer.default_root_dir={own}"]
        if not strike(mine, own, moment, seconds, draw):
            # It ended first: this was no kill.
            own.rename(folder / f"ended-{time.monotonic_ns()}")
            continue
        saved = any(own.rglob("last.ckpt"))
        has_more_to_do = saved and last_checkpoint(own)["global_step"] < expected["step"]
        try:
            finish([*mine, "--ckpt_path=last"] if saved else mine, own / "log")
            wrong = differences(expected, outcome(own))
            wrong += ["it began anew"] if has_more_to_do and not went_on(own) else []
        except (RuntimeError, StopIteration) as error:
            wrong = [str(error)]
        left = [path.name for path in own.rglob("*.partial")]
        tries.append({"moment": moment, "resumed": saved, "wrote": bool(left), "wrong": wrong[:5]})
        print(f"{executor} {len(tries)}: {tries[-1]}", flush=True)
    return {
        "kills": kills,
        "equal_to_the_bit": sum(not one["wrong"] for one in tries),
        "resumed_from_a_checkpoint": sum(one["resumed"] for one in tries),
        "killed_while_one_was_being_written": sum(one["wrote"] for one in tries),
        "tensors_and_scalars_compared": len(expected),
        "wrong": [one for one in tries if one["wrong"]],
    }


def main(args: Sequence[str] | None = None) -> None:
    """Kills, compares, and writes ``results/survival.json``."""
    options = parser(__doc__)
    options.add_argument("--kills", type=positive, default=20)
    options.add_argument("--executors", nargs="+", choices=EXECUTORS, default=list(EXECUTORS))
    given = options.parse_args(args)
    hush_libraries()
    with tempfile.TemporaryDirectory() as folder:
        figures = {name: survive(name, given.kills, Path(folder, name)) for name in given.executors}
    save("survival", {"what": "runs killed with SIGKILL and resumed, beside one left alone", **figures}, given.output)
    if any(one["equal_to_the_bit"] != one["kills"] for one in figures.values()):
        sys.exit("Not every run came to the same end.")


if __name__ == "__main__":
    main()
