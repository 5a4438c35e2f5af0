"""`dit-eval fid`: the five numbers of a batch against a reference."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import progress_bar


@click.command()
@click.argument("samples", type=options.PATH)
@click.argument("reference", metavar="REF")
@options.measuring
@click.option(
    "--json",
    "json_file",
    type=click.Path(allow_dash=True, path_type=Path),
    help="Write the result as JSON, and beside it what `check` pairs images by; - is standard output.",
)
@click.option("--no-cache", is_flag=True, help="Compute features again, and do not keep them.")
@click.option(
    "--ignore-sample-statistics",
    is_flag=True,
    help="If SAMPLES carry stored statistics, compute them from the images all the same.",
)
def fid(samples: Path, reference: str, json_file: Path | None, no_cache: bool, **settings: Any) -> None:
    """FID, sFID, IS, precision and recall of SAMPLES against REF.

    SAMPLES and REF are an .npz, a folder or a zip of images. REF may also hold stored statistics, or be a
    registered name (`dit-eval ref list`). ADM's program takes the two the other way round.
    """
    from dit_eval.evaluate import evaluate  # torch loads here, so --help stays instant
    from dit_eval.influence import write_influence

    with progress_bar("images") as progress:
        result = evaluate(samples, reference, cache=not no_cache, progress=progress, **settings)
    if result is None:  # a rank other than 0
        return
    for warning in result.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if str(json_file) == "-":
        click.echo(result.to_json())
        return
    if json_file is not None:
        json_file.write_text(result.to_json() + "\n", "utf-8")
        write_influence(json_file, result)
    click.echo(result.table(width=min(shutil.get_terminal_size().columns, 100)))
