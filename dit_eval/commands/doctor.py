"""`dit-eval doctor`: what is wrong with a batch of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dit_eval.commands import options


@click.command()
@click.argument("batch", type=options.PATH)
@click.argument("reference", metavar="[REF]", type=options.PATH, required=False)
@options.measuring
@click.option("--pixels-only", is_flag=True, help="Leave out what only a feature network can tell.")
@click.pass_context
def doctor(
    context: click.Context, batch: Path, reference: Path | None, pixels_only: bool, **settings: Any
) -> None:
    """Faults of BATCH that would move its numbers: order, duplicates, JPEG, NaN and others.

    REF, a file, says what is usual. Exit 1 if there is a fault that makes the numbers wrong.
    """
    from dit_eval.doctor import diagnose  # torch loads here, so --help stays instant
    from dit_eval.measure import load_measurer

    found = diagnose(batch, reference, None if pixels_only else load_measurer(**settings))
    for each in found:
        click.echo(f"{'wrong' if each.bad else 'doubtful'}: {each.name}: {each.what}.")
        click.echo(f"    effect: {each.effect}.")
        click.echo(f"    remedy: {each.remedy}.")
    if not found:
        click.echo(f"{batch}: nothing found.")
    context.exit(1 if any(each.bad for each in found) else 0)
