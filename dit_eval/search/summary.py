"""The outcome of a search as a table for a terminal and as a paragraph for a paper."""

from __future__ import annotations

from pathlib import Path

from dit_eval.report.terminal import dense_table, render_text
from dit_eval.results.metric_names import MetricName
from dit_eval.results.result import Result
from dit_eval.search.outcome import Candidate, Sweep
from dit_eval.search.settings import describe, show

_KEY = (
    "− winner: difference from the winner on the same images, the most that both have; ± all: half of its "
    "interval, where those of the whole search hold together with 95 %. Dropped: worse than the best of a "
    "round, which need not be the winner. Tied: not told apart from the best."
)
_MOST_NAMED = 5  # ties that a paragraph names


def as_text(sweep: Sweep, width: int = 80) -> str:
    """The table of candidates, what the fresh images say, the cost, and the paragraph for a paper."""
    metric, search = sweep.metric, sweep.search
    table = dense_table()
    for name in search["vary"]:
        table.add_column(name, justify="right")
    for heading in ("images", metric.column_title, "± 95 %", "− winner", "± all", "Gflops", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for candidate in sweep.candidates:
        table.add_row(*map(show, candidate.values.values()), *_cells(candidate, metric, search["metric"]))
    fresh = f"{sweep.fresh.samples['n']:,} fresh images"
    return render_text(
        f"{metric.label} against {Path(search['against']).name}, {search['strategy']}, "
        f"{len(sweep.candidates)} settings",
        table,
        _KEY,
        f"{_cost(sweep)}, and {fresh} of the winner.",
        "",
        f"To report: {metric.label} {with_interval(sweep.fresh, search['metric'], metric)} of "
        f"{describe(sweep.winner.values)} on {fresh}. {_optimism(sweep)}",
        "",
        as_paragraph(sweep),
        width=width,
    )


def _cost(sweep: Sweep) -> str:
    share = sweep.images / sweep.grid_images
    text = f"The search sampled {sweep.images:,} images, {share:.0%} of the full grid's {sweep.grid_images:,}"
    return text if sweep.gflops is None else f"{text}, with {sweep.gflops / 1e3:,.3g} Tflops (multiply-adds)"


def as_paragraph(sweep: Sweep) -> str:
    """The search and its outcome in a few sentences, for a paper."""
    search, metric, winner, name = sweep.search, sweep.metric, sweep.winner, sweep.search["metric"]
    values = "; ".join(
        f"{setting} in {{{', '.join(map(show, values))}}}" for setting, values in search["vary"].items()
    )
    fresh_seed = sweep.fresh.samples["plan"]["seed"]
    how = "every combination" if search["strategy"] == "grid" else "one setting after another"
    model = f" of {search['model']}" if "model" in search else ""
    sizes = [found.n for race in sweep.races for found in race.rounds]
    ended = "The budget ended the race early. " if any(race.ended_by_budget for race in sweep.races) else ""
    return (
        f"We searched the {'lowest' if metric.lower_is_better else 'highest'} {metric.label}{model} against "
        f"{Path(search['against']).name} over {values} ({how}, {len(sweep.candidates)} settings). All "
        f"settings were sampled from the same noise and class labels (random seed {search['seed']}), in "
        f"rounds of {min(sizes):,} to {max(sizes):,} images. After each round, settings worse than the best "
        f"were dropped, with 95 % confidence for all {max(race.comparisons for race in sweep.races):,} "
        f"comparisons together (paired differences, Bonferroni). {ended}The search took {sweep.images:,} "
        f"images instead of {sweep.grid_images:,} for the full grid. The best setting is "
        f"{describe(winner.values)}, with {metric.label} {with_interval(winner.result, name, metric)} on "
        f"{winner.n:,} images of the search; {_ties(sweep)}. On {sweep.fresh.samples['n']:,} fresh images "
        f"(random seed {fresh_seed}) it has {metric.label} {with_interval(sweep.fresh, name, metric)} (95 % "
        "interval), which we report."
    )


def _ties(sweep: Sweep) -> str:
    """The settings that are as good as the winner, as far as the search can tell."""
    tied = [describe(candidate.values) for candidate in sweep.tied]
    if not tied:
        return "all others are worse"
    names = f" ({'; '.join(tied)})" if len(tied) <= _MOST_NAMED else ""
    return f"{len(tied)} other{'s' if len(tied) > 1 else ''} cannot be told apart from it{names}"


def _cells(candidate: Candidate, metric: MetricName, name: str) -> list[str]:
    relative, gflops = candidate.relative, candidate.gflops
    winner = candidate.verdict == "winner"
    return [
        f"{candidate.n:,}",
        metric.format_short(candidate.result.metrics[name]),
        _half_width(candidate.result, name, metric),
        "" if winner else f"{relative.difference:+z.{metric.column_digits}f}",
        "" if winner else metric.format_half_width(relative.half_width),
        "" if gflops is None else f"{gflops:.3g}",
        candidate.verdict,
    ]


def _optimism(sweep: Sweep) -> str:
    """How much better the search's images look than fresh ones of the same number."""
    metric, found = sweep.metric, sweep.optimism
    return (
        f"Optimism of the search, {metric.label} of the search minus that of fresh images at "
        f"{sweep.winner.n:,} images each: {found.difference:+z.{metric.column_digits}f} ± "
        f"{metric.format_half_width(found.half_width)}."
    )


def with_interval(result: Result, name: str, metric: MetricName) -> str:
    """The value of a metric and half of its 95 % interval."""
    return f"{metric.format_short(result.metrics[name])} ± {_half_width(result, name, metric)}"


def _half_width(result: Result, name: str, metric: MetricName) -> str:
    half_width = result.half_width(name)
    assert half_width is not None  # every metric of a search has an interval
    return metric.format_half_width(half_width)
