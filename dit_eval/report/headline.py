"""The head of a report: what was measured, when and how, and the one number to remember."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dit_eval.results.comparability import describe_measurement
from dit_eval.results.compare import Group
from dit_eval.results.metric_names import HEADLINE, METRICS
from dit_eval.results.result import Result


@dataclass(frozen=True, kw_only=True)
class Number:
    """A metric as the head shows it. half_width, interval: empty for a metric without an interval."""

    title: str
    value: str
    half_width: str
    interval: str


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The headline number, which result has it, and the other numbers of that result."""

    number: Number
    others: tuple[Number, ...]
    text: str


def clearly_best(group: Group) -> dict[str, str]:
    """Metric → name of the result that is better than every other, for the metrics that have such a result.

    group: compared with the best values, which decides, in pairs where the images allow it, with 95 %
    confidence for all comparisons together.
    """
    return {metric: row.name for metric in group.targets if (row := group.clearly_best(metric))}


def headline(results: Sequence[Result], best: Mapping[str, str]) -> Headline | None:
    """The best FID of comparable results or, without FID, the first metric they have; None without any.

    best: see `clearly_best`.
    """
    metric = next((name for name in HEADLINE if any(name in result.metrics for result in results)), None)
    if metric is None:
        return None
    having = [result for result in results if metric in result.metrics]
    choose = min if METRICS[metric].lower_is_better else max
    chosen = choose(having, key=lambda result: result.metrics[metric])
    text = ""
    if len(having) > 1:
        extreme = "lowest" if METRICS[metric].lower_is_better else "highest"
        doubt = (
            "better than every other with 95 % confidence"
            if best.get(metric) == chosen.name
            else "but not better than every other beyond chance"
        )
        text = f"{chosen.name}: the {extreme} of {len(having)} results, {doubt}"
    others = (name for name in HEADLINE if name in chosen.metrics and name != metric)
    return Headline(
        number=_number(chosen, metric), others=tuple(_number(chosen, name) for name in others), text=text
    )


def facts(results: Sequence[Result]) -> dict[str, list[str]]:
    """What was measured, when, with which command and version: heading → distinct values."""
    dates = sorted(result.date[:16].replace("T", " ") for result in results if result.date)
    found = {
        "measured": [describe_measurement(result) for result in results],
        "on": [f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))} UTC"] if dates else [],
        "command": [result.command for result in results if result.command],
        "version": [
            f"dit-eval {result.environment['dit_eval']}, torch {result.environment['torch']}, "
            f"{result.environment['device']}"
            for result in results
        ],
        "fingerprint": [f"protocol {result.protocol['fingerprint']}" for result in results],
    }
    return {heading: list(dict.fromkeys(values)) for heading, values in found.items() if values}


def _number(result: Result, metric: str) -> Number:
    names, ends, half_width = METRICS[metric], result.intervals.get(metric), result.half_width(metric)
    return Number(
        title=names.title,
        value=names.format_short(result.metrics[metric]),
        half_width="" if half_width is None else names.format_half_width(half_width),
        interval=f"{names.format_short(ends['low'])} – {names.format_short(ends['high'])}" if ends else "",
    )
