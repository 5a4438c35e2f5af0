"""Tables and sentences as text of a given width, and tables as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def render_text(*parts: str | Table, width: int = 80) -> str:
    """Sentences and tables below one another; file names are neither broken nor read as markup."""
    console = Console(
        width=width, color_system=None, force_jupyter=False, highlight=False, markup=False, emoji=False
    )
    with console.capture() as capture:
        for part in parts:
            if isinstance(part, str):
                part = fill(part, width, break_long_words=False, break_on_hyphens=False)
                console.print(part, soft_wrap=True)
            else:
                console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def natural_width(table: Table) -> int:
    """The columns that a table takes if nothing in it is wrapped."""
    return Console(width=10_000).measure(table).maximum


def dense_table() -> Table:
    """A table with minimal padding."""
    return Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Records with the same keys as CSV with a line of headings."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue().rstrip()
