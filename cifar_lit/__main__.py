"""python -m cifar_lit."""

import gc
import io
import os
import sys
from pathlib import Path

from cifar_lit.spared_imports import SPARED, spared


def run() -> None:
    """Starts the command line."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    # Where `cifar-lit` starts it, too, classes of one's own are found in the working directory.
    if not sys.flags.safe_path and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    # An export is made by torch's compiler. `fit` gets it where --model.compile_mode asks for it.
    with spared(["scipy.signal"] if command == "export" else SPARED):
        start()
    if command == "summary":
        # It has written what it had to: taking all its objects down one by one would be 1.5 s of 5.8 s.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def start() -> None:
    """Imports the command line and runs it."""
    # Importing makes a million objects that stay: looking among them for garbage costs 0.8 of 4.8 s.
    gc.disable()
    from cifar_lit.cli import main

    # Nor need a collection look at them later, before the process ends.
    gc.freeze()
    gc.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Where × has no code, as in a file on Windows, it is a question mark and not a traceback.
            stream.reconfigure(errors="replace")
    try:
        main()
    finally:
        # Some bindings take what is still there at the end for lost, and say so at length.
        gc.unfreeze()


if __name__ == "__main__":
    run()
