"""`dit-eval ref`: list, download and create references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import extraction_bar, print_warnings
from dit_eval.commands.registry import add_asset_commands


@click.group()
def ref() -> None:
    """List, download and create references."""


add_asset_commands(ref, "reference_stats", "reference")


@ref.command(short_help="Create a reference from images.")
@click.argument("batch", type=options.IMAGES)
@click.option("--out", type=options.Output(".npz"), required=True, help="Output .npz file.")
@options.image_input
@options.feature_extraction
def make(batch: Path, out: Path, **settings: Any) -> None:
    """Create a reference from BATCH, an .npz or .npy file, a folder or a zip archive of images.

    OUT holds the statistics (mu, sigma and, of protocols with the Inception, mu_s, sigma_s), the images
    (arr_0), their labels (arr_1) if there are any, and the provenance.
    """
    from dit_eval.evaluation.pipeline import make_reference  # imports torch
    from dit_eval.evaluation.references import open_reference
    from dit_eval.runtime.distributed import Rank

    with extraction_bar() as progress:
        make_reference(batch, out, progress=progress, **settings)
    if Rank.from_environment().index == 0:  # which has written the file
        print_warnings(open_reference(out).provenance.get("warnings", ()))
        click.echo(out)
