"""`dit-eval ref`: references that are registered, fetched or made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import progress_bar
from dit_eval.commands.registry import fetch_asset, print_assets


@click.group()
def ref() -> None:
    """References: list, fetch, make."""


@ref.command("list")
def list_references() -> None:
    """The registered references, and which of them are here."""
    print_assets("reference_stats")


@ref.command()
@click.argument("name")
@options.offline
def fetch(name: str, offline: bool) -> None:
    """Download the registered reference NAME and verify it."""
    fetch_asset("reference_stats", name, offline)


@ref.command()
@click.argument("batch", type=options.PATH)
@click.option("--out", type=options.Output(".npz"), required=True, help="The .npz to write.")
@options.measuring
def make(batch: Path, out: Path, **settings: Any) -> None:
    """Make a reference of BATCH.

    It holds mu, sigma, mu_s, sigma_s, the images as arr_0, their labels where there are any, and provenance.
    """
    from dit_eval.evaluation.pipeline import make_reference  # torch loads here, so --help stays instant

    with progress_bar("images") as progress:
        click.echo(make_reference(batch, out, progress=progress, **settings))
