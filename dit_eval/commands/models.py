"""`dit-eval models`: checkpoints and other networks that are registered or fetched."""

from __future__ import annotations

import click

from dit_eval.commands import options
from dit_eval.commands.registry import fetch_asset, print_assets


@click.group()
def models() -> None:
    """Checkpoints, VAEs and feature networks: list, fetch."""


@models.command("list")
def list_models() -> None:
    """The registered networks, and which of them are here."""
    print_assets("models")


@models.command()
@click.argument("name")
@options.offline
def fetch(name: str, offline: bool) -> None:
    """Download the registered network NAME and verify it."""
    fetch_asset("models", name, offline)
