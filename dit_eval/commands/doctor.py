"""`dit-eval doctor`: what is wrong with a batch of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import progress_bar


@click.command()
@click.argument("batch", type=options.PATH)
@click.argument("reference", metavar="[REF]", required=False)
@options.measuring
@click.option("--pixels-only", is_flag=True, help="Leave out what only a feature network can tell.")
@click.pass_context
def doctor(
    context: click.Context,
    batch: Path,
    reference: str | None,
    pixels_only: bool,
    protocol: str | None,
    **settings: Any,
) -> None:
    """Find the faults of BATCH that would move its numbers.

    Order, duplicates, traces of JPEG, NaN and others; REF, a file or a registered name, says what is usual.
    Exit 1 if there is a fault that makes the numbers wrong.
    """
    from dit_eval.diagnostics.doctor import diagnose  # torch loads here, so --help stays instant
    from dit_eval.evaluation.extraction import load_extraction
    from dit_eval.evaluation.references import open_reference

    usual = open_reference(reference, offline=settings["offline"]) if reference else None
    extraction = None
    if not pixels_only:
        extraction = load_extraction(protocol or (usual.protocol if usual else None), **settings)
    with progress_bar("images") as progress:
        found = diagnose(batch, usual, extraction, progress)
    for each in found:
        click.echo(f"{'wrong' if each.bad else 'doubtful'}: {each.name}: {each.what}.")
        click.echo(f"    effect: {each.effect}.")
        click.echo(f"    remedy: {each.remedy}.")
    if not found:
        click.echo(f"{batch}: nothing found.")
    context.exit(1 if any(each.bad for each in found) else 0)
