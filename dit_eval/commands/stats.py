"""`dit-eval stats`: files of statistics that add up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dit_eval.commands import options

if TYPE_CHECKING:
    from dit_eval.evaluation.stats_files import MomentFile

out = click.option("--out", type=options.Output(".npz"), required=True, help="The .npz to write.")


@click.group()
def stats() -> None:
    """Statistics of parts of a batch: merge, subtract, show."""


@stats.command("merge")
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@out
def merge_command(files: tuple[Path, ...], out: Path) -> None:
    """The statistics of all images of FILES together."""
    from dit_eval.evaluation.stats_files import merge  # torch loads here, so --help stays instant

    _show(merge(files, out))


@stats.command("subtract")
@click.argument("whole", type=options.FILE)
@click.argument("part", type=options.FILE)
@out
def subtract_command(whole: Path, part: Path, out: Path) -> None:
    """The statistics of the images of WHOLE that are not in PART."""
    from dit_eval.evaluation.stats_files import subtract

    _show(subtract(whole, part, out))


@stats.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
def show(files: tuple[Path, ...]) -> None:
    """How many images FILES are of, and by which protocol."""
    from dit_eval.evaluation.stats_files import read_moments

    for path in files:
        _show(read_moments(path))


def _show(moments: MomentFile) -> None:
    protocol = moments.protocol
    dimensions = f"{len(moments.pool.mean):,} pool and {len(moments.spatial.mean):,} spatial features"
    click.echo(
        f"{moments.path}: {moments.n:,} images, {dimensions}, "
        f"protocol {protocol.get('name')} {protocol.get('fingerprint')}"
    )
