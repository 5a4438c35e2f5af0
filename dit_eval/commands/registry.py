"""What `ref` and `models` have in common: a listing of a manifest, and a download."""

from __future__ import annotations

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from dit_eval.commands.progress import stdout_console
from dit_eval.io import assets


def print_assets(kind: assets.Kind) -> None:
    """The registered assets of one kind as a table on standard output."""
    table = Table(box=SIMPLE_HEAD)
    for title in ("name", "size", "here", "licence", "what it is"):
        table.add_column(title, overflow="fold", no_wrap=title in ("size", "here"))
    for asset in assets.manifest(kind).values():
        size = f"{asset.bytes / 1e6:,.{0 if asset.bytes > 1e7 else 1}f} MB" if asset.bytes else "?"
        here = "bundled" if asset.bundled else "cached" if assets.is_present(asset) else "–"
        table.add_row(asset.name, size, here, asset.licence, asset.source)
    stdout_console().print(table)


def fetch_asset(kind: assets.Kind, name: str, offline: bool) -> None:
    """Fetch one asset and print its path."""
    click.echo(assets.fetch(assets.lookup(kind, name), offline=offline))
