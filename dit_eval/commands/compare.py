"""`dit-eval compare`: any number of results in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dit_eval.commands import options
from dit_eval.commands.colour import colour, colour_marks
from dit_eval.commands.progress import print_warnings, terminal_width

if TYPE_CHECKING:
    from dit_eval.results.compare import Order, Target
    from dit_eval.results.compare_formats import Format


@click.command()
@click.argument("results", nargs=-1, required=True, type=options.RESULTS)
@click.option(
    "--to",
    type=click.Choice(["first", "best"]),
    default="first",
    show_default=True,
    help="Mark the differences to the first row, or to the best value of each column.",
)
@click.option(
    "--by",
    type=click.Choice(["given", "step"]),
    default="given",
    show_default=True,
    help="Order of the rows: as given, or by the training step in the label or the file name.",
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "markdown", "latex", "csv", "json"]),
    default="text",
    show_default=True,
    help="Output format; csv and json contain exact numbers, latex needs booktabs and graphicx.",
)
@click.option(
    "--plot",
    type=options.Output(".svg", ".png", ".pdf"),
    help="Also plot the metrics against the training step.",
)
def compare(results: tuple[Path, ...], to: Target, by: Order, style: Format, plot: Path | None) -> None:
    """Compare RESULTS in one table.

    RESULTS are JSON files written by `dit-eval fid`, or folders of them. The table shows every setting that
    differs, and marks differences that are larger than chance explains. Results that do not measure the same
    thing have tables of their own, with the reason.
    """
    from dit_eval.results.compare import compare as run_compare  # imports numpy
    from dit_eval.results.compare_formats import as_text, render

    comparison = run_compare(*results, to=to, by=by)
    print_warnings(comparison.warnings)
    if plot is not None:
        from dit_eval.report.history import plot_history  # imports matplotlib

        plot_history(plot, comparison)
    if style == "text":
        click.echo(colour_marks(as_text(comparison, terminal_width())), color=colour())
    else:
        click.echo(render(comparison, style))
