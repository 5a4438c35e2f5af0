"""`dit-eval certify`: does this installation give ADM's numbers for ADM's samples?"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import progress_bar
from dit_eval.results.result import write_text


@click.command()
@click.option("--only", metavar="NAME", help="One batch: adm-64 (0.6 GB) or adm-g-adm-u-256 (10 GB).")
@click.option(
    "--out",
    type=options.Output(".json"),
    default="certificate.json",
    show_default=True,
    help="The JSON to write.",
)
@options.batch_size
@options.device
@options.offline
@click.pass_context
def certify(context: click.Context, out: Path, **settings: Any) -> None:
    """Measure the sample batches that ADM has published, and compare with the published numbers.

    Downloads them, their references and the Inception weights; interrupted, the same command goes on. OUT
    says what was found, in which files, with which versions. Exit 1 if a number is off.
    """
    from dit_eval.diagnostics.certify import (
        certify as run_certify,  # torch loads here, so --help stays instant
    )

    certificate = run_certify(measuring=partial(progress_bar, "images"), **settings)
    if certificate is None:  # a rank other than 0
        return
    write_text(out, certificate.to_json() + "\n")
    click.echo(certificate.table(width=min(shutil.get_terminal_size().columns, 100)))
    context.exit(0 if certificate.holds else 1)
