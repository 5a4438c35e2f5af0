"""`dit-eval flops`: the cost of each architecture as a table and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dit_eval.commands import options

if TYPE_CHECKING:
    from dit_eval.cost.table import Format

image_size = click.option(
    "--image-size",
    type=click.Choice([256, 512]),
    default=256,
    show_default=True,
    help="Image size in pixels; latents are 8 times smaller.",
)


@click.group()
def flops() -> None:
    """Show the cost of the models."""


@flops.command()
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "markdown", "csv", "json"]),
    default="text",
    show_default=True,
    help="Output format; csv and json contain exact counts.",
)
@image_size
@click.option(
    "--block",
    type=click.Choice(["adaln-zero", "adaln", "cross-attention", "in-context", "all"]),
    default="adaln-zero",
    show_default=True,
    help="Conditioning of the blocks; all shows XL/2 with each variant.",
)
def table(style: Format, image_size: int, block: str) -> None:
    """Print parameters, MACs and FLOPs of each architecture.

    Also shows the paper's figures, MACs by operator, and the cost of sampling one image with and without
    guidance.
    """
    from dit_eval.cost.table import flop_rows, render  # imports torch

    click.echo(render(flop_rows(image_size=image_size, block=block), style))


@flops.command()
@click.option(
    "--model",
    metavar="NAME",
    required=True,
    shell_complete=options.completed_by(options.model_names),
    help="As for `dit-eval sample`.",
)
@options.model_args
@options.ckpt
@options.device
def count(model: str, model_args: dict[str, Any], ckpt: str | None, device: str) -> None:
    """Count the MACs of one evaluation of a model for one image.

    Loads the model and runs it once. For a plug-in that samples images by itself, counts one image.
    """
    from dit_eval.cost.model import count_by_name, render_count  # imports torch

    click.echo(render_count(model, count_by_name(model, ckpt, model_args, device)))


@flops.command()
@click.argument("results", nargs=-1, type=options.RESULT)
@click.option(
    "--out",
    type=options.Output(".png", ".svg", ".pdf"),
    required=True,
    help="Output .png, .svg or .pdf file.",
)
@image_size
def plot(results: tuple[Path, ...], out: Path, image_size: int) -> None:
    """Plot Gflops against parameters, and FID against Gflops.

    The second plot needs RESULTS, JSON files written by `dit-eval fid` with a single protocol.
    """
    from dit_eval.cost.table import flop_rows  # imports torch
    from dit_eval.report.scaling import plot_scaling
    from dit_eval.results.result import read_result

    measured = [read_result(path) for path in results]
    click.echo(plot_scaling(out, flop_rows(image_size=image_size), measured))
