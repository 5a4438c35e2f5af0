"""`dit-eval certify`: check this installation against the published numbers of ADM's samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import extraction_bar, terminal_width
from dit_eval.io.files import write_json


@click.command()
@click.option(
    "--only",
    metavar="NAME",
    help="Only adm-64 (0.6 GB) or adm-g-adm-u-256 (10 GB).",
)
@click.option(
    "--out",
    type=options.Output(".json"),
    default="certificate.json",
    show_default=True,
    help="Output JSON file.",
)
@options.batch_size
@options.device
@options.offline
@click.pass_context
def certify(context: click.Context, out: Path, **settings: Any) -> None:
    """Evaluate ADM's published samples and verify the metrics.

    Downloads the batches, their references and the Inception weights; interrupted downloads are resumed. OUT
    records the numbers, the digests of all files and the versions used. Exits with 1 if a number is outside
    its tolerance.
    """
    from dit_eval.diagnostics import certify as certification  # imports torch

    certificate = certification.certify(open_progress=extraction_bar, **settings)
    if certificate is None:  # a rank other than 0
        return
    write_json(out, certificate.to_json())
    click.echo(certificate.table(width=terminal_width()))
    context.exit(0 if certificate.holds else 1)
