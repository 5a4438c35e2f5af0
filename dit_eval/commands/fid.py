"""`dit-eval fid`: the metrics of a batch against references, by one protocol or several."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import click

from dit_eval.commands import options
from dit_eval.commands.progress import extraction_bar, print_warnings, terminal_width
from dit_eval.errors import UsageError


@click.command()
@click.argument("samples", type=options.IMAGES_OR_ADDRESS)
@click.argument("references", metavar="REF...", nargs=-1, required=True, type=options.REFERENCE)
@options.image_input
@partial(options.feature_extraction, several_protocols=True)
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
    "--metric",
    "further_metrics",
    type=options.Name(["fid_infinity", "kid", "density", "coverage", "mind"]),
    multiple=True,
    help="Also compute this metric; can be repeated. fid_infinity takes a minute or two for 50,000 images.",
)
@click.option("--no-cache", is_flag=True, help="Neither read nor write cached features.")
@click.option(
    "--ignore-sample-statistics",
    is_flag=True,
    help="Ignore statistics stored in SAMPLES and compute them from the images.",
)
def fid(
    samples: Path | str,
    references: tuple[str, ...],
    protocol: tuple[str, ...],
    json_file: Path | None,
    report: Path | None,
    no_cache: bool,
    further_metrics: tuple[str, ...],
    **settings: Any,
) -> None:
    """Evaluate SAMPLES against REF: FID, sFID, IS, precision, recall.

    SAMPLES and REF are .npz or .npy files, folders or zip archives of images, or the address of an .npz
    (https:// or hf://). REF can also hold stored statistics, or be a registered name (see `dit-eval ref
    list`). ADM's evaluator expects the two in the opposite order.

    With several REF or --protocol the samples are read once, and all results are shown in one table. A REF
    that names its protocol, as `ref make` writes it, is used with that one; others with every protocol that
    fits. --json then writes one file for each result, with the names of protocol and reference before the
    suffix.
    """
    from dit_eval.evaluation.metric_table import with_optional  # imports torch
    from dit_eval.evaluation.pipeline import evaluate
    from dit_eval.results.reference_table import reference_table

    protocols = tuple(dict.fromkeys(protocol))
    json_files = {} if json_file is None else _json_files(json_file, protocols, references)
    if isinstance(samples, Path):
        _refuse_to_overwrite_record(samples, json_files.values())
    with extraction_bar() as progress:
        settings |= {"metrics": with_optional(further_metrics), "cache": not no_cache}
        found = evaluate(samples, references, protocol=protocols or None, progress=progress, **settings)
    if found is None:  # a rank other than 0
        return
    results = [replace(result, command=options.command_line()) for result in found]
    print_warnings(warning for result in results for warning in result.warnings)
    if str(json_file) == "-":
        texts = [result.to_json() for result in results]
        click.echo(texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]")
    else:
        width = terminal_width()
        click.echo(results[0].table(width) if len(results) == 1 else reference_table(results, width))
        for result in results if json_files else ():
            protocol_name = result.protocol["name"] if protocols else ""
            result.save(json_files[protocol_name, result.reference["path"]])
    if report is not None:
        from dit_eval.report.page import write_report  # imports matplotlib

        write_report(report, results, title=results[0].name)


def _json_files(
    json_file: Path, protocols: tuple[str, ...], references: tuple[str, ...]
) -> dict[tuple[str, str], Path]:
    """The file of each result by protocol, "" for that of the references, and reference.

    It is the given one or, for several protocols or references, RESULT.PROTOCOL.json, RESULT.REF.json or
    RESULT.PROTOCOL.REF.json.
    """
    names = [Path(reference).stem for reference in references]
    if len(set(names)) < len(names) and str(json_file) != "-":
        raise UsageError(
            f"the references {', '.join(references)} have equal names, which would name the files of --json. "
            "Evaluate against them one at a time."
        )
    files = {}
    for protocol, (reference, name) in product(protocols or ("",), zip(references, names, strict=True)):
        parts = [protocol] * (len(protocols) > 1) + [name] * (len(names) > 1)
        several = bool(parts) and str(json_file) != "-"
        files[protocol, reference] = (
            json_file.with_suffix("".join(f".{part}" for part in (*parts, "json"))) if several else json_file
        )
    return files


def _refuse_to_overwrite_record(samples: Path, json_files: Iterable[Path]) -> None:
    """Raise UsageError if one of the files is the record that `sample` wrote next to the batch."""
    from dit_eval.io.batch_record import read_record  # imports numpy

    record = samples.absolute().with_suffix(".json")
    if record.resolve() in [file.resolve() for file in json_files] and read_record(samples):
        raise UsageError(
            f"{record} records how {samples} was sampled and is not overwritten. Write the result to another "
            f"file, e.g. --json {record.with_suffix('.result.json').name}."
        )
