"""Tables and sentences as a terminal of some width shows them."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table


def shown(*parts: RenderableType, width: int = 80, colour: bool = False) -> str:
    """The parts below one another, as text without trailing blanks; brackets in a file's name are kept."""
    console = Console(
        width=width, force_terminal=colour, no_color=not colour, highlight=False, markup=False, emoji=False
    )
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def dense_table() -> Table:
    """A table with no more space than separates its columns."""
    return Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
