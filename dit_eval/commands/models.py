"""`dit-eval models`: list and download registered networks."""

from __future__ import annotations

import click

from dit_eval.commands.registry import add_asset_commands


@click.group()
def models() -> None:
    """List and download checkpoints, VAEs and feature networks."""


add_asset_commands(models, "models", "network")
