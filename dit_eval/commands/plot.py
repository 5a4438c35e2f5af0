"""`dit-eval plot`: the figures of the report as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dit_eval.commands import options
from dit_eval.commands.progress import print_warnings
from dit_eval.errors import UsageError

if TYPE_CHECKING:
    from dit_eval.report.plots import Format


@click.command()
@click.argument("results", nargs=-1, required=True, type=options.RESULTS)
@click.option(
    "--figure",
    type=click.Choice(["sampling-compute"]),
    help="Save only this figure: FID against the compute of sampling an image, a curve per model.",
)
@click.option("--out", type=options.FOLDER, default=".", show_default=True, help="Output folder.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["png", "svg", "pdf"]),
    default="png",
    show_default=True,
    help="File format of the figures.",
)
def plot(results: tuple[Path, ...], figure: str | None, out: Path, kind: Format) -> None:
    """Save the report's figures of RESULTS as files.

    RESULTS are JSON files written by `dit-eval fid`, or folders of them. The figures show each metric of
    every result, FID and IS against guidance, precision against recall, FID against Gflops, and precision and
    recall by class; those for which the results lack data are left out. Curves have the label of their
    results if it is the same for all, else the name of the model.
    """
    if out.suffix in (".png", ".svg", ".pdf") and not out.is_dir():
        raise UsageError(
            f"{out}: there are several figures, so --out is a folder; choose their format with "
            f"--format {out.suffix[1:]}."
        )
    from dit_eval.report.plots import save_figures  # imports matplotlib
    from dit_eval.results.folders import read_results

    warnings: list[str] = []
    measured = read_results(results, warnings)
    print_warnings(warnings)
    if not measured:
        raise UsageError("no results to plot; give JSON files that `dit-eval fid … --json` writes.")
    if figure is None:
        paths = save_figures(out, measured, kind)
    else:
        from dit_eval.report.sampling_compute import plot_sampling_compute

        paths = [plot_sampling_compute(out / f"{figure}.{kind}", measured)]
    for path in paths:
        click.echo(path)
