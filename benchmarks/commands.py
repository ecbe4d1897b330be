"""The command line as processes, for benchmarks that run it: told to stop, they end what they have started, too."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

# What `command` has started and waits for, and whether it may start more.
RUNNING: set[subprocess.Popen[str]] = set()
STOPPED = threading.Event()
_STARTING = threading.Lock()
# For a job that adds to what other jobs add to, too.
ADDING = threading.Lock()


def command(*arguments: str) -> tuple[float, str]:
    """Seconds that a command of the command line takes as a process, and what it prints.

    Raises:
        subprocess.CalledProcessError: It did not end with 0.
        InterruptedError: This program was told to stop.
    """
    begun = time.perf_counter()
    # A narrow terminal would break the table.
    environment = {**os.environ, "COLUMNS": "200"}
    asked = [sys.executable, "-m", "cifar_lit", *arguments]
    with _STARTING:
        if STOPPED.is_set():
            raise InterruptedError(f"{arguments[0]} was not begun: this program was told to stop.")
        process = subprocess.Popen(asked, env=environment, stdout=subprocess.PIPE, text=True)
        RUNNING.add(process)
    with process:
        printed, _ = process.communicate()
    RUNNING.discard(process)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, asked)
    return time.perf_counter() - begun, printed


def run_jobs(jobs: Iterable[Callable[[], object]], at_once: int = 1) -> None:
    """Runs jobs that wait for commands, one after another or some at once, each with its share of the cores.

    One that fails does not keep the others from running; what it failed of is raised when all are done.

    Raises:
        SystemExit: This program was told to stop, by Ctrl-C or SIGTERM. All that its jobs had started has ended;
            `fit` saves before it does.
    """
    share_cores(at_once)
    # Not where it is ignored, as in the background of a shell.
    kinds = [kind for kind in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(kind) is not signal.SIG_IGN]
    # Nothing is raised: it might be while a thread of the pool begins, for which nobody would wait any more.
    before = {kind: signal.signal(kind, _stop_commands) for kind in kinds}
    try:
        with ThreadPoolExecutor(at_once) as pool:
            runs = [pool.submit(_unless_stopped, job) for job in jobs]
        if STOPPED.is_set():
            print("Stopped: the same command does what is not done yet.", file=sys.stderr)
            sys.exit(130)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        STOPPED.clear()
    for one in runs:
        one.result()


def share_cores(runs: int) -> None:
    """Gives each of some runs at once, processes that this one starts, its share of the cores."""
    if runs > 1:
        # Two runs of one thread each get more done than one of two.
        threads = max((os.cpu_count() or 1) // runs, 1)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        # What results say of the machine.
        torch.set_num_threads(threads)


def _unless_stopped(job: Callable[[], object]) -> None:
    if not STOPPED.is_set():
        job()


def _stop_commands(*_: object) -> None:
    """Tells all that `command` has started to stop, and lets it start no more: what a signal's handler does."""
    # Threads of the pool alone hold it, and not the main one, in which handlers run.
    with _STARTING:
        STOPPED.set()
        for process in tuple(RUNNING):
            process.terminate()
