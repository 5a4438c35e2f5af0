"""`dit-eval cache`: list and clear cached features and downloads."""

from __future__ import annotations

import time

import click

from dit_eval.commands.progress import terminal_width


@click.group()
def cache() -> None:
    """List and clear cached features and downloads.

    Features are kept so that the same images need not pass through the network again; beyond
    DIT_EVAL_CACHE_LIMIT (in GB, 5 by default) the least recently used ones are removed. Downloads are kept
    until they are cleared. DIT_EVAL_CACHE is the folder.
    """


@cache.command("list")
def list_entries() -> None:
    """List the entries with their sizes and times of last use."""
    from dit_eval.io.assets import cache_dir
    from dit_eval.io.cache import features_limit, list_cache  # imports numpy

    entries = list_cache()
    widest = max([terminal_width() // 4, *(len(entry.name) for entry in entries)])
    for kind, note in (("features", f" of at most {_size(features_limit())}"), ("downloads", "")):
        chosen = [entry for entry in entries if entry.kind == kind]
        click.echo(f"{kind}: {_size(sum(entry.size for entry in chosen))}{note}")
        for entry in chosen:
            last_used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
            click.echo(f"    {entry.name:{widest}}  {_size(entry.size):>11}  last used {last_used}")
    click.echo(f"\nCache: {cache_dir()}")


@cache.command(short_help="Remove entries of the cache.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def clear(names: tuple[str, ...]) -> None:
    """Remove NAME: `features`, `downloads`, or one entry as `dit-eval cache list` names it."""
    from dit_eval.io.cache import clear_cache  # imports numpy

    for name in names:
        for entry in clear_cache(name):
            click.echo(f"removed {entry.kind} {entry.name} ({_size(entry.size)})")


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
