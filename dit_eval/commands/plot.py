"""`dit-eval plot`: the figures of the report as PNG files."""

from __future__ import annotations

from pathlib import Path

import click

from dit_eval.commands import options


@click.command()
@click.argument("results", nargs=-1, required=True, type=options.FILE)
@click.option(
    "--figure",
    type=click.Choice(["sampling-compute"]),
    help="Save only this figure: FID against the compute of sampling an image, a curve per model.",
)
@click.option("--out", type=options.FOLDER, default=".", show_default=True, help="Output folder.")
def plot(results: tuple[Path, ...], figure: str | None, out: Path) -> None:
    """Save the report's figures of RESULTS as PNG files.

    RESULTS are JSON files written by `dit-eval fid`. The figures show FID and IS against guidance, precision
    against recall, FID against Gflops, and precision and recall by class; those for which the results lack
    data are left out.
    """
    from dit_eval.report.plots import save_figures  # imports matplotlib
    from dit_eval.results.result import read_result

    measured = [read_result(result) for result in results]
    if figure is None:
        paths = save_figures(out, measured)
    else:
        from dit_eval.report.sampling_compute import plot_sampling_compute

        paths = [plot_sampling_compute(out / f"{figure}.png", measured)]
    for path in paths:
        click.echo(path)
