"""The same samples against several references: a column for each, and where the references disagree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dit_eval.metrics.intervals import normal_quantile, standard_error
from dit_eval.report.terminal import render_text
from dit_eval.results.metric_names import METRICS
from dit_eval.results.result import Result, short_count


def reference_table(results: Sequence[Result], width: int = 80) -> str:
    """Results of the same samples as text: a table, then a sentence for each disagreement."""
    first = results[0]
    title = f"{first.name}, FID-{short_count(first.samples['n'])}, protocol {first.protocol['name']}"
    table = Table(title=title, title_justify="left")
    table.box = SIMPLE_HEAD
    table.add_column("metric", no_wrap=True)
    for result in results:
        table.add_column(short_name(result), justify="right", overflow="fold")
    for name, metric in METRICS.items():
        if any(name in result.metrics for result in results):
            title = f"  {metric.title}" if metric.parent else metric.title
            table.add_row(title, *(_cell(result, name) for result in results))
    return render_text(table, *_reasons(results), *_disagreements(results), width=width)


def short_name(result: Result) -> str:
    """The name of the reference, for a file that of the file."""
    return Path(result.reference["path"]).name


def _cell(result: Result, name: str) -> str:
    if name not in result.metrics:
        return "absent"
    digits, half_width = METRICS[name].digits, result.half_width(name)
    interval = "" if half_width is None else f"\n± {half_width:.{digits}f}"
    return f"{result.metrics[name]:z.{digits}f}{interval}"


def _reasons(results: Sequence[Result]) -> Iterator[str]:
    """Why metrics are absent, a sentence for each reference and reason."""
    for result in results:
        reasons: dict[str, list[str]] = {}
        for name, reason in result.missing.items():
            if not METRICS[name].parent:
                reasons.setdefault(reason, []).append(METRICS[name].label)
        for reason, labels in reasons.items():
            yield f"{', '.join(labels)} against {short_name(result)}: absent, because {reason}."


def _disagreements(results: Sequence[Result]) -> Iterator[str]:
    """Pairs of references whose headline numbers differ by more than the 95 % interval of the difference.

    The samples are the same, so their influences are subtracted image by image.
    """
    pairs = list(combinations(results, 2))
    names = [
        name
        for name, metric in METRICS.items()
        if not metric.parent
        and name != "inception_score"  # of the samples alone
        and all(name in result.influence for result in results)
    ]
    for a, b in pairs:
        found = []
        for name in names:
            error = standard_error(a.influence[name] - b.influence[name])
            difference = a.metrics[name] - b.metrics[name]
            half_width = normal_quantile(len(pairs) * len(names)) * error
            if abs(difference) > half_width:
                digits = METRICS[name].column_digits
                found.append(f"{METRICS[name].label} {difference:+.{digits}f} ± {half_width:.{digits}f}")
        if found:
            yield (
                f"{short_name(a)} minus {short_name(b)}: {', '.join(found)}. The references differ by more "
                "than the interval; state which one a number is against."
            )
