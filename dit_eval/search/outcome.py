"""What a search has found, as a value and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dit_eval.results.metric_comparison import MetricComparison, baseline_of, compare_metric
from dit_eval.results.metric_names import METRICS, MetricName
from dit_eval.results.result import Result
from dit_eval.results.sampling_cost import gflops_per_image
from dit_eval.search.race import Round
from dit_eval.search.settings import Values, describe

Verdict = Literal["winner", "tied", "dropped"]


@dataclass(frozen=True, kw_only=True)
class Race:
    """Candidates that raced against each other.

    axis: the setting that varies, None for all; comparisons: how many of the whole search hold together;
    entrants: numbers of the candidates; rounds: those that took place; ended_by_budget: before the last one.
    """

    axis: str | None
    comparisons: int
    entrants: tuple[int, ...]
    rounds: tuple[Round, ...] = ()
    ended_by_budget: bool = False


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One combination of the varied settings.

    result: of its last round; relative: compared with the winner on the most images that both have, with
    half-widths that hold for the whole search together; verdict: "tied" if it cannot be told apart from the
    best of its race.
    """

    values: Values
    result: Result
    relative: MetricComparison
    verdict: Verdict

    @property
    def n(self) -> int:
        """Its images."""
        return self.result.samples["n"]

    @property
    def gflops(self) -> float | None:
        """See `gflops_per_image`."""
        return gflops_per_image(self.result)


@dataclass(frozen=True, kw_only=True, repr=False)
class Sweep:
    """The outcome of a search.

    search: its parameters, as JSON; candidates: the winner, those tied with it, then the dropped ones, each
    from the best; fresh: the result of the winner on fresh images, the number to report; optimism: the
    winner in the search compared with fresh images of the same number.
    """

    search: Mapping[str, Any]
    races: Sequence[Race]
    candidates: Sequence[Candidate]
    fresh: Result
    optimism: MetricComparison

    def __repr__(self) -> str:
        """The number to report, its settings, and how many were tried."""
        from dit_eval.search.summary import with_interval  # imports this module

        n, number = self.fresh.samples["n"], with_interval(self.fresh, self.search["metric"], self.metric)
        candidates = f"best of {len(self.candidates)} settings"
        return f"Sweep({self.metric.label} {number} of {describe(self.winner.values)}, {candidates}, n={n:,})"

    @property
    def metric(self) -> MetricName:
        """The metric of the search."""
        return METRICS[self.search["metric"]]

    @property
    def winner(self) -> Candidate:
        """The candidate with the best value in the last round."""
        return self.candidates[0]

    @property
    def tied(self) -> list[Candidate]:
        """The candidates that cannot be told apart from the winner."""
        return [candidate for candidate in self.candidates if candidate.verdict == "tied"]

    @property
    def images(self) -> int:
        """Images of the search, without the fresh ones."""
        return sum(candidate.n for candidate in self.candidates)

    @property
    def grid_images(self) -> int:
        """Images of the full grid."""
        return math.prod(map(len, self.search["vary"].values())) * self.search["num"]

    @property
    def gflops(self) -> float | None:
        """1e9 multiply-adds of the search, without the fresh images; None if they are not known."""
        costs = [(candidate.n, candidate.gflops) for candidate in self.candidates]
        known = [n * gflops for n, gflops in costs if gflops is not None]
        return sum(known) if len(known) == len(costs) else None

    @property
    def warnings(self) -> list[str]:
        """What a reader of the numbers must know."""
        results = (self.fresh, *(candidate.result for candidate in self.candidates))
        return list(dict.fromkeys(warning for result in results for warning in result.warnings))

    def table(self, width: int = 80) -> str:
        """The outcome for a terminal of `width` columns."""
        from dit_eval.search.summary import as_text  # imports this module

        return as_text(self, width)

    def paragraph(self) -> str:
        """The search and its outcome in a few sentences, for a paper."""
        from dit_eval.search.summary import as_paragraph

        return as_paragraph(self)

    def to_json(self) -> dict[str, Any]:
        """Search, races and outcome as JSON values."""
        name = self.search["metric"]
        return {
            **state_as_json(self.search, self.races),
            "outcome": {
                "images": self.images,
                "images_of_the_grid": self.grid_images,
                "gflops": self.gflops,
                "candidates": [_candidate_as_json(candidate, name) for candidate in self.candidates],
                "fresh": {"n": self.fresh.samples["n"], "seed": self.fresh.samples["plan"]["seed"]}
                | {"digest": self.fresh.samples["digest"], **_value(self.fresh, name)},
                "optimism": _difference(self.optimism),
                "paragraph": self.paragraph(),
            },
        }


def collect_candidates(
    races: Sequence[Race],
    values: Sequence[Values],
    results: Sequence[Mapping[int, Result]],
    winner: int,
    metric: str,
) -> list[Candidate]:
    """The candidates in the order of `Sweep.candidates`.

    values, results: by number of the candidate; the results by number of images.
    """
    dropped = {number for race in races for found in race.rounds for number in found.dropped}
    simultaneous = max(race.comparisons for race in races)
    candidates = []
    for number, by_size in enumerate(results):
        common = max(set(by_size) & set(results[winner]))
        baseline = baseline_of(by_size[common], results[winner][common])
        candidates.append(
            Candidate(
                values=values[number],
                result=by_size[max(by_size)],
                relative=compare_metric(metric, by_size[common], baseline, simultaneous=simultaneous),
                verdict="winner" if number == winner else "dropped" if number in dropped else "tied",
            )
        )
    sign = 1 if METRICS[metric].lower_is_better else -1
    rank = {"winner": 0, "tied": 1, "dropped": 2}
    return sorted(candidates, key=lambda found: (rank[found.verdict], sign * found.relative.difference))


def state_as_json(search: Mapping[str, Any], races: Sequence[Race]) -> dict[str, Any]:
    """The search and its rounds so far as JSON values; candidates are numbers in the order of their files."""
    return {
        "schema": 1,
        "search": search,
        "races": [
            {
                "axis": race.axis,
                "comparisons": race.comparisons,
                "entrants": race.entrants,
                "ended_by_budget": race.ended_by_budget,
                "rounds": [
                    {
                        "n": found.n,
                        "best": found.best,
                        "dropped": found.dropped,
                        "compared_with_best": {
                            number: _difference(comparison)
                            for number, comparison in found.comparisons.items()
                        },
                    }
                    for found in race.rounds
                ],
            }
            for race in races
        ],
    }


def _candidate_as_json(candidate: Candidate, metric: str) -> dict[str, Any]:
    return {
        "values": candidate.values,
        "verdict": candidate.verdict,
        "n": candidate.n,
        **_value(candidate.result, metric),
        "compared_with_winner": _difference(candidate.relative),
        "gflops_per_image": candidate.gflops,
        "digest": candidate.result.samples["digest"],
    }


def _value(result: Result, metric: str) -> dict[str, Any]:
    return {"value": result.metrics[metric], **result.intervals.get(metric, {})}


def _difference(comparison: MetricComparison) -> dict[str, Any]:
    return {
        "difference": comparison.difference,
        "half_width": comparison.half_width,
        "paired": comparison.paired,
    }
