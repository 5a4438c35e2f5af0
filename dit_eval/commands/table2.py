"""`dit-eval table2` and `dit-eval reproduce table2`: the paper's table with further rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import extraction_bar, print_warnings, sampling_bar, terminal_width

if TYPE_CHECKING:
    from dit_eval.results.result import Result


@click.command("table2")
@click.argument("results", nargs=-1, type=options.RESULT)
def table(results: tuple[Path, ...]) -> None:
    """Print table 2 of the DiT paper with rows for RESULTS.

    RESULTS are JSON files written by `dit-eval fid`. Those that are not comparable with the paper, e.g.
    because they are of 10,000 images, are listed separately with the reason.
    """
    from dit_eval.results.result import read_result  # imports numpy

    print_table([read_result(path) for path in results])


@click.group()
def reproduce() -> None:
    """Reproduce a published table."""


@reproduce.command("table2")
@click.option("--out", type=options.FOLDER, required=True, help="Folder for batches, results and report.")
@click.option(
    "--model",
    default="XL/2",
    show_default=True,
    shell_complete=options.completed_by(options.registered_models),
    help="Registered model.",
)
@options.num_samples(help="Images per batch.  [default: the model's, or 50000]")
@options.inception
@options.device
@options.sampling_performance
def reproduce_table(out: Path, **settings: Any) -> None:
    """Sample at guidance scales 1.0, 1.25 and 1.5 and evaluate.

    Prints the table and writes OUT/report.html. Resumable: rerun the same command after any interruption.
    Under torchrun the processes share the work.
    """
    from dit_eval.diagnostics.reproduce import reproduce_table2  # imports torch

    settings |= {"sampling_progress": sampling_bar, "evaluation_progress": extraction_bar}
    settings["command"] = options.command_line()
    results = reproduce_table2(out, **settings)
    if results is None:  # a rank other than 0
        return
    print_warnings(warning for result in results for warning in result.warnings)
    print_table(results)
    click.echo(f"\nReport: {out / 'report.html'}")


def print_table(results: list[Result], paper: bool = True) -> None:
    """Print the table; paper: with the paper's rows even if no result is comparable with them."""
    from dit_eval.results.table2 import table2

    click.echo(table2(results).text(width=terminal_width(), paper=paper))
