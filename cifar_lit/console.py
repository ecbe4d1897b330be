"""What the command line says: one line for what it does, one line for what went wrong."""

import logging
import re
import traceback
import warnings
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from cifar_lit.errors import UserError

TRACEBACK_VARIABLE = "CIFAR_LIT_TRACEBACK"


@rank_zero_only
def say(message: str) -> None:
    """Prints a line, once however many processes there are."""
    print(message, flush=True)


def hush_libraries() -> None:
    """Turns off what libraries say at every start and no user can act on."""
    # "GPU available: False", "Seed set to 42", tips for other products.
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        # Lightning looks for a DataLoader of its own kind of batch.
        r".*does not have many workers.*",
        # An epoch may well be shorter than the logging interval.
        r".*The number of training batches .* is smaller than the logging interval.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        # Lightning calls optimizer steps by a name of its own, which the schedule does not recognise.
        r".*Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`.*",
        # An evaluation finds its checkpoint in the same folder by another way of writing its path.
        r".*The dirpath has changed from.*",
        # The words are for Lightning's developers: a list of arguments and those of the process are never both used.
        r".*LightningCLI's args parameter is intended to run.*",
        # A setting of a transform that was a pair comes back from the saved config as a list, which means the same.
        r"(?s).*Dump of a value that does not round-trip.*",
        # TensorBoard's reader of protocol buffers, Lightning's use of torch's pytree.
        r".*LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", pattern)


def one_line(error: BaseException) -> str:
    """An error as a line that says what is wrong and what to do.

    Args:
        error: Anything that ended a command. A `UserError` speaks for itself; another is shortened, and for one that
            is nobody's doing the line says where it happened.
    """
    if isinstance(error, UserError):
        return f"cifar-lit: {_single(str(error))}"
    if type(error).__name__ in ("ArgumentError", "ArgumentTypeError"):
        return f"cifar-lit: {_parsing_problem(str(error))}"
    if type(error).__name__ == "MisconfigurationException":
        return f"cifar-lit: {_single(str(error))}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return (
        f"cifar-lit: {type(error).__name__}{place}: {_single(str(error))} "
        f"({TRACEBACK_VARIABLE}=1 shows the whole traceback)"
    )


def _single(text: str, limit: int = 400) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _parsing_problem(text: str) -> str:
    """The gist of jsonargparse's report: which option, and the innermost of the nested reasons."""
    # Branches of Optional[...] that never applied.
    lines = [line.strip(" -") for line in text.splitlines() if "<class 'NoneType'>" not in line]
    keys = [match[1] for line in lines if (match := re.match(r'Parser key "([^"]+)"', line))]
    classes = [match[1] for line in lines if (match := re.match(r"Problem with given class_path '([^']+)'", line))]
    option = "--" + ".".join(keys) if keys else ""
    for line in lines:
        if match := re.search(r"Option '([^']+)' is not accepted", line):
            name = classes[-1].rpartition(".")[2]
            return f"{name} has no option {match[1]!r}: see {option}.help {name}."
        if match := re.search(r"Expected a dot import path string: (.+)", line) or re.search(
            r"Unable to import .*?class_path '?([\w.]+)", line
        ):
            return (
                f"{option} does not know the class {match[1]!r}: give one of the README's, or module.Class of your own."
            )
        if match := re.search(r"[Uu]nrecognized arguments?: (.+)", line):
            return f"there is no option {match[1]}: see --help."
    skip = ("Parser key", "Problem with given class_path", "Does not validate", "Subtypes", "Errors:", "Given value")
    reasons = [line for line in lines if line and not line.startswith(skip)]
    reason = reasons[-1] if reasons else _single(text)
    return _single(f"{option}: {reason}" if option else reason)
