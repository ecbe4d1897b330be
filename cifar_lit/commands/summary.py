"""The table of a network's layers, and whether it keeps to a budget."""

import shutil
import sys
from pathlib import Path
from typing import Any, Literal

from torch import nn

from cifar_lit.console import say
from cifar_lit.errors import UserError
from cifar_lit.explain.layers import network_table
from cifar_lit.files import write_atomically

Format = Literal["text", "markdown", "csv", "json"]


def summarize(
    model: nn.Module,
    image_size: Any,
    output_format: Format = "text",
    output: Path | None = None,
    max_params: int | None = None,
    min_receptive_field: int | None = None,
) -> None:
    """Prints or writes the table, then holds it against the budget.

    Args:
        model: Maps images (N, 3, H, W).
        image_size: Height and width of the images in pixels, or one number for both.
        output_format: ``text`` for the terminal, or one for other programs.
        output: File to write to instead of the terminal.
        max_params: Most trainable parameters allowed.
        min_receptive_field: Least receptive field demanded, in pixels.

    Raises:
        UserError: The network cannot run, or a budget is broken.
    """
    try:
        table = network_table(model, image_size)
    except ValueError as error:
        raise UserError(f"No table of {type(model).__name__}: {error}.") from error
    if output_format == "text":
        width = shutil.get_terminal_size().columns if output is None and sys.stdout.isatty() else None
        text = table.to_text(width)
    else:
        text = {"markdown": table.to_markdown, "csv": table.to_csv, "json": table.to_json}[output_format]()
    if output is None:
        say(text.rstrip("\n"))
    else:
        write_atomically(output, text.rstrip("\n") + "\n")
        say(f"Wrote {len(table.rows)} layers to {output}")
    broken = []
    if max_params is not None and table.trainable_parameters > max_params:
        broken.append(f"{table.trainable_parameters:,} trainable parameters are more than the {max_params:,} allowed")
    field = table.largest_receptive_field
    if min_receptive_field is not None and (field is None or field < min_receptive_field):
        if table.first_unknown is None:
            broken.append(f"the receptive field of {field} pixels is less than {min_receptive_field}")
        else:
            least = f"at least {field} pixels, but not" if field else "not"
            broken.append(f"the receptive field is {least} known to be {min_receptive_field} ({table.first_unknown})")
    if broken:
        raise UserError(f"Budget broken: {'; '.join(broken)}.")
