"""Self-contained HTML report; makes no network requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dit_eval.errors import ResultError
from dit_eval.io.files import write_text
from dit_eval.report.classes import by_class, can_name_all, class_figures
from dit_eval.report.figures import figures, svg
from dit_eval.report.pictures import Sheet, draw_sheet
from dit_eval.results.metric_names import METRICS, columns
from dit_eval.results.names import with_distinct_names
from dit_eval.results.result import Result, short_count
from dit_eval.results.table2 import ComparableTable, table2

CAPTIONS = {
    "fid-guidance": "FID against guidance scale; lower is better.",
    "is-guidance": "Inception score against guidance scale; higher is better.",
    "precision-recall": "Precision against recall; labels are guidance scales.",
    "fid-gflops": "FID against the cost of a forward pass; labels are guidance scales.",
}

CLASS_CAPTIONS = {
    "precision": "{title} by class: share of samples inside the manifold of all reference images.",
    "recall": "{title} by class: share of reference images inside the manifold of all samples.",
}


def write_report(path: Path, results: Sequence[Result], *, title: str = "dit-eval report") -> None:
    """Write an HTML report of results.

    Contents, for each group of results that can be compared: table, figures, precision and recall by class,
    samples by class next to reference images; then the provenance of all. Images are read from the files that
    the results name, and left out if these do not exist. Raises ResultError for no results or a path that
    cannot be written, and BatchError for a damaged file of images.
    """
    if not results:
        raise ResultError("a report needs at least one result; `dit-eval fid … --json FILE` writes one.")
    results = with_distinct_names(results)
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
        columns={name: METRICS[name].column_title for name in columns(result.metrics for result in results)},
        sections=[_section(table) for table in table2(results).tables],
        results=[(result.name, list(_metrics(result)), dict(_metadata(result))) for result in results],
        warnings=list(dict.fromkeys(warning for result in results for warning in result.warnings)),
    )
    write_text(path, page)


def _section(table: ComparableTable) -> dict[str, Any]:
    """A table with everything that shows its results."""
    drawn = figures(table.results)
    return {
        "table": table,
        "figures": {CAPTIONS[name]: svg(figure) for name, figure in drawn.items()},
        "classes": list(_class_panels(table.results)),
        "sheets": list(_sheets(table.results)),
    }


def _class_panels(results: Sequence[Result]) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Figure, caption and, if there are too many classes to name, the lowest of each result."""
    drawn = class_figures(results)
    for metric, shares in by_class(results).items():
        lowest = [] if can_name_all(shares) else [(classes.name, classes.lowest()) for classes in shares]
        caption = CLASS_CAPTIONS[metric].format(title=METRICS[metric].label)
        yield svg(drawn[f"{metric}-classes"]), caption, lowest


def _sheets(results: Sequence[Result]) -> Iterator[Sheet]:
    """A sheet for each batch and one for the reference, all of the same classes."""
    first = None
    for result in results:
        sheet = draw_sheet(result.name, result.samples, "samples", like=first)
        if sheet:
            first = first or sheet
            yield sheet
    reference = draw_sheet("reference", results[0].reference, "reference", like=first)
    if first and reference:
        yield reference


def _metrics(result: Result) -> Iterator[tuple[str, str, str]]:
    """Title, value with its interval, and what it was measured against or why it is missing."""
    for name, metric in METRICS.items():
        title = f"{METRICS[metric.parent].label}, {metric.label}" if metric.parent else metric.title
        if name in result.metrics:
            yield title, _value(result, name), result.measured_against[name]
        elif name in result.missing:
            yield title, "absent", result.missing[name]


def _value(result: Result, name: str) -> str:
    digits, ends = METRICS[name].digits, result.intervals.get(name)
    interval = f" ± {(ends['high'] - ends['low']) / 2:.{digits}f}" if ends else ""
    return f"{result.metrics[name]:z.{digits}f}{interval}"


def _metadata(result: Result) -> Iterator[tuple[str, str]]:
    """Everything needed to repeat the measurement."""
    for name, section in (("samples", result.samples), ("reference", result.reference)):
        yield name, str(section["path"])
        for key in ("n", "size", "digest", "statistics", "statistics_sha256"):
            if section.get(key) is not None:
                yield f"{name}: {key.replace('_', ' ')}", _format(section[key])
    for key, value in result.samples.get("plan", {}).items():
        yield f"sampling: {key.replace('_', ' ')}", _format(value)
    for key, value in result.protocol.items():
        if key != "weights":
            yield f"protocol: {key.replace('_', ' ')}", _format(value)
    weights = result.protocol["weights"]
    kind = "official" if weights["official"] else "custom"
    yield "protocol: weights", f"{weights.get('file', 'unnamed')} ({kind}), SHA-256 {weights['sha256']}"
    for key, value in result.environment.items():
        yield f"run: {key.replace('_', ' ')}", _format(value)


def _format(value: object) -> str:
    if isinstance(value, list):
        return " × ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
