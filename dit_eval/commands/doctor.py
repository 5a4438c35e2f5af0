"""`dit-eval doctor`: find problems in a batch of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import extraction_bar


@click.command()
@click.argument("batch", type=options.IMAGES)
@click.argument("reference", metavar="[REF]", required=False, type=options.REFERENCE)
@options.feature_extraction
@click.option("--pixels-only", is_flag=True, help="Skip the checks that need a feature network.")
@click.pass_context
def doctor(
    context: click.Context,
    batch: Path,
    reference: str | None,
    pixels_only: bool,
    protocol: str | None,
    **settings: Any,
) -> None:
    """Find problems in BATCH that would affect its metrics.

    Looks for class-sorted order, duplicates, JPEG artefacts, NaN and more; with REF, a file or a registered
    name, also for deviations from the reference. Exits with 1 if a problem makes the metrics wrong.
    """
    from dit_eval.diagnostics.doctor import diagnose
    from dit_eval.evaluation.references import open_reference

    opened = open_reference(reference, offline=settings["offline"]) if reference else None
    for note in opened.notes if opened else ():
        click.echo(f"warning: {note}", err=True)
    extraction = None
    if not pixels_only:
        from dit_eval.evaluation.extraction import load_extraction  # imports torch

        extraction = load_extraction(protocol or (opened.protocol if opened else None), **settings)
    with extraction_bar() as progress:
        problems = diagnose(batch, opened, extraction, progress)
    for problem in problems:
        click.echo(f"{'error' if problem.invalidates else 'warning'}: {problem.name}: {problem.description}.")
        click.echo(f"    effect: {problem.effect}.")
        click.echo(f"    remedy: {problem.remedy}.")
    if not problems:
        click.echo(f"{batch}: no problems found.")
    context.exit(1 if any(problem.invalidates for problem in problems) else 0)
