"""`dit-eval fid`: the five metrics of a batch against a reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import extraction_bar, terminal_width
from dit_eval.errors import UsageError


@click.command()
@click.argument("samples", type=options.IMAGES)
@click.argument("reference", metavar="REF", type=options.REFERENCE)
@options.feature_extraction
@options.label
@click.option(
    "--json",
    "json_file",
    type=options.Output(".json", dash=True),
    help="Write the result as JSON, with the per-image data that `check` needs for paired comparisons; "
    "- for standard output.",
)
@click.option("--report", type=options.Output(".html"), help="Write an HTML report with figures and samples.")
@click.option(
    "--fid-infinity",
    is_flag=True,
    help="Also compute FID∞ (Chong & Forsyth 2020), FID extrapolated from 15 subsets to infinitely many "
    "images; takes a minute or two for 50,000.",
)
@click.option("--no-cache", is_flag=True, help="Neither read nor write cached features.")
@click.option(
    "--ignore-sample-statistics",
    is_flag=True,
    help="Ignore statistics stored in SAMPLES and compute them from the images.",
)
def fid(
    samples: Path,
    reference: str,
    json_file: Path | None,
    report: Path | None,
    no_cache: bool,
    **settings: Any,
) -> None:
    """Evaluate SAMPLES against REF: FID, sFID, IS, precision, recall.

    SAMPLES and REF are .npz files, folders or zip archives of images. REF can also hold stored statistics, or
    be a registered name (see `dit-eval ref list`). ADM's evaluator expects the two in the opposite order.
    """
    from dit_eval.evaluation.pipeline import evaluate  # imports torch

    _refuse_to_overwrite_record(samples, json_file)
    with extraction_bar() as progress:
        result = evaluate(samples, reference, cache=not no_cache, progress=progress, **settings)
    if result is None:  # a rank other than 0
        return
    result = replace(result, command=options.command_line())
    for warning in result.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if str(json_file) == "-":
        click.echo(result.to_json())
    else:
        click.echo(result.table(width=terminal_width()))
        if json_file is not None:
            result.save(json_file)
    if report is not None:
        from dit_eval.report.page import write_report  # imports matplotlib

        write_report(report, [result], title=result.name)


def _refuse_to_overwrite_record(samples: Path, json_file: Path | None) -> None:
    """Raise UsageError if `json_file` is the record that `sample` wrote next to the batch."""
    from dit_eval.io.batch_record import read_record  # imports numpy

    record = samples.with_suffix(".json")
    if json_file is not None and json_file.resolve() == record.resolve() and read_record(samples):
        raise UsageError(
            f"{record} records how {samples} was sampled and is not overwritten. Write the result to another "
            f"file, e.g. --json {samples.with_suffix('.result.json')}."
        )
