"""Tables and sentences as a terminal of some width shows them."""

from __future__ import annotations

from textwrap import fill

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def render_text(*parts: str | Table, width: int = 80, colour: bool = False) -> str:
    """Sentences and tables below one another; a file's name in a sentence is neither markup nor broken."""
    console = Console(
        width=width, force_terminal=colour, no_color=not colour, highlight=False, markup=False, emoji=False
    )
    with console.capture() as capture:
        for part in parts:
            if isinstance(part, str):
                lines = fill(part, width, break_long_words=False, break_on_hyphens=False)
                console.print(lines, soft_wrap=True)
            else:
                console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def dense_table() -> Table:
    """A table with no more space than separates its columns."""
    return Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
