"""`dit-eval fid`: the five numbers of a batch against a reference."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import progress_bar
from dit_eval.errors import UsageError
from dit_eval.results.result import write_result


@click.command()
@click.argument("samples", type=options.PATH)
@click.argument("reference", metavar="REF")
@options.measuring
@click.option(
    "--json",
    "json_file",
    type=options.Output(".json", dash=True),
    help="Write the result as JSON, and beside it what `check` pairs images by; - is standard output.",
)
@click.option("--report", type=options.Output(".html"), help="Write it as a page, with figures and samples.")
@click.option(
    "--fid-infinity",
    is_flag=True,
    help="Also FID∞ (Chong & Forsyth 2020): FID extrapolated from 15 subsets to infinitely many images; "
    "a minute or two more for 50,000.",
)
@click.option("--no-cache", is_flag=True, help="Compute features again, and do not keep them.")
@click.option(
    "--ignore-sample-statistics",
    is_flag=True,
    help="If SAMPLES carry stored statistics, compute them from the images all the same.",
)
def fid(
    samples: Path,
    reference: str,
    json_file: Path | None,
    report: Path | None,
    no_cache: bool,
    **settings: Any,
) -> None:
    """FID, sFID, IS, precision and recall of SAMPLES against REF.

    SAMPLES and REF are an .npz, a folder or a zip of images. REF may also hold stored statistics, or be a
    registered name (`dit-eval ref list`). ADM's program takes the two the other way round.
    """
    from dit_eval.evaluation.pipeline import evaluate  # torch loads here, so --help stays instant
    from dit_eval.results.influence import write_influence

    _spare_the_record(samples, json_file)
    with progress_bar("images") as progress:
        result = evaluate(samples, reference, cache=not no_cache, progress=progress, **settings)
    if result is None:  # a rank other than 0
        return
    for warning in result.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if str(json_file) == "-":
        click.echo(result.to_json())
    else:
        click.echo(result.table(width=min(shutil.get_terminal_size().columns, 100)))
        if json_file is not None:
            write_influence(json_file, result, result.influence)
            write_result(json_file, result)
    if report is not None:
        from dit_eval.report.page import write_report  # matplotlib

        write_report(report, [result], title=result.name)


def _spare_the_record(samples: Path, json_file: Path | None) -> None:
    """Refuse to overwrite the JSON that says how the samples were drawn."""
    from dit_eval.io.batch_record import read_record  # numpy

    record = samples.with_suffix(".json")
    if json_file is not None and json_file.resolve() == record.resolve() and read_record(samples):
        raise UsageError(
            f"{record} says how {samples} was drawn and stays; write the result to another file, "
            f"e.g. --json {samples.with_suffix('.result.json')}."
        )
