"""One metric of two results: their difference, its confidence interval and the verdict.

If image i of both results was sampled from the same noise and label, the comparison is paired, which removes
the variance they share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

from dit_eval.metrics.intervals import normal_quantile, standard_error
from dit_eval.results.comparability import are_paired
from dit_eval.results.metric_names import METRICS
from dit_eval.results.result import Result

POWER = 0.8
Verdict = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True, kw_only=True)
class MetricComparison:
    """One metric of both results. error, half_width: of the difference, standard and 95 % simultaneous."""

    name: str
    value: float
    baseline: float
    error: float
    half_width: float
    tolerance: float
    paired: bool

    @property
    def difference(self) -> float:
        """Value minus baseline."""
        return self.value - self.baseline

    @property
    def verdict(self) -> Verdict:
        """See `results.check`."""
        loss = self.difference if METRICS[self.name].lower_is_better else -self.difference
        if loss - self.half_width > self.tolerance:
            return "worse"
        if loss + self.half_width < -self.tolerance:
            return "better"
        within = abs(loss) + self.half_width <= self.tolerance
        return "equivalent" if within and self.tolerance > 0 else "undecided"

    @property
    def detectable(self) -> float:
        """The smallest loss, in the metric's unit, that is called worse with a probability of 80 %."""
        return self.tolerance + self.half_width + NormalDist().inv_cdf(POWER) * self.error


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The numbers that a result is compared with. influence: of its images if these make pairs."""

    metrics: Mapping[str, float]
    errors: Mapping[str, float]
    influence: Mapping[str, Any]


def baseline_of(result: Result, baseline: Result) -> Baseline:
    """The numbers of a baseline, with its influences if its images and the result's make pairs."""
    return Baseline(
        metrics=baseline.metrics,
        errors={name: interval["se"] for name, interval in baseline.intervals.items()},
        influence=baseline.influence if are_paired(result, baseline) else {},
    )


def compare_metric(
    name: str, result: Result, baseline: Baseline, *, simultaneous: int, tolerance: float = 0.0
) -> MetricComparison:
    """Compare one metric, in pairs if both have influences of it, else with the errors of both.

    result: with an interval of this metric; simultaneous: how many comparisons hold together with 95 %. An
    unknown error of the baseline is taken to be the result's.
    """
    values, baseline_values = result.influence.get(name), baseline.influence.get(name)
    paired = values is not None and baseline_values is not None and len(values) == len(baseline_values)
    if values is not None and baseline_values is not None and paired:
        error = standard_error(values - baseline_values)
    else:
        result_error = result.intervals[name]["se"]
        error = math.hypot(result_error, baseline.errors.get(name, result_error))
    return MetricComparison(
        name=name,
        value=result.metrics[name],
        baseline=baseline.metrics[name],
        error=error,
        half_width=normal_quantile(simultaneous) * error,
        tolerance=tolerance,
        paired=paired,
    )
