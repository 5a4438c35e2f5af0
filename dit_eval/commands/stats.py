"""`dit-eval stats`: merge, subtract and show statistics files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dit_eval.commands import options

if TYPE_CHECKING:
    from dit_eval.evaluation.stats_files import StatsFile

out = click.option("--out", type=options.Output(".npz"), required=True, help="Output .npz file.")


@click.group()
def stats() -> None:
    """Merge, subtract and show statistics files."""


@stats.command("merge")
@click.argument("files", nargs=-1, required=True, type=options.Input(folder=False))
@out
def merge_command(files: tuple[Path, ...], out: Path) -> None:
    """Compute the statistics of the images of all FILES together."""
    from dit_eval.evaluation.stats_files import merge  # imports numpy

    _print(merge(files, out))


@stats.command("subtract")
@click.argument("whole", type=options.Input(folder=False))
@click.argument("part", type=options.Input(folder=False))
@out
def subtract_command(whole: Path, part: Path, out: Path) -> None:
    """Compute the statistics of WHOLE without the images of PART."""
    from dit_eval.evaluation.stats_files import subtract

    _print(subtract(whole, part, out))


@stats.command()
@click.argument("files", nargs=-1, required=True, type=options.Input(folder=False))
def show(files: tuple[Path, ...]) -> None:
    """Show the number of images and the protocol of FILES."""
    from dit_eval.evaluation.stats_files import read_stats

    for path in files:
        _print(read_stats(path))


def _print(moments: StatsFile) -> None:
    protocol = moments.protocol
    click.echo(
        f"{moments.path}: {moments.n:,} images, {moments.describe_features()}, "
        f"protocol {protocol.get('name')} {protocol.get('fingerprint')}"
    )
