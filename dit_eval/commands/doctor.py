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
@options.image_input
@options.feature_extraction
@click.option("--pixels-only", is_flag=True, help="Skip the checks that need a feature network.")
@click.pass_context
def doctor(context: click.Context, batch: Path, reference: str | None, **settings: Any) -> None:
    """Find problems in BATCH that would affect its metrics.

    Looks for class-sorted order, duplicates, JPEG artefacts, NaN and more; with REF, a file or a registered
    name, also for deviations from the reference. Exits with 1 if a problem makes the metrics wrong.
    """
    from dit_eval.diagnostics.doctor import doctor as find_problems  # imports numpy

    with extraction_bar() as progress:
        problems = find_problems(batch, reference, progress=progress, **settings)
    for problem in problems:
        click.echo(f"{'error' if problem.invalidates else 'warning'}: {problem.name}: {problem.description}.")
        click.echo(f"    effect: {problem.effect}.")
        click.echo(f"    remedy: {problem.remedy}.")
    if not problems:
        click.echo(f"{batch}: no problems found.")
    context.exit(1 if any(problem.invalidates for problem in problems) else 0)
