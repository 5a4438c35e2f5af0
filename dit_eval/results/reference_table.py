"""The same samples by several protocols or against several references: a column for each, and where the
references disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dit_eval.metrics.intervals import normal_quantile, standard_error
from dit_eval.report.terminal import render_text
from dit_eval.results.metric_names import METRICS, MetricName
from dit_eval.results.result import Result, short_count


def reference_table(results: Sequence[Result], width: int = 80) -> str:
    """Results of the same samples as text: a table, then a sentence for each disagreement."""
    first, columns = results[0], _column_names(results)
    protocol = "" if _vary(result.protocol["name"] for result in results) else first.protocol["name"]
    title = f"{first.name}, FID-{short_count(first.samples['n'])}{protocol and f', protocol {protocol}'}"
    table = Table(title=title, title_justify="left")
    table.box = SIMPLE_HEAD
    table.add_column("metric", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    for name, metric in METRICS.items():
        if any(name in result.metrics for result in results):
            title = f"  {metric.title}" if metric.parent else metric.title
            table.add_row(title, *(_cell(result, name) for result in results))
    named = list(zip(columns, results, strict=True))
    return render_text(table, *_reasons(named), *_disagreements(named), width=width)


def short_name(result: Result) -> str:
    """The name of the reference, for a file that of the file."""
    return Path(result.reference["path"]).name


def _column_names(results: Sequence[Result]) -> list[str]:
    """The reference of each result or, where several protocols are shown, protocol and reference."""
    references = [short_name(result) for result in results]
    protocols = [result.protocol["name"] for result in results]
    if not _vary(protocols):
        return references
    return [", ".join(pair) for pair in zip(protocols, references, strict=True)]


def _vary(values: Iterable[object]) -> bool:
    return len(set(values)) > 1


def _cell(result: Result, name: str) -> str:
    if name not in result.metrics:
        return "absent"
    digits, half_width = METRICS[name].digits, result.half_width(name)
    interval = "" if half_width is None else f"\n± {half_width:.{digits}f}"
    return f"{result.metrics[name]:z.{digits}f}{interval}"


def _reasons(results: Sequence[tuple[str, Result]]) -> Iterator[str]:
    """Why metrics are absent, a sentence for each column and reason."""
    for column, result in results:
        reasons: dict[str, list[str]] = {}
        for name, reason in result.missing.items():
            if not METRICS[name].parent:
                reasons.setdefault(reason, []).append(METRICS[name].label)
        for reason, labels in reasons.items():
            yield f"{', '.join(labels)} against {column}: absent, because {reason}."


def _disagreements(results: Sequence[tuple[str, Result]]) -> Iterator[str]:
    """Pairs of references whose headline numbers differ by more than the 95 % interval of the difference.

    The samples are the same, so their influences are subtracted image by image. Numbers of different
    protocols are not compared.
    """
    comparisons = [
        (pair, [name for name, metric in METRICS.items() if _comparable(name, metric, pair)])
        for pair in combinations(results, 2)
    ]
    number = sum(len(names) for _, names in comparisons)
    for ((column_a, a), (column_b, b)), names in comparisons:
        found = []
        for name in names:
            error = standard_error(a.influence[name] - b.influence[name])
            difference = a.metrics[name] - b.metrics[name]
            half_width = normal_quantile(number) * error
            if abs(difference) > half_width:
                digits = METRICS[name].column_digits
                found.append(f"{METRICS[name].label} {difference:+.{digits}f} ± {half_width:.{digits}f}")
        if found:
            yield (
                f"{column_a} minus {column_b}: {', '.join(found)}. The references differ by more "
                "than the interval; state which one a number is against."
            )


def _comparable(name: str, metric: MetricName, results: Sequence[tuple[str, Result]]) -> bool:
    """True for a headline metric of one protocol that depends on the reference and has influences."""
    return (
        not _vary(result.protocol["fingerprint"] for _, result in results)
        and not metric.parent
        and name != "inception_score"  # of the samples alone
        and all(name in result.influence for _, result in results)
    )
