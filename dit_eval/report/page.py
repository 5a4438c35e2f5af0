"""Self-contained HTML report; makes no network requests."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dit_eval.errors import ResultError
from dit_eval.io.files import write_text
from dit_eval.report.classes import ClassShares, by_class, can_name_all, class_figures
from dit_eval.report.figures import FIGURES, figures, svg
from dit_eval.report.headline import clearly_best, facts, headline
from dit_eval.report.pictures import SEARCHED, Picture, Pictures, open_reference_images, open_samples
from dit_eval.report.terminal import csv_text
from dit_eval.results.compare import compare
from dit_eval.results.compare_formats import as_csv
from dit_eval.results.metric_names import METRICS, columns
from dit_eval.results.names import labels_by_name, with_distinct_names
from dit_eval.results.result import Result
from dit_eval.results.table2 import ComparableTable, table2
from dit_eval.results.warning_level import fatal_warnings, notes

CAPTIONS = {
    "fid-guidance": "FID against guidance scale; lower is better.",
    "is-guidance": "Inception score against guidance scale; higher is better.",
    "precision-recall": "Precision against recall; labels are guidance scales.",
    "fid-gflops": "FID against the cost of a forward pass; labels are guidance scales.",
}
CLASS_CAPTIONS = {
    "precision": "{title} by class: share of samples inside the manifold of all reference images.",
    "recall": "{title} by class: share of reference images inside the manifold of all samples.",
    "coverage": "{title} by class: share of reference images with a sample in their ball.",
}
SAMPLES, FEW_SAMPLES = 64, 16  # pictures of each result, and if there are many results
MANY_RESULTS = 8
OUTSIDE = 16  # pictures of samples outside the manifold
WORST_CLASSES, PER_CLASS = 3, 8  # classes that are shown, and pictures of each


def write_report(
    path: str | Path, results: Result | Sequence[Result], *, title: str = "dit-eval report"
) -> Path:
    """Write an HTML report of results; returns the path.

    It begins with what was measured and the headline number. Then, for each group of results that can be
    compared: table, figures, precision and recall by class, samples, those outside the manifold of the
    reference, and the classes with the lowest precision; at the end the data as CSV and the provenance.
    Images are read from the files that the results name, and left out if these do not exist. Raises
    ResultError for no results or a path that cannot be written, and BatchError for a damaged file of images.

    >>> dit_eval.write_report("report.html", [result]).name
    'report.html'
    """
    results = [results] if isinstance(results, Result) else results
    if not results:
        raise ResultError("a report needs at least one result; `dit-eval fid … --json FILE` writes one.")
    labels, results = labels_by_name(results), with_distinct_names(results)
    environment = Environment(
        loader=PackageLoader("dit_eval.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["csv_uri"] = _csv_uri
    number = SAMPLES if len(results) <= MANY_RESULTS else FEW_SAMPLES
    sections = [_section(table, number, labels) for table in table2(results).tables]
    page = environment.get_template("page.html").render(
        title=title,
        columns={name: METRICS[name].column_title for name in columns(result.metrics for result in results)},
        headline=headline(sections[0]["table"].results, sections[0]["best"]),
        facts=facts(results),
        sections=sections,
        data=[("results.csv", as_csv(compare(*results, to="best"))), *_class_data(results)],
        results=[(result.name, list(_metrics(result)), dict(_metadata(result))) for result in results],
        fatal=_grouped(results, fatal_warnings),
        notes=_grouped(results, notes),
    )
    write_text(Path(path), page)
    return Path(path)


def _grouped(results: Sequence[Result], kind: Any) -> list[tuple[str, str]]:
    """Each warning once, with the names of the results that have it unless all of them do."""
    found: dict[str, list[str]] = {}
    for result in results:
        for warning in kind(result):
            found.setdefault(warning, []).append(result.name)
    return [
        (warning, "" if len(names) == len(results) else ", ".join(names)) for warning, names in found.items()
    ]


def _section(table: ComparableTable, number: int, labels: Mapping[str, str | None]) -> dict[str, Any]:
    """A table with everything that shows its results; number: of samples of each; labels: see `figures`."""
    group = compare(*table.results, to="best").groups[0]
    drawn = figures(table.results, labels)
    shares = by_class(table.results)
    samples = {result.name: pictures for result in table.results if (pictures := open_samples(result))}
    reference = open_reference_images(table.results[0])
    return {
        "table": table,
        "best": clearly_best(group),
        "every": [svg(figure) for name, figure in drawn.items() if name not in FIGURES],
        "figures": {CAPTIONS[name]: svg(figure) for name, figure in drawn.items() if name in FIGURES},
        "classes": list(_class_panels(table.results)),
        "worst": list(_worst_classes(shares.get("precision", ()), samples, reference)),
        "outside": list(_outside(samples)),
        "sheets": list(_sheets(samples, reference, number)),
        "partly": any(len(pictures.images) > pictures.reach for pictures in samples.values()),
        "searched": SEARCHED,
    }


def _class_panels(results: Sequence[Result]) -> Iterator[tuple[str, str, list[ClassShares]]]:
    """Figure, caption and, if there are too many classes to name, the shares whose lowest are listed."""
    drawn = class_figures(results)
    for metric, shares in by_class(results).items():
        caption = CLASS_CAPTIONS[metric].format(title=METRICS[metric].label)
        yield svg(drawn[f"{metric}-classes"]), caption, [] if can_name_all(shares) else shares


def _worst_classes(
    classes: Sequence[ClassShares], samples: dict[str, Pictures], reference: Pictures | None
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """By result, the classes with the lowest precision: share, samples and reference images."""
    for shares in classes:
        rows = [
            {
                "share": share,
                "samples": samples[shares.name].of_class(share.label, PER_CLASS),
                "reference": reference.of_class(share.label, PER_CLASS) if reference else [],
            }
            for share in (shares.lowest(WORST_CLASSES) if shares.name in samples else ())
        ]
        if any(row["samples"] for row in rows):
            yield shares.name, rows


def _outside(samples: dict[str, Pictures]) -> Iterator[tuple[str, int, int, list[Picture]]]:
    """By result, how many samples lie outside the manifold, of how many, and some of them."""
    for name, pictures in samples.items():
        if pictures.inside is not None and not pictures.inside.all():
            count = int((~pictures.inside).sum())
            yield name, count, len(pictures.inside), pictures.outside(OUTSIDE)


def _sheets(
    samples: dict[str, Pictures], reference: Pictures | None, number: int
) -> Iterator[tuple[str, list[Picture]]]:
    """Samples of every result and, if there are any, images of the reference."""
    for name, pictures in samples.items():
        yield name, pictures.spread(number)
    if samples and reference:
        yield "reference", reference.spread(number)


def _class_data(results: Sequence[Result]) -> Iterator[tuple[str, str]]:
    """The shares by class as CSV, if there are any."""
    headings, records = ("metric", "result", "class", "n", "inside", "share", "low", "high"), []
    for metric, every in by_class(results).items():
        for shares in every:
            counts = shares.labels.tolist(), shares.n.tolist(), shares.inside.tolist(), shares.shares.tolist()
            for *row, ends in zip(*counts, shares.intervals().tolist(), strict=True):
                records.append(dict(zip(headings, (metric, shares.name, *row, *ends), strict=True)))
    if records:
        yield "classes.csv", csv_text(records)


def _csv_uri(text: str) -> str:
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode('ascii')}"


def _metrics(result: Result) -> Iterator[tuple[str, str, str]]:
    """Title, value with its interval, and what it was measured against or why it is missing."""
    for name, metric in METRICS.items():
        title = f"{METRICS[metric.parent].label}, {metric.label}" if metric.parent else metric.title
        if name in result.metrics:
            yield title, _value(result, name), result.measured_against[name]
        elif name in result.missing:
            yield title, "absent", result.missing[name]


def _value(result: Result, name: str) -> str:
    digits, half_width = METRICS[name].digits, result.half_width(name)
    interval = "" if half_width is None else f" ± {half_width:.{digits}f}"
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
