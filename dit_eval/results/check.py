"""Compare a result with a baseline or a published row, metric by metric.

The verdict depends on the confidence interval of the difference and on the tolerance:

    worse        the whole interval is a loss beyond the tolerance
    better       the whole interval is a gain beyond the tolerance
    equivalent   the whole interval lies within the tolerance
    undecided    anything else: the interval is too wide to tell

Comparisons are paired where the images allow it (see `results.metric_comparison`). The intervals of one check
are simultaneous: together they hold with 95 %, however many metrics are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dit_eval.errors import ResultError, UsageError, require_known
from dit_eval.results import comparability
from dit_eval.results.check_settings import Amount
from dit_eval.results.metric_comparison import (
    Baseline,
    MetricComparison,
    Verdict,
    baseline_of,
    compare_metric,
)
from dit_eval.results.metric_names import HEADLINE
from dit_eval.results.published import published_results
from dit_eval.results.result import Result, read_result

_PRINTED_PRECISION = 0.005  # half of the last digit of the papers' tables


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A bound on cost, speed or detectable loss, and the value found. side: upper or lower bound."""

    name: str
    value: float
    bound: float
    side: Literal["upper", "lower"]

    @property
    def met(self) -> bool:
        """True if the value does not exceed the bound."""
        return self.value <= self.bound if self.side == "upper" else self.value >= self.bound


@dataclass(frozen=True, kw_only=True, repr=False)
class Check:
    """The outcome of a check. warnings: why it may see less than it could; notes: how to read it."""

    result: str
    baseline: str
    n: int
    comparisons: tuple[MetricComparison, ...]
    limits: tuple[Limit, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if no metric is worse and every limit is met."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """The metrics that are worse and the limits that are not met."""
        return [*self.named("worse"), *(limit.name for limit in self.limits if not limit.met)]

    def named(self, verdict: Verdict) -> list[str]:
        """The metrics with this verdict."""
        return [comparison.name for comparison in self.comparisons if comparison.verdict == verdict]

    def __repr__(self) -> str:
        """What was compared, and the outcome."""
        outcome = f"failed: {', '.join(self.failed)}" if self.failed else "passed"
        return f"Check({self.result!r} against {self.baseline!r}, {outcome}, n={self.n:,})"


def check(
    result: Result | str | Path,
    baseline: Result | str | Path | None = None,
    *,
    published: str | None = None,
    tolerances: Mapping[str, Amount] | None = None,
    require_power: Mapping[str, Amount] | None = None,
    max_gflops: float | None = None,
    min_speed: float | None = None,
    force: bool = False,
) -> Check:
    """Compare a result with a baseline, or with a row of reference_stats/published.toml.

    result, baseline: Results, or the JSON files of such; tolerances: accepted loss by metric, 0 by default;
    require_power: by metric, the largest loss that may go unnoticed with a probability of more than 20 %;
    max_gflops: upper bound on the cost of a forward pass of one image, in 1e9 multiply-adds; min_speed: lower
    bound on images/s relative to the baseline on the same device; force: compare even if the two do not
    measure the same thing. Raises ResultError if the two cannot
    be compared, naming every field that differs, and UsageError for unknown names.

    >>> outcome = dit_eval.check(result, "result.json")
    >>> outcome.passed, outcome.named("worse")
    (True, [])
    """
    if (baseline is None) == (published is None):
        raise UsageError(
            "a check needs either a baseline (--baseline FILE) or a published row (--published NAME)."
        )
    tolerances, require_power = tolerances or {}, require_power or {}
    require_known("metric", [*tolerances, *require_power], HEADLINE)
    name, loaded = _named(result)
    limits = [] if max_gflops is None else [_gflops_limit(name, loaded, max_gflops)]
    if published is not None:
        if min_speed is not None:
            raise UsageError("min_speed is relative to a baseline's images/s; a published row has none.")
        target = _published_target(published, loaded)
    else:
        assert baseline is not None
        baseline_name, loaded_baseline = _named(baseline)
        if min_speed is not None:
            limits.append(_speed_limit(name, loaded, baseline_name, loaded_baseline, min_speed))
        target = _baseline_target(name, loaded, baseline_name, loaded_baseline)
    if not force:
        comparability.require_comparable(target.differences, name, target.name)
    forced = [f"Compared by force: {'; '.join(target.differences)}."] if target.differences else []
    comparisons = tuple(_compare(name, loaded, target, tolerances))
    return Check(
        result=name,
        baseline=target.name,
        n=loaded.samples["n"],
        comparisons=comparisons,
        limits=(*limits, *_power_limits(comparisons, require_power)),
        warnings=(*target.warnings, *forced),
        notes=target.notes,
    )


def _named(result: Result | str | Path) -> tuple[str, Result]:
    """What messages call a result, its file or its name, and the result."""
    return (result.name, result) if isinstance(result, Result) else (str(result), read_result(Path(result)))


def update_baseline(
    result: str | Path, baseline: str | Path, *, replace_better: bool = False, **options: Any
) -> None:
    """Save a result as the new baseline.

    options: those of `check`. A baseline that is there is compared with first: raises ResultError if the
    result fails that check or cannot be compared, unless replace_better.
    """
    loaded = read_result(Path(result))
    if Path(baseline).exists() and not replace_better:
        outcome = check(result, baseline, **options)
        if outcome.failed:
            raise ResultError(
                f"{result} fails the check against {baseline} ({', '.join(outcome.failed)}), which is kept. "
                "To replace it all the same, give --update twice."
            )
    loaded.save(baseline)


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What a result is compared with. slack: half of a printed value's last digit."""

    name: str
    numbers: Baseline
    differences: list[str]
    slack: float = 0.0
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _baseline_target(name: str, result: Result, baseline_name: str, baseline: Result) -> _Target:
    same_noise = comparability.are_paired(result, baseline)
    lacking = [
        which for which, content in ((name, result), (baseline_name, baseline)) if not content.influence
    ]
    warnings, notes = (), ()
    if not same_noise:
        notes = ("† Not paired: the two are not known to be sampled from the same noise and labels.",)
    elif lacking:
        notes = ("† Not paired.",)
        warnings = (
            f"{' and '.join(lacking)} without per-image data: although the images share noise and labels, "
            "they are not compared in pairs, and small changes go unnoticed. Evaluate again to record it.",
        )
    return _Target(
        name=baseline_name,
        numbers=baseline_of(result, baseline),
        differences=comparability.differences(result, baseline),
        warnings=warnings,
        notes=notes,
    )


def _published_target(name: str, result: Result) -> _Target:
    require_known("published row", (name,), published_results())
    row = published_results()[name]
    return _Target(
        name=name,
        numbers=Baseline(metrics=row.metrics, errors={}, influence={}),
        differences=comparability.differences_from_published(result, row),
        slack=_PRINTED_PRECISION,
        notes=(
            f"{row.label}: {row.source}.",
            "† Published values have no interval: the result's is used for both, and half of the last "
            "printed digit is added to the tolerance.",
        ),
    )


def _compare(
    given: str, result: Result, target: _Target, tolerances: Mapping[str, Amount]
) -> Iterator[MetricComparison]:
    names = [name for name in HEADLINE if name in target.numbers.metrics]
    missing = [name for name in names if name not in result.intervals or name not in result.metrics]
    if missing or not names:
        raise ResultError(
            f"{given} has no interval for {', '.join(missing) or 'any metric'}, which {target.name} has. "
            "Evaluate again with the same --metric options, against a reference with images."
        )
    for name in names:
        tolerance = tolerances.get(name, Amount()).absolute(target.numbers.metrics[name]) + target.slack
        yield compare_metric(name, result, target.numbers, simultaneous=len(names), tolerance=tolerance)


def _power_limits(comparisons: tuple[MetricComparison, ...], power: Mapping[str, Amount]) -> Iterator[Limit]:
    for comparison in comparisons:
        if comparison.name in power:
            bound = power[comparison.name].absolute(comparison.baseline)
            name = f"detectable {comparison.name}"
            yield Limit(name=name, value=comparison.detectable, bound=bound, side="upper")


def _gflops_limit(name: str, result: Result, bound: float) -> Limit:
    macs = result.samples.get("macs")
    if not isinstance(macs, (int, float)):
        raise ResultError(
            f"{name} does not record the cost of its model; --max-gflops needs a batch of `dit-eval sample`."
        )
    return Limit(name="gflops", value=macs / 1e9, bound=bound, side="upper")


def _speed_limit(name: str, result: Result, baseline_name: str, baseline: Result, share: float) -> Limit:
    speeds = [compared.samples.get("speed") or {} for compared in (result, baseline)]
    device, baseline_device = (speed.get("device", "no speed") for speed in speeds)
    if not all(speeds) or device != baseline_device:
        raise ResultError(
            f"the speeds of {name} ({device}) and {baseline_name} ({baseline_device}) cannot be compared: "
            "both must be known and of the same device. `dit-eval sample` records the speed if a process "
            "samples two batches or more. Sample again, or leave out --min-speed."
        )
    value, baseline_value = (speed["images"] / speed["seconds"] for speed in speeds)
    return Limit(name="images/s", value=value, bound=share * baseline_value, side="lower")
