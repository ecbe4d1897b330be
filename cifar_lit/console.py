"""What the command line says: one line for what it does, one line for what went wrong."""

import logging
import os
import re
import select
import signal
import sys
import threading
import time
import traceback
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TextIO

from pytorch_lightning.utilities import rank_zero_only

from cifar_lit.errors import TRACEBACK_VARIABLE, UserError
from cifar_lit.parser_reports import parsing_problem, shown, single

# Gloo's words and NCCL's.
RANK_LOST = re.compile(r"Connection (closed|reset) by|Connection was likely closed|remote process exited|Broken pipe")
# PyTorch's words on a GPU and on a CPU, and NumPy's.
MEMORY_FULL = re.compile(r"out of memory|[Cc]an(no|')t allocate memory|Unable to allocate|CUBLAS_STATUS_ALLOC_FAILED")
MEMORY_ASKED = re.compile(r"allocate (\d[\d.]* \w+)")
# PyTorch's words about a weight, and Lightning's about a run's length.
SIZES_DIFFER = re.compile(r"size mismatch for (\S+): .*?torch\.Size\((\[.*?\])\).*?torch\.Size\((\[.*?\])\)")
# Files that text is read by, and those that read settings.
OF_PYTHON = re.compile(r"codecs|pathlib")
OF_PARSER = re.compile(r"[/\\](jsonargparse|yaml|omegaconf|fsspec)[/\\]")
EPOCHS_OVER = re.compile(r"current_epoch=\d+, but you have set Trainer\(max_epochs=(\d+)\)")
# How long a further process waits for the first one to say what is wrong.
FIRST_RANK_SECONDS = 20.0
# Names that a message lists.
NAMED = 5


@rank_zero_only
def say(message: str, file: TextIO | None = None) -> None:
    """Prints a line, once however many processes there are, on stdout unless another file is given."""
    print(message, file=file, flush=True)


def printable(name: str) -> str:
    """A name as text, whatever the bytes of the file or folder that it was."""
    text = os.fsencode(name).decode("utf-8", "replace")
    # No font has a sign for a line's end, and no table a place.
    return "".join("�" if unicodedata.category(sign) == "Cc" else sign for sign in text)


def first_names(names: Sequence[str]) -> str:
    """The first of some names, as text, with dots for the others: a list of any length stays a line."""
    return ", ".join(map(printable, names[:NAMED])) + (", …" if len(names) > NAMED else "")


def hush_libraries() -> None:
    """Turns off what libraries say at every start and no user can act on."""
    # "GPU available: False", "Seed set to 42", tips for other products.
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # But not that another process died and why this one ends, too.
    logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    # And not what --trainer.profiler was asked for.
    logging.getLogger("pytorch_lightning.profilers.profiler").setLevel(logging.INFO)
    for pattern in (
        # Lightning looks for a DataLoader of its own kind of batch.
        r".*does not have many workers.*",
        # An epoch may well be shorter than the logging interval.
        r".*The number of training batches .* is smaller than the logging interval.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        # Lightning calls optimizer steps by a name of its own, which the schedule does not recognise.
        r".*Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`.*",
        # Whether a run is also saved by the clock may change from one start to the next.
        r".*add the following callbacks: \[\"LastCheckpoint\{((?!\}\").)*\}\"\]",
        # An evaluation finds its checkpoint in the same folder by another way of writing its path.
        r".*The dirpath has changed from.*",
        # The words are for Lightning's developers: a list of arguments and those of the process are never both used.
        r".*LightningCLI's args parameter is intended to run.*",
        # A setting of a transform that was a pair comes back from the saved config as a list, which means the same.
        r"(?s).*Dump of a value that does not round-trip.*",
        # Of matplotlib; which letters there are not is said by whoever draws them.
        r".*Glyph .* missing from.*",
        # TensorBoard's reader of protocol buffers, Lightning's use of torch's pytree.
        r".*LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", pattern)
    _hush_writers_of_curves()


def _hush_writers_of_curves() -> None:
    """Keeps TensorBoard's thread from printing why it cannot write, which whoever hands it the next curve is told."""
    tell = threading.excepthook
    if getattr(tell, "__module__", None) == __name__:
        return

    def told(args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__name__ != "_AsyncWriterThread":
            tell(args)

    threading.excepthook = told


def exit_with(error: BaseException) -> NoReturn:
    """Ends the process with the error's line; silently, as other commands, where what read its output has ended first.

    Args:
        error: Anything that ended a command.
    """
    with suppress(OSError, ValueError, AttributeError):  # Output that is no file; Windows has no poll.
        fd = sys.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        # Linux says the one of a pipe and the other of a socket, macOS the other of both.
        gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
        if gone and isinstance(error, BrokenPipeError):
            # Python writes at its end what is left, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
            sys.exit(128 + signal.SIGPIPE)
    if any(isinstance(link, UserError) for link in _chain(error)) and said_by_first_rank():
        sys.exit(1)
    sys.exit(one_line(error))


def said_by_first_rank() -> bool:
    """Whether this is a further process of a run whose first one has ended: what is wrong is wrong in all of them.

    It waits for that. Where the first goes on, the error is of this one alone, and has to be said here.
    """
    # Lightning sets it as soon as it knows.
    if getattr(rank_zero_only, "rank", 0) == 0:
        return False
    # Lightning's first process starts the others; torchrun starts all, and ends them when one has failed.
    parent = os.getppid()
    until = time.monotonic() + FIRST_RANK_SECONDS
    while time.monotonic() < until:
        if os.getppid() != parent:
            return True
        time.sleep(0.1)
    return False


def one_line(error: BaseException) -> str:
    """An error as a line that says what is wrong and what to do.

    Args:
        error: Anything that ended a command. A `UserError` speaks for itself, and so it does inside another error; a
            parser's report is reduced to its gist; for what is nobody's doing the line says where it happened.
    """
    for link in _chain(error):
        if isinstance(link, UserError):
            return f"cifar-lit: {single(str(link))}"
    # By name: argparse, jsonargparse and Lightning have several classes of these names.
    kind = type(error).__name__
    if kind in ("ArgumentError", "ArgumentTypeError") or str(error).startswith("Does not validate against any"):
        return f"cifar-lit: {parsing_problem(str(error))}"
    frames = traceback.extract_tb(error.__traceback__)
    of_lightning = bool(frames) and re.search(r"[/\\](pytorch_lightning|lightning_fabric)[/\\]", frames[-1].filename)
    if over := EPOCHS_OVER.search(str(error)):
        return (
            f"cifar-lit: The checkpoint's run has gone beyond epoch {over[1]}, which is --trainer.max_epochs: give "
            "more to go on, or take the checkpoint as it is."
        )
    if kind == "MisconfigurationException" or (of_lightning and kind in ("ValueError", "TypeError")):
        # Lightning's own words about an option.
        return f"cifar-lit: {single(str(error))}"
    if "Error(s) in loading state_dict" in str(error):
        differ = SIZES_DIFFER.search(str(error))
        where = f" ({differ[1]} has the sizes {differ[2]} there, {differ[3]} here)" if differ else ""
        return (
            f"cifar-lit: The checkpoint is of another architecture or number of classes than the settings{where}: "
            "leave --config out to take its run's own, or give the options and the data that it was trained with."
        )
    if RANK_LOST.search(str(error)):
        return (
            "cifar-lit: The connection to another process of this run is lost: see above what it said. Go on with "
            "--ckpt_path last."
        )
    # What read it, behind what Python itself does.
    reader = next((frame.filename for frame in reversed(frames) if not OF_PYTHON.search(frame.filename)), "")
    if isinstance(error, UnicodeDecodeError) and OF_PARSER.search(reader):
        return f"cifar-lit: A settings file is no UTF-8 text ({error}): save it as UTF-8."
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    full = next(
        (link for link in _chain(error) if isinstance(link, MemoryError) or MEMORY_FULL.search(str(link))), None
    )
    if full is not None:
        asked = MEMORY_ASKED.search(str(full))
        more = f" ({asked[1]} more were asked for)" if asked else ""
        apart = ", or with --data.executor=workers, which keeps the data set off the GPU" if "CUDA" in str(full) else ""
        return (
            f"cifar-lit: Memory is full{place}{more}: a fit needs less with a smaller --data.batch_size{apart} "
            f"({TRACEBACK_VARIABLE}=1 shows the whole traceback)"
        )
    return f"cifar-lit: {kind}{place}: {shown(str(error))} ({TRACEBACK_VARIABLE}=1 shows the whole traceback)"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
