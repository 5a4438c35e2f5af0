"""`dit-eval fdr6`: Fréchet distance ratios in six spaces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import extraction_bar, terminal_width

_SPACES = ("inception", "convnext", "dinov2", "mae", "siglip2", "clip")


@click.command()
@click.argument("samples", metavar="BATCH", type=options.IMAGES_OR_ADDRESS)
@click.option(
    "--train",
    type=options.FOLDER,
    required=True,
    help="Folder with statistics of the training images, fdr-inception.npz, fdr-convnext.npz and so on; see "
    "`dit-eval ref make --protocol`.",
)
@click.option(
    "--validation",
    type=options.FOLDER,
    help="Folder with statistics of the validation images, by which distances are divided.  [default: the "
    "published numbers]",
)
@click.option(
    "--trained-on",
    type=click.Choice(_SPACES),
    multiple=True,
    help="Space whose Fréchet distance was a training loss of the model; can be repeated.",
)
@click.option("--json", "json_file", type=options.Output(".json"), help="Write the ratios as JSON.")
@options.device
@options.batch_size
@options.offline
def fdr6(samples: Path | str, json_file: Path | None, **settings: Any) -> None:
    """Compute Fréchet distance ratios of BATCH in six spaces.

    FDr⁶ is the mean over spaces of the Fréchet distance to the training images, divided by that of validation
    images (FD-Loss 2026).
    """
    from dit_eval.evaluation.fd_ratios import frechet_ratios  # imports torch
    from dit_eval.io.files import write_text

    with extraction_bar() as progress:
        ratios = frechet_ratios(samples, progress=progress, **settings)
    if ratios is None:  # a rank other than 0
        return
    click.echo(ratios.table(terminal_width()))
    if json_file is not None:
        write_text(json_file, json.dumps(ratios.to_json(), indent=2, ensure_ascii=False) + "\n")
