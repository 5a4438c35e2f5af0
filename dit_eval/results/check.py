"""A result against a baseline or a published row: better, the same or worse, metric by metric.

The verdict comes from the interval of the difference. Where both results were drawn from the same noise
and labels, image by image, the images are compared in pairs, which takes out what they have in common.
The intervals of one check hold together in 95 %, however many metrics it compares.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dit_eval.errors import ResultError, UsageError
from dit_eval.metrics.intervals import normal_quantile, standard_error
from dit_eval.results import comparability
from dit_eval.results.influence import influence_path, read_influence, write_influence
from dit_eval.results.published import published_results
from dit_eval.results.result import METRICS, Result, read_result, write_result

GATED = tuple(name for name, metric in METRICS.items() if not metric.parent)
_PRINTED = 0.005  # half of the last digit of the papers' tables
_SETTINGS = ("baseline", "tolerance", "max-gflops", "min-speed")
Verdict = Literal["better", "same", "worse"]


@dataclass(frozen=True)
class Tolerance:
    """How much worse a metric may become: in its own unit, or as a share of the baseline."""

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
                f"tolerance {text!r} is neither a number like 0.1 nor a share like 2%."
            ) from None
        return cls(amount, relative)

    def of(self, baseline: float) -> float:
        """In the metric's unit."""
        return self.amount * abs(baseline) if self.relative else self.amount


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric: its values, and how far from their difference its 95 % interval reaches."""

    name: str
    value: float
    baseline: float
    reach: float
    tolerance: float
    paired: bool

    @property
    def difference(self) -> float:
        """Value less baseline."""
        return self.value - self.baseline

    @property
    def verdict(self) -> Verdict:
        """Better or worse where the whole interval lies beyond the tolerance."""
        loss = self.difference if METRICS[self.name].lower_is_better else -self.difference
        if loss - self.reach > self.tolerance:
            return "worse"
        return "better" if loss + self.reach < -self.tolerance else "same"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A cost or a speed: what was found, and the most or the least that was asked for."""

    name: str
    value: float
    bound: float
    side: Literal["most", "least"]

    @property
    def kept(self) -> bool:
        """True if the value is on the right side of its bound."""
        return self.value <= self.bound if self.side == "most" else self.value >= self.bound


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a check has found. notes: what a reader of the verdicts must know."""

    result: str
    baseline: str
    n: int
    comparisons: tuple[Comparison, ...]
    limits: tuple[Limit, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if nothing is worse and every limit is kept."""
        return all(each.verdict != "worse" for each in self.comparisons) and all(
            each.kept for each in self.limits
        )


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

    tolerances: by metric, none by default; max_gflops: the most multiply-adds of one forward pass of one
    image, in 1e9; min_speed: the least images/s, as a share of the baseline's on the same device; force:
    compare what does not measure the same thing. Raises ResultError where the two cannot be compared, naming
    every field that differs, and UsageError for unknown names.
    """
    if (baseline is None) == (published is None):
        raise UsageError(
            "a check needs a baseline (--baseline FILE) or a row of the papers (--published NAME), not both."
        )
    tolerances = tolerances or {}
    _require_known("metric", tolerances, GATED)
    path = Path(result)
    ours = read_result(path)
    limits = [] if max_gflops is None else [_gflops(path, ours, max_gflops)]
    if published is not None:
        if min_speed is not None:
            raise UsageError("min_speed is a share of a baseline's images/s; a published row has none.")
        other, different, notes = _against_published(published, ours)
    else:
        theirs = read_result(Path(str(baseline)))
        if min_speed is not None:
            limits.append(_speed(path, ours, Path(str(baseline)), theirs, min_speed))
        other, different, notes = _against_baseline(ours, Path(str(baseline)), theirs)
    if not force:
        comparability.require_comparable(different, str(path), other.name)
    if different:
        notes = (*notes, f"Compared by force: {'; '.join(different)}.")
    return Check(
        result=str(path),
        baseline=other.name,
        n=ours.samples["n"],
        comparisons=_compare(path, ours, other, tolerances),
        limits=tuple(limits),
        notes=notes,
    )


def update_baseline(result: str | Path, baseline: str | Path) -> None:
    """Make a result the new baseline: its JSON and, where there are any, its images' influences.

    Raises ResultError or BatchError if a file cannot be read or written.
    """
    source, target = Path(result), Path(baseline)
    ours = read_result(source)
    influence = read_influence(source, ours)
    influence_path(target).unlink(missing_ok=True)  # the old one's, which the new one would not pair with
    write_result(target, ours)
    if influence:
        write_influence(target, ours, influence)


def settings(folder: Path) -> dict[str, Any]:
    """The table [tool.dit-eval.check] of a folder's pyproject.toml.

    Empty where there is none. Raises UsageError for a file that is no TOML and for unknown keys.
    """
    path = folder / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        tools = tomllib.loads(path.read_text("utf-8")).get("tool", {})
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is no TOML ({error}).") from None
    table = tools.get("dit-eval", {}).get("check", {})
    _require_known(f"key in [tool.dit-eval.check] of {path}:", table, _SETTINGS)
    return table


@dataclass(frozen=True, kw_only=True)
class _Other:
    """The other side of a check. slack: half of a printed value's last digit."""

    name: str
    metrics: Mapping[str, float]
    errors: Mapping[str, float]
    influence: Mapping[str, Any]
    slack: float = 0.0


def _against_baseline(
    ours: Result, baseline: Path, theirs: Result
) -> tuple[_Other, list[str], tuple[str, ...]]:
    paired = comparability.are_paired(ours, theirs)
    influence = read_influence(baseline, theirs) if paired else {}
    notes = () if influence else (_why_unpaired(baseline, paired),)
    other = _Other(
        name=str(baseline),
        metrics=theirs.metrics,
        errors={name: each["se"] for name, each in theirs.intervals.items()},
        influence=influence,
    )
    return other, comparability.differences(ours, theirs), notes


def _against_published(name: str, ours: Result) -> tuple[_Other, list[str], tuple[str, ...]]:
    _require_known("published row", (name,), tuple(published_results()))
    row = published_results()[name]
    other = _Other(name=name, metrics=row.metrics, errors={}, influence={}, slack=_PRINTED)
    notes = (
        f"{row.label}: {row.source}.",
        "† A printed value has no interval: ours stands for both, with half of its last digit as tolerance.",
    )
    return other, comparability.differences_from_published(ours, row), notes


def _why_unpaired(baseline: Path, paired: bool) -> str:
    if paired:
        return f"† Not paired: {influence_path(baseline)} is not there. `--update` writes it."
    return "† Not paired: the two are not known to be drawn from the same noise and labels."


def _compare(
    path: Path, ours: Result, other: _Other, tolerances: Mapping[str, Tolerance]
) -> tuple[Comparison, ...]:
    names = [name for name in GATED if name in other.metrics]
    missing = [name for name in names if name not in ours.intervals]
    if missing or not names:
        raise ResultError(
            f"{path} has no {' and no '.join(missing) or 'metric'} with an interval to compare with "
            f"{other.name}. Evaluate again, against a reference with images."
        )
    quantile = normal_quantile(len(names))
    own = read_influence(path, ours) if other.influence else {}
    found = []
    for name in names:
        paired = name in own and name in other.influence and len(own[name]) == len(other.influence[name])
        if paired:
            error = standard_error(own[name] - other.influence[name])
        else:
            mine = ours.intervals[name]["se"]
            error = math.hypot(mine, other.errors.get(name, mine))
        value, baseline = ours.metrics[name], other.metrics[name]
        found.append(
            Comparison(
                name=name,
                value=value,
                baseline=baseline,
                reach=quantile * error,
                tolerance=tolerances.get(name, Tolerance()).of(baseline) + other.slack,
                paired=paired,
            )
        )
    return tuple(found)


def _gflops(path: Path, ours: Result, most: float) -> Limit:
    macs = ours.samples.get("macs")
    if macs is None:
        raise ResultError(
            f"{path} does not say what its model costs; --max-gflops is for batches of `dit-eval sample`."
        )
    return Limit(name="gflops", value=macs / 1e9, bound=most, side="most")


def _speed(path: Path, ours: Result, baseline: Path, theirs: Result, share: float) -> Limit:
    speeds = [side.samples.get("speed") or {} for side in (ours, theirs)]
    here, there = (speed.get("device", "no speed") for speed in speeds)
    if not all(speeds) or here != there:
        raise ResultError(
            f"the speeds of {path} ({here}) and {baseline} ({there}) cannot be compared: both must be known, "
            "on the same device. `dit-eval sample` records them where a process draws two batches or more. "
            "Draw again, or leave out --min-speed."
        )
    value, other = (speed["images"] / speed["seconds"] for speed in speeds)
    return Limit(name="images/s", value=value, bound=share * other, side="least")


def _require_known(what: str, names: Any, known: tuple[str, ...]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"unknown {what} {name!r} (known: {', '.join(known)}).")
