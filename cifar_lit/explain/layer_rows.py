"""What a layer table says, and its four renderings: terminal text, Markdown, CSV and JSON."""

import csv
import io
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass

TEXT_HEADINGS = (
    "layer", "kind", "kernel", "stride", "dilation", "output",
    "params", "BN stats", "MACs", "field", "jump",
)  # fmt: skip
SHORT_HEADINGS = {"kernel": "k", "stride": "s", "dilation": "d"}  # for a narrow terminal
MIN_WIDTHS = {1: 11, 0: 12}  # of kinds, then of names; a terminal that is too narrow even so will wrap


@dataclass(frozen=True)
class LayerRow:
    """One executed layer.

    Attributes:
        name: qualified name of the module; of an operation outside any layer: its module's name, then its own.
        kind: class of the layer, such as ``depthwise Conv2d``, or of the operation, such as ``Add``.
        kernel: window, one number an axis, as the module declares it; None for layers without one.
        stride: likewise.
        dilation: likewise.
        output_size: shape of one output, (C, H, W) for a feature map.
        parameters: trainable ones; of a layer that is executed repeatedly in its first row only.
        batchnorm_statistics: elements of running mean and variance.
        macs: multiply-adds for one image, of convolutions and matrix products.
        receptive_field: (height, width) in pixels of the input, padding included; None where it cannot be told.
        jump: (height, width) in pixels of the input between neighbouring positions; None where there are none.
        note: why there is no receptive field.
    """

    name: str
    kind: str
    kernel: tuple[int, ...] | None
    stride: tuple[int, ...] | None
    dilation: tuple[int, ...] | None
    output_size: tuple[int, ...]
    parameters: int
    batchnorm_statistics: int
    macs: int
    receptive_field: tuple[int, int] | None
    jump: tuple[int, int] | None
    note: str = ""

    def cells(self) -> list[str]:
        """The row as text, in the order of `TEXT_HEADINGS`."""
        return [
            self.name,
            self.kind,
            _numbers(self.kernel) or "–",
            _numbers(self.stride) or "–",
            _numbers(self.dilation) or "–",
            "×".join(map(str, self.output_size)),
            f"{self.parameters:,}",
            f"{self.batchnorm_statistics:,}",
            f"{self.macs:,}",
            _numbers(self.receptive_field) or "?",
            _numbers(self.jump) or ("–" if self.receptive_field else "?"),
        ]


@dataclass(frozen=True)
class LayerTable:
    """The layers of a network in the order of execution.

    Attributes:
        rows: one an executed layer.
        input_size: (C, H, W) of the image that the figures hold for.
        trainable_parameters: of the whole network, each once, executed or not.
        batchnorm_statistics: elements of all running means and variances (without the counters of batches).
        notes: where and why a receptive field cannot be told; what was not executed.
    """

    rows: tuple[LayerRow, ...]
    input_size: tuple[int, int, int]
    trainable_parameters: int
    batchnorm_statistics: int
    notes: tuple[str, ...] = ()

    @property
    def parameters_with_statistics(self) -> int:
        """Trainable parameters and BatchNorm statistics."""
        return self.trainable_parameters + self.batchnorm_statistics

    @property
    def macs(self) -> int:
        """Multiply-adds of one forward of one image, of convolutions and matrix products."""
        return sum(row.macs for row in self.rows)

    @property
    def largest_receptive_field(self) -> int | None:
        """The largest of any layer, in pixels of its smaller side; None where none can be told."""
        return max((min(row.receptive_field) for row in self.rows if row.receptive_field), default=None)

    @property
    def first_unknown(self) -> str | None:
        """Why there is no receptive field in the first row without one; None where all rows have theirs."""
        return next((row.note for row in self.rows if row.receptive_field is None), None)

    def totals(self) -> dict[str, int | None]:
        """The totals by machine key."""
        return {
            "trainable_parameters": self.trainable_parameters,
            "parameters_with_statistics": self.parameters_with_statistics,
            "macs": self.macs,
            "largest_receptive_field": self.largest_receptive_field,
        }

    def to_text(self, width: int | None = None) -> str:
        """The table for a terminal.

        Args:
            width: columns to keep to; long names and kinds are then shortened. None leaves them whole.
        """
        room = width or 10**9
        columns = list(zip(TEXT_HEADINGS, *(row.cells() for row in self.rows), strict=True))
        # Columns that say nothing give their room to those that do; then long headings, then statistics (their total
        # stays), at last what is long in names and kinds.
        columns = [c for c in columns if c[0] not in ("BN stats", "dilation") or set(c[1:]) - {"0", "–", "1"}]
        heading = self._heading()
        if _width(columns) > room:
            columns = [(SHORT_HEADINGS.get(c[0], c[0]), *c[1:]) for c in columns]
            heading += "; " + ", ".join(f"{short} {long}" for long, short in SHORT_HEADINGS.items())
        if _width(columns) > room:
            columns = [c for c in columns if c[0] != "BN stats"]
        for index, floor in MIN_WIDTHS.items():
            longest = max(max(map(len, columns[index])) - max(_width(columns) - room, 0), floor)
            # The end of a name and the start of a kind tell most.
            columns[index] = tuple(_shorten(cell, longest, keep_end=index == 0) for cell in columns[index])
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join(f"{c:<{w}}" if i < 2 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
            for cells in zip(*columns, strict=True)
        ]
        rule = "─" * len(lines[0])
        labels, values = zip(*self._footer(), strict=True)
        pads = max(map(len, labels)), max(map(len, values))
        footer = [f"{label:<{pads[0]}}  {value:>{pads[1]}}" for label, value in self._footer()]
        notes = [line for note in self.notes for line in textwrap.wrap(f"note: {note}", width or 120)]
        return "\n".join([*textwrap.wrap(heading, room), rule, lines[0], rule, *lines[1:], rule, *footer, *notes])

    def to_markdown(self) -> str:
        """The table as GitHub-flavoured Markdown."""
        align = ["---", "---", *["---:"] * (len(TEXT_HEADINGS) - 2)]
        lines = [list(TEXT_HEADINGS), align, *(row.cells() for row in self.rows)]
        table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines]
        totals = [f"- {label}: {value}" for label, value in self._footer()]
        notes = [f"- note: {note}" for note in self.notes]
        return "\n".join([self._heading(), "", *table, "", *totals, *notes]) + "\n"

    def to_csv(self) -> str:
        """One line a layer below a line of keys, those of the JSON, and a last one ``total``; 3×1 is 3x1, ? unknown."""
        file = io.StringIO()
        writer = csv.DictWriter(file, fieldnames=list(LayerRow.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            texts = {
                "kernel": _numbers(row.kernel, "x"),
                "stride": _numbers(row.stride, "x"),
                "dilation": _numbers(row.dilation, "x"),
                "output_size": "x".join(map(str, row.output_size)),
                "receptive_field": _numbers(row.receptive_field, "x") or "?",
                "jump": _numbers(row.jump, "x") or ("" if row.receptive_field else "?"),
            }
            writer.writerow({**asdict(row), **texts})
        total = {
            "name": "total",
            "parameters": self.trainable_parameters,
            "batchnorm_statistics": self.batchnorm_statistics,
            "macs": self.macs,
            "receptive_field": self.largest_receptive_field or "?",
        }
        writer.writerow(total)
        return file.getvalue()

    def to_json(self) -> str:
        """An object with ``input_size``, ``layers`` (the attributes of `LayerRow`), ``totals`` and ``notes``."""
        content = {
            "input_size": self.input_size,
            "layers": [asdict(row) for row in self.rows],
            "totals": self.totals(),
            "notes": self.notes,
        }
        return json.dumps(content, indent=2, ensure_ascii=False)

    def _heading(self) -> str:
        size = "×".join(map(str, self.input_size))
        return f"Input {size}; (receptive) field and jump in its pixels, MACs (multiply-adds) for one image"

    def _footer(self) -> list[tuple[str, str]]:
        field = self.largest_receptive_field
        least = "at least " if self.first_unknown is not None else ""
        return [
            ("trainable parameters", f"{self.trainable_parameters:,}"),
            ("with BatchNorm statistics", f"{self.parameters_with_statistics:,}"),
            ("multiply-adds", f"{self.macs:,}"),
            ("largest receptive field", "?" if field is None else f"{least}{field}"),
        ]


def _numbers(values: Sequence[int] | None, times: str = "×") -> str:
    """3 for (3, 3), 3×1 for (3, 1), nothing for None."""
    if values is None:
        return ""
    return str(values[0]) if len(set(values)) == 1 else times.join(map(str, values))


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) for column in columns) + 2 * (len(columns) - 1)


def _shorten(text: str, longest: int, keep_end: bool) -> str:
    if len(text) <= longest:
        return text
    return "…" + text[1 - longest :] if keep_end else text[: longest - 1] + "…"
