"""Processes for tests that start at once: forked from one that has imported what takes seconds to import.

To Lightning they are ranks of torchrun. What they do not show is how an interpreter starts and ends, and what depends
on the seed of its hashes, which they share: tests of launchers and signals start programs instead.
"""

import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from io import TextIOWrapper
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_only

# A server, because this process has threads, which a fork would lose.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["cifar_lit.cli", "sklearn.datasets"])
# All of them may take so long.
SECONDS = 240
# A program: the command line with its arguments.
COMMAND_LINE = "import sys; from cifar_lit.cli import main; main(sys.argv[1:])"


def _execute(program: str, arguments: list[str], environment: Mapping[str, str], folder: Path, said: Path) -> None:
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        written = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(written, descriptor)
        os.close(written)
        assert isinstance(stream, TextIOWrapper)
        # What one has said that is killed is read, too.
        stream.reconfigure(line_buffering=True)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    # Which Lightning reads where it is imported.
    rank_zero_only.rank = int(environment.get("RANK", 0))  # type: ignore[attr-defined]
    sys.argv = ["program", *arguments]
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})


def _as_torchrun(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets for a rank of one machine."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    return {**{name: str(number) for name, number in numbers.items()}, **meeting}


def run_on_ranks(
    program: str, ranks: int, folder: Path, *arguments: str, said: Path | None = None, **environment: str
) -> str:
    """Runs a program on ranks.

    Args:
        program: Its source.
        ranks: How many; one is a process like any other.
        folder: Where it runs.
        *arguments: Its ``sys.argv``.
        said: File for what they say; by default one in the folder.
        **environment: Variables.

    Returns:
        What all ranks said on stdout and stderr.

    Raises:
        AssertionError: A rank did not end with 0, or not in time; with what they said.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = said or folder / "said.txt"
    said.unlink(missing_ok=True)
    processes: list[Any] = []
    try:
        for rank in range(ranks):
            meet = _as_torchrun(rank, ranks, port) if ranks > 1 else {}
            variables = {"OMP_NUM_THREADS": "1", **os.environ, **environment, **meet}
            process = FORKS.Process(target=_execute, args=(program, list(arguments), variables, folder, said))
            process.start()
            processes.append(process)
        deadline = time.monotonic() + SECONDS
        # One that failed leaves the others waiting for it.
        while any(process.exitcode is None for process in processes) and not any(p.exitcode for p in processes):
            alive = [process.sentinel for process in processes if process.exitcode is None]
            if not wait(alive, deadline - time.monotonic()):
                break
        codes = [process.exitcode for process in processes]
        assert codes == [0] * ranks, f"{codes}: {said.read_text(encoding='utf-8') if said.is_file() else ''}"
    finally:
        for process in processes:
            process.kill()
            process.join()
    return said.read_text(encoding="utf-8")


def command(*arguments: str) -> tuple[float, str]:
    """As `benchmarks.commands.command`: seconds of a command of the command line, and what it prints."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        # A narrow terminal would break the table.
        said = run_on_ranks(COMMAND_LINE, 1, Path.cwd(), *arguments, said=Path(folder, "said.txt"), COLUMNS="200")
    return time.perf_counter() - begun, said
