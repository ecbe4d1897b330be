"""Processes for tests that start at once: forked from one that has imported what takes seconds to import."""

import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

# A server, because this process has threads, which a fork would lose.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["cifar_lit.cli"])
# They may take so long.
SECONDS = 240
# A program: the command line with its arguments.
COMMAND_LINE = "import sys; from cifar_lit.cli import main; main(sys.argv[1:])"


def _execute(program: str, arguments: list[str], environment: Mapping[str, str], folder: Path, said: Path) -> None:
    import torch

    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        written = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(written, descriptor)
        os.close(written)
    os.chdir(folder)
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.argv = ["program", *arguments]
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})


def run_on_ranks(
    program: str, ranks: int, folder: Path, *arguments: str, said: Path | None = None, **environment: str
) -> str:
    """Runs a program on ranks that meet as those of torchrun do.

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
    processes = []
    for rank in range(ranks):
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment, **(meet if ranks > 1 else {})}
        process = FORKS.Process(target=_execute, args=(program, list(arguments), variables, folder, said))
        process.start()
        processes.append(process)
    try:
        for process in processes:
            process.join(SECONDS)
        codes = [process.exitcode for process in processes]
        assert codes == [0] * ranks, f"{codes}: {said.read_text(encoding='utf-8') if said.is_file() else ''}"
    finally:
        for process in processes:
            process.kill()
    return said.read_text(encoding="utf-8")


def command(*arguments: str) -> tuple[float, str]:
    """As `benchmarks.time_to_accuracy.command`: seconds of a command of the command line, and what it prints."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        # A narrow terminal would break the table.
        said = run_on_ranks(COMMAND_LINE, 1, Path.cwd(), *arguments, said=Path(folder, "said.txt"), COLUMNS="200")
    return time.perf_counter() - begun, said
