"""`dit-eval plot`: the figures of the report as pictures."""

from __future__ import annotations

from pathlib import Path

import click

from dit_eval.commands import options


@click.command()
@click.argument("results", nargs=-1, required=True, type=options.FILE)
@click.option("--out", type=options.FOLDER, default=".", show_default=True, help="Folder for the PNG files.")
def plot(results: tuple[Path, ...], out: Path) -> None:
    """The figures of the report, of RESULTS (JSON), as PNG files.

    FID and IS against guidance, precision against recall, FID against Gflops, precision and recall by class:
    those that these results fill.
    """
    from dit_eval.report.plots import save_figures  # matplotlib
    from dit_eval.results.result import read_result

    for path in save_figures(out, [read_result(result) for result in results]):
        click.echo(path)
