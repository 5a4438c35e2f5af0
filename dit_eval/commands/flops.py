"""`dit-eval flops`: what each architecture costs, as a table and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dit_eval.commands import options

if TYPE_CHECKING:
    from dit_eval.cost.table import Format

image_size = click.option(
    "--image-size",
    type=click.Choice([256, 512]),
    default=256,
    show_default=True,
    help="Pixels per side of the image behind the latents.",
)


@click.group()
def flops() -> None:
    """The cost of the models: table, plot."""


@flops.command()
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "markdown", "csv", "json"]),
    default="text",
    show_default=True,
    help="CSV and JSON hold exact counts.",
)
@image_size
@click.option(
    "--block",
    type=click.Choice(["adaln-zero", "adaln", "cross-attention", "in-context", "all"]),
    default="adaln-zero",
    show_default=True,
    help="How the blocks are told time and class; all: XL/2 with each of them.",
)
def table(style: Format, image_size: int, block: str) -> None:
    """What each architecture costs, beside the paper's figures.

    Parameters, MACs in all and by kind, FLOPs, and the cost of a sampled image with and without guidance.
    """
    from dit_eval.cost.table import flop_rows, render  # torch loads here, so --help stays instant

    click.echo(render(flop_rows(image_size=image_size, block=block), style))


@flops.command()
@click.argument("results", nargs=-1, type=options.FILE)
@click.option("--out", type=options.Output(".png", ".svg"), required=True, help="The .png or .svg to write.")
@image_size
def plot(results: tuple[Path, ...], out: Path, image_size: int) -> None:
    """Gflops against parameters and, of RESULTS, FID against Gflops.

    RESULTS are JSON files; their figure is that of the report, beside the design space at one image size.
    """
    from dit_eval.cost.table import flop_rows  # torch loads here, so --help stays instant
    from dit_eval.report.scaling import plot_scaling
    from dit_eval.results.result import read_result

    measured = [read_result(path) for path in results]
    click.echo(plot_scaling(out, flop_rows(image_size=image_size), measured))
