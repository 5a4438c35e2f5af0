"""Compare a result with a baseline or a published row: better, the same or worse, metric by metric.

The verdict depends on the confidence interval of the difference. If image i of both results was sampled from
the same noise and label, the comparison is paired, which removes the variance they share. The intervals of
one check are simultaneous: together they hold with 95 %, however many metrics are compared.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dit_eval.errors import ResultError, UsageError
from dit_eval.metrics.intervals import normal_quantile, standard_error
from dit_eval.results import comparability
from dit_eval.results.influence import influence_path, read_influence, write_influence
from dit_eval.results.metric_names import HEADLINE, METRICS
from dit_eval.results.published import published_results
from dit_eval.results.result import Result, read_result, write_result

_PRINTED_PRECISION = 0.005  # half of the last digit of the papers' tables
_SETTINGS = ("baseline", "tolerance", "max-gflops", "min-speed")
Verdict = Literal["better", "same", "worse"]


@dataclass(frozen=True)
class Tolerance:
    """How much worse a metric may become: in its own unit, or relative to the baseline."""

    amount: float = 0.0
    relative: bool = False

    @classmethod
    def parse(cls, text: str) -> Tolerance:
        """ "0.1" or "2%". Raises UsageError for anything else."""
        try:
            relative = text.endswith("%")
            amount = float(text.removesuffix("%")) / (100 if relative else 1)
            if not 0 <= amount < math.inf:
                raise ValueError
        except ValueError:
            raise UsageError(
                f"tolerance {text!r} is neither a number like 0.1 nor a percentage like 2%."
            ) from None
        return cls(amount, relative)

    def absolute(self, baseline: float) -> float:
        """The tolerance in the metric's unit."""
        return self.amount * abs(baseline) if self.relative else self.amount


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric of both results. half_width: of the 95 % confidence interval of their difference."""

    name: str
    value: float
    baseline: float
    half_width: float
    tolerance: float
    paired: bool

    @property
    def difference(self) -> float:
        """Value minus baseline."""
        return self.value - self.baseline

    @property
    def verdict(self) -> Verdict:
        """Better or worse if the whole interval lies beyond the tolerance."""
        loss = self.difference if METRICS[self.name].lower_is_better else -self.difference
        if loss - self.half_width > self.tolerance:
            return "worse"
        return "better" if loss + self.half_width < -self.tolerance else "same"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A bound on cost or speed, and the value found. side: whether the bound is an upper or a lower one."""

    name: str
    value: float
    bound: float
    side: Literal["upper", "lower"]

    @property
    def met(self) -> bool:
        """True if the value does not exceed the bound."""
        return self.value <= self.bound if self.side == "upper" else self.value >= self.bound


@dataclass(frozen=True, kw_only=True)
class Check:
    """The outcome of a check. notes: how to read the verdicts."""

    result: str
    baseline: str
    n: int
    comparisons: tuple[Comparison, ...]
    limits: tuple[Limit, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if no metric is worse and every limit is met."""
        worse = any(comparison.verdict == "worse" for comparison in self.comparisons)
        return not worse and all(limit.met for limit in self.limits)


def check(
    result: str | Path,
    baseline: str | Path | None = None,
    *,
    published: str | None = None,
    tolerances: Mapping[str, Tolerance] | None = None,
    max_gflops: float | None = None,
    min_speed: float | None = None,
    force: bool = False,
) -> Check:
    """Compare a result's JSON with a baseline's, or with a row of reference_stats/published.toml.

    tolerances: by metric, 0 by default; max_gflops: upper bound on the cost of a forward pass of one image,
    in 1e9 multiply-adds; min_speed: lower bound on images/s relative to the baseline on the same device;
    force: compare even if the two do not measure the same thing. Raises ResultError if the two cannot be
    compared, naming every field that differs, and UsageError for unknown names.
    """
    if (baseline is None) == (published is None):
        raise UsageError(
            "a check needs either a baseline (--baseline FILE) or a published row (--published NAME)."
        )
    tolerances = tolerances or {}
    _require_known("metric", tolerances, HEADLINE)
    path = Path(result)
    loaded = read_result(path)
    limits = [] if max_gflops is None else [_gflops_limit(path, loaded, max_gflops)]
    if published is not None:
        if min_speed is not None:
            raise UsageError("min_speed is relative to a baseline's images/s; a published row has none.")
        target, differences, notes = _published_target(published, loaded)
    else:
        baseline_path = Path(str(baseline))
        loaded_baseline = read_result(baseline_path)
        if min_speed is not None:
            limits.append(_speed_limit(path, loaded, baseline_path, loaded_baseline, min_speed))
        target, differences, notes = _baseline_target(loaded, baseline_path, loaded_baseline)
    if not force:
        comparability.require_comparable(differences, str(path), target.name)
    if differences:
        notes = (*notes, f"Compared by force: {'; '.join(differences)}.")
    return Check(
        result=str(path),
        baseline=target.name,
        n=loaded.samples["n"],
        comparisons=tuple(_compare(path, loaded, target, tolerances)),
        limits=tuple(limits),
        notes=notes,
    )


def update_baseline(result: str | Path, baseline: str | Path) -> None:
    """Save a result as the new baseline: its JSON and, if there is one, its influence file.

    Raises ResultError or BatchError if a file cannot be read or written.
    """
    source, target = Path(result), Path(baseline)
    loaded = read_result(source)
    influence = read_influence(source, loaded)
    influence_path(target).unlink(missing_ok=True)  # the old baseline's, which does not match the new images
    write_result(target, loaded)
    if influence:
        write_influence(target, loaded, influence)


def settings(folder: Path) -> dict[str, Any]:
    """The table [tool.dit-eval.check] of a folder's pyproject.toml, empty if there is none.

    Raises UsageError for a file that is not valid TOML and for unknown keys.
    """
    path = folder / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        tools = tomllib.loads(path.read_text("utf-8")).get("tool", {})
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML ({error}).") from None
    table = tools.get("dit-eval", {}).get("check", {})
    _require_known(f"key in [tool.dit-eval.check] of {path}:", table, _SETTINGS)
    return table


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What a result is compared with. slack: half of a printed value's last digit."""

    name: str
    metrics: Mapping[str, float]
    errors: Mapping[str, float]
    influence: Mapping[str, Any]
    slack: float = 0.0


def _baseline_target(
    result: Result, path: Path, baseline: Result
) -> tuple[_Target, list[str], tuple[str, ...]]:
    paired = comparability.are_paired(result, baseline)
    influence = read_influence(path, baseline) if paired else {}
    if influence:
        notes = ()
    elif paired:
        notes = (f"† Not paired: {influence_path(path)} does not exist. `--update` writes it.",)
    else:
        notes = ("† Not paired: the two are not known to be sampled from the same noise and labels.",)
    target = _Target(
        name=str(path),
        metrics=baseline.metrics,
        errors={name: interval["se"] for name, interval in baseline.intervals.items()},
        influence=influence,
    )
    return target, comparability.differences(result, baseline), notes


def _published_target(name: str, result: Result) -> tuple[_Target, list[str], tuple[str, ...]]:
    _require_known("published row", (name,), published_results())
    row = published_results()[name]
    target = _Target(name=name, metrics=row.metrics, errors={}, influence={}, slack=_PRINTED_PRECISION)
    notes = (
        f"{row.label}: {row.source}.",
        "† Published values have no interval: the result's is used for both, and half of the last printed "
        "digit is added to the tolerance.",
    )
    return target, comparability.differences_from_published(result, row), notes


def _compare(
    path: Path, result: Result, target: _Target, tolerances: Mapping[str, Tolerance]
) -> Iterable[Comparison]:
    names = [name for name in HEADLINE if name in target.metrics]
    missing = [name for name in names if name not in result.intervals]
    if missing or not names:
        raise ResultError(
            f"{path} has no {' and no '.join(missing) or 'metric'} with an interval to compare with "
            f"{target.name}. Evaluate again, against a reference with images."
        )
    quantile = normal_quantile(len(names))
    influence = read_influence(path, result) if target.influence else {}
    for name in names:
        both = name in influence and name in target.influence
        paired = both and len(influence[name]) == len(target.influence[name])
        if paired:
            error = standard_error(influence[name] - target.influence[name])
        else:
            result_error = result.intervals[name]["se"]
            error = math.hypot(result_error, target.errors.get(name, result_error))
        baseline = target.metrics[name]
        yield Comparison(
            name=name,
            value=result.metrics[name],
            baseline=baseline,
            half_width=quantile * error,
            tolerance=tolerances.get(name, Tolerance()).absolute(baseline) + target.slack,
            paired=paired,
        )


def _gflops_limit(path: Path, result: Result, bound: float) -> Limit:
    macs = result.samples.get("macs")
    if macs is None:
        raise ResultError(
            f"{path} does not record the cost of its model; --max-gflops needs a batch of `dit-eval sample`."
        )
    return Limit(name="gflops", value=macs / 1e9, bound=bound, side="upper")


def _speed_limit(path: Path, result: Result, baseline_path: Path, baseline: Result, share: float) -> Limit:
    speeds = [compared.samples.get("speed") or {} for compared in (result, baseline)]
    device, baseline_device = (speed.get("device", "no speed") for speed in speeds)
    if not all(speeds) or device != baseline_device:
        raise ResultError(
            f"the speeds of {path} ({device}) and {baseline_path} ({baseline_device}) cannot be compared: "
            "both must be known and of the same device. `dit-eval sample` records the speed if a process "
            "samples two batches or more. Sample again, or leave out --min-speed."
        )
    value, baseline_value = (speed["images"] / speed["seconds"] for speed in speeds)
    return Limit(name="images/s", value=value, bound=share * baseline_value, side="lower")


def _require_known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"unknown {kind} {name!r} (known: {', '.join(known)}).")
