"""The statistics of a race: how many images each round has, and which candidates go on.

All candidates of a round have the same images: image i of each has the same noise and the same label. The
best of a round is chosen by the data, so any two candidates may come to be compared. A candidate is dropped
if it is worse than the best by more than a half-width at which the comparisons of all pairs in all rounds
hold together with 95 % confidence (Bonferroni). With this confidence, no candidate is dropped that is as
good as the best at this number of images.
Source: the race of Maron & Moore 1994, with normal intervals of paired influences (`metrics.intervals`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb

from dit_eval.errors import UsageError
from dit_eval.results.metric_comparison import MetricComparison, baseline_of, compare_metric
from dit_eval.results.metric_names import METRICS
from dit_eval.results.result import Result

_FIRST_SHARE = 16  # the first round has a sixteenth of the images, unless told otherwise


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round: `n` images of each candidate.

    best: the number of the candidate with the best value; comparisons: of each other candidate with it, by
    number, with half-widths that hold for the whole race together.
    """

    n: int
    best: int
    comparisons: Mapping[int, MetricComparison]

    @property
    def dropped(self) -> tuple[int, ...]:
        """The candidates that are worse than the best."""
        return tuple(number for number, found in self.comparisons.items() if found.verdict == "worse")

    @property
    def survivors(self) -> tuple[int, ...]:
        """The candidates that cannot be told apart from the best, which comes first."""
        return (self.best, *(number for number in self.comparisons if number not in self.dropped))


def round_sizes(num: int, first: int | None, batch_size: int) -> list[int]:
    """The number of images of every round: whole batches that double until they reach `num`.

    first: images of the first round; None for a sixteenth of `num`. Raises UsageError unless it is 1…num.
    """
    if first is not None and not 1 <= first <= num:
        raise UsageError(f"--first is {first}; expected 1 to {num:,}, the --num-samples of the search.")
    wanted = num / _FIRST_SHARE if first is None else first
    n = -(-int(wanted) // batch_size) * batch_size or batch_size
    sizes = []
    while n < num:
        sizes.append(n)
        n *= 2
    return [*sizes, num]


def count_comparisons(candidates: int, rounds: int) -> int:
    """All pairs of candidates in all rounds."""
    return rounds * comb(candidates, 2)


def compare_with_best(results: Mapping[int, Result], metric: str, simultaneous: int) -> Round:
    """The round whose results these are, by number of the candidate.

    simultaneous: how many comparisons hold together with 95 % confidence. Raises UsageError if a result lacks
    the metric.
    """
    for result in results.values():
        if metric not in result.metrics:
            raise UsageError(f"{METRICS[metric].label} cannot be compared: {result.missing[metric]}.")
    choose = min if METRICS[metric].lower_is_better else max
    best = choose(results, key=lambda number: results[number].metrics[metric])
    return Round(
        n=results[best].samples["n"],
        best=best,
        comparisons={
            number: compare_metric(
                metric, result, baseline_of(result, results[best]), simultaneous=simultaneous
            )
            for number, result in results.items()
            if number != best
        },
    )
