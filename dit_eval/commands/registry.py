"""What `models` and `ref` share: the commands that list and download the assets of a manifest."""

from __future__ import annotations

from textwrap import fill, indent

import click

from dit_eval.commands import options
from dit_eval.commands.progress import terminal_width
from dit_eval.io import assets


def add_asset_commands(group: click.Group, kind: assets.Kind, noun: str) -> None:
    """Add `list` and `fetch` for the assets of one kind to a group."""

    @group.command("list", help=f"List the registered {noun}s and which are on this machine.")
    def list_assets() -> None:
        print_assets(kind)

    @group.command(help=f"Download and verify the registered {noun} NAME.")
    @click.argument("name", shell_complete=options.completed_by(lambda: assets.manifest(kind)))
    @options.offline
    def fetch(name: str, offline: bool) -> None:
        click.echo(assets.fetch(assets.lookup(kind, name), offline=offline))


def print_assets(kind: assets.Kind) -> None:
    """Print name, location and, if known, size of the assets of one kind, each above its description."""
    registered = assets.manifest(kind).values()
    widest = max(len(asset.name) for asset in registered)
    for asset in registered:
        size = f", {asset.bytes / 1e6:,.{0 if asset.bytes > 1e7 else 1}f} MB" if asset.bytes else ""
        location = "bundled" if asset.bundled else "cached" if assets.is_present(asset) else "not downloaded"
        click.echo(f"{asset.name:{widest}}  {location}{size}")
        description = f"{asset.source}. License: {asset.licence}."
        lines = fill(description, terminal_width() - 4, break_long_words=False, break_on_hyphens=False)
        click.echo(indent(lines, " " * 4))
    click.echo(f"\nCache: {assets.cache_dir()}")
