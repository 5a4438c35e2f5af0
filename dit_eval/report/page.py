"""The report: one HTML file that asks nobody for anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from dit_eval.errors import ResultError
from dit_eval.report.classes import are_few, by_class, class_figures
from dit_eval.report.figures import figures, svg
from dit_eval.report.pictures import Sheet, draw_sheet
from dit_eval.results.result import METRICS, Result, short_count, write_text
from dit_eval.results.table2 import COLUMNS, table2

CAPTIONS = {
    "fid-guidance": "FID against guidance: lower is nearer to the reference.",
    "is-guidance": "Inception score against guidance.",
    "precision-recall": "Precision against recall; numbers at the points are guidance scales.",
    "fid-gflops": "FID against the cost of a forward pass, with the points of papers (ImageNet, FID-50K).",
}

CLASS_CAPTIONS = {
    "precision": "Samples by the class asked for: the share inside the manifold of all reference images.",
    "recall": "Reference images by their class: the share inside the manifold of all samples.",
}


def write_report(path: Path, results: Sequence[Result], *, title: str = "dit-eval report") -> None:
    """Write the report of these results, of one protocol, to `path` as self-contained HTML.

    Table, figures, precision and recall by class, samples by class beside reference images, provenance.
    Pictures come from the files that the results name; where these are gone, the page does without. The file
    appears when it is whole.
    Raises ResultError for no results, results of mixed protocols or a path that cannot be written, and
    BatchError for a damaged file of images.
    """
    if not results:
        raise ResultError("a report needs at least one result; `dit-eval fid … --json FILE` writes one.")
    table = table2(results)
    environment = Environment(
        loader=PackageLoader("dit_eval.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = short_count
    page = environment.get_template("page.html").render(
        title=title,
        table=table,
        groups=[rows for rows in (table.paper if table.ours else (), table.ours, table.apart) if rows],
        columns={name: heading for name, (heading, _) in COLUMNS.items()},
        figures={CAPTIONS[name]: svg(figure) for name, figure in figures(results).items()},
        classes=list(_classes(results)),
        sheets=list(_sheets(results)),
        results=[(result.name, dict(_numbers(result)), dict(_circumstances(result))) for result in results],
        warnings=list(dict.fromkeys(warning for result in results for warning in result.warnings)),
    )
    write_text(path, page)


def _classes(results: Sequence[Result]) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Figure, caption and, where classes are too many to be named in it, the lowest of each result."""
    drawn = class_figures(results)
    for metric, some in by_class(results).items():
        lowest = [] if are_few(some) else [(each.name, each.lowest()) for each in some]
        yield svg(drawn[f"{metric}-classes"]), CLASS_CAPTIONS[metric], lowest


def _sheets(results: Sequence[Result]) -> Iterator[Sheet]:
    """A sheet for each batch, all of the same classes, and one of the reference."""
    first = None
    for result in results:
        sheet = draw_sheet(result.name, result.samples, "samples", like=first)
        if sheet:
            first = first or sheet
            yield sheet
    reference = draw_sheet("reference", results[0].reference, "reference", like=first)
    if first and reference:
        yield reference


def _numbers(result: Result) -> Iterator[tuple[str, tuple[str, str]]]:
    """Title → value and what it was measured against, or why it is absent."""
    for name, metric in METRICS.items():
        title = f"{METRICS[metric.parent].title}, {metric.title}" if metric.parent else metric.title
        if name in result.metrics:
            yield title, (f"{result.metrics[name]:.{metric.digits}f}", result.measured_against[name])
        elif name in result.missing:
            yield title, ("absent", result.missing[name])


def _circumstances(result: Result) -> Iterator[tuple[str, str]]:
    """Everything that one needs to measure the same again."""
    for name, side in (("samples", result.samples), ("reference", result.reference)):
        yield name, str(side["path"])
        for key in ("n", "size", "digest", "statistics", "statistics_sha256"):
            if side.get(key) is not None:
                yield f"{name}: {key.replace('_', ' ')}", _text(side[key])
    for key, value in result.samples.get("plan", {}).items():
        yield f"drawn with {key.replace('_', ' ')}", _text(value)
    for key, value in result.protocol.items():
        if key != "weights":
            yield f"protocol: {key.replace('_', ' ')}", _text(value)
    weights = result.protocol["weights"]
    kind = "official" if weights["official"] else "custom"
    yield "protocol: weights", f"{weights['file']} ({kind}), SHA-256 {weights['sha256']}"
    for key, value in result.environment.items():
        yield f"run: {key.replace('_', ' ')}", _text(value)


def _text(value: object) -> str:
    if isinstance(value, list):
        return " × ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
