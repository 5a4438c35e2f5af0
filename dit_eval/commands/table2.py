"""`dit-eval table2` and `dit-eval reproduce table2`: the paper's table, with rows of one's own."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import progress_bar, sampling_bar
from dit_eval.results.result import Result, read_result
from dit_eval.results.table2 import table2


@click.command("table2")
@click.argument("results", nargs=-1, type=options.FILE)
def table(results: tuple[Path, ...]) -> None:
    """The DiT paper's table 2, with rows of RESULTS (JSON).

    Rows that measure something else, such as 10,000 images, stand apart with the reason.
    """
    print_table([read_result(path) for path in results])


@click.group()
def reproduce() -> None:
    """A published table from the beginning: table2."""


@reproduce.command("table2")
@click.option("--out", type=options.FOLDER, required=True, help="Folder for batches, results and report.")
@click.option("--model", default="XL/2", show_default=True, help="A registered model.")
@click.option(
    "--num", type=click.IntRange(min=1), help="Images of a batch.  [default: the model's, or 50000]"
)
@options.inception
@options.device
def reproduce_table(out: Path, **settings: Any) -> None:
    """Sample at guidance 1.0, 1.25 and 1.5, measure and report.

    Prints the table and writes OUT/report.html. The same command goes on after an interruption; under
    torchrun the processes share the work.
    """
    from dit_eval.diagnostics.reproduce import reproduce_table2  # torch loads here, so --help stays instant

    measuring = partial(progress_bar, "images")
    results = reproduce_table2(out, drawing=sampling_bar, measuring=measuring, **settings)
    if results is None:  # a rank other than 0
        return
    for warning in dict.fromkeys(warning for result in results for warning in result.warnings):
        click.echo(f"Warning: {warning}", err=True)
    print_table(results)
    click.echo(f"\nThe report: {out / 'report.html'}")


def print_table(results: list[Result], paper: bool = True) -> None:
    """The table on standard output; paper: with the paper's rows even if no result compares with them."""
    click.echo(table2(results).text(width=min(shutil.get_terminal_size().columns, 100), paper=paper))
