"""What worker processes that make batches do at the end of a run, and what they say."""

import atexit
import os
import signal
from collections.abc import Iterable, Iterator
from multiprocessing.util import Finalize
from typing import Any
from weakref import WeakSet

import cv2
import torch
from pytorch_lightning import Trainer

from cifar_lit.errors import UserError

# Whose workers are to be ended with the process, by its number: one that is forked has those of the other.
_LOADERS: dict[int, WeakSet[Any]] = {}


def default_workers(device: torch.device, trainer: Trainer | None) -> int:
    """How many a process has: beside a GPU up to 8, of the CPUs that it may use."""
    if device.type != "cuda":
        # The network takes all cores, and a worker only takes one away from it.
        return 0
    every = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else every
    # A launcher may have given each rank its own; otherwise they share them.
    ranks = trainer.num_devices if trainer is not None and usable == every else 1
    return max(min(8, usable // ranks), 1)


def begin_worker(worker: int) -> None:
    """Leaves signals to the run, and cores to other workers.

    Ctrl-C and a batch system's SIGTERM reach workers, too. The run finishes its step, for which it needs them. The
    second SIGTERM is meant for the worker.

    Args:
        worker: Its number.
    """
    # One that was not forked has OpenCV's own number of threads, that of all cores.
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


def end_workers_at_exit(loader: Any) -> None:
    """Ends a loader's workers with the process, if nobody has before, as behind an error in validation.

    Python would send each one SIGTERM, which they leave to the run, and wait for them for ever.

    Args:
        loader: Whose ``_iterator`` is torch's, and has them, or None.
    """
    process = os.getpid()
    if process not in _LOADERS:
        _LOADERS[process] = WeakSet()
        # Behind multiprocessing, which does so, and hence called before it. Processes that it began itself do not come
        # to that, and call their finalizers first.
        atexit.register(_end_workers)
        Finalize(None, _end_workers, exitpriority=1)
    _LOADERS[process].add(loader)


def _end_workers() -> None:
    for loader in [*_LOADERS.get(os.getpid(), ())]:
        if loader._iterator is not None:
            loader._iterator._shutdown_workers()


def spoken_plainly(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches of a loader with workers; what one of these says to users is a line, as it is in this process.

    Args:
        batches: Of the loader.

    Raises:
        UserError: A worker did.
    """
    try:
        yield from batches
    except UserError as error:
        # torch has put the worker's traceback before it.
        raise UserError(str(error).rpartition(f"{UserError.__name__}: ")[2].strip()) from None
