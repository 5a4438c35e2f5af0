"""How every metric is called in tables, figures and reports, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MetricName:
    """Names and print format of one metric.

    label: its name; column: its name where space is short, as in the papers' tables; digits, column_digits:
    digits after the decimal point in the two cases; parent: the headline metric that this one is shown below;
    bounds: of the values that it can take.
    """

    label: str
    column: str = ""
    lower_is_better: bool = False
    digits: int = 4
    column_digits: int = 2
    parent: str = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def title(self) -> str:
        """The label and, for a headline metric, an arrow towards the better values."""
        return self.label if self.parent else f"{self.label} {self._arrow}"

    @property
    def column_title(self) -> str:
        """The short name with the arrow, as the papers print it."""
        return f"{self.column}{self._arrow}"

    def format_short(self, value: float) -> str:
        """A value as tables of many metrics print it."""
        return f"{value:z.{self.column_digits}f}"

    def format_half_width(self, value: float) -> str:
        """Half of an interval with as many digits, or with its first digit if these are all 0."""
        text = f"{value:.{self.column_digits}f}"
        return text if float(text) or not value else f"{value:.1g}"

    @property
    def _arrow(self) -> str:
        return "↓" if self.lower_is_better else "↑"


_NONNEGATIVE, SHARE = (0.0, math.inf), (0.0, 1.0)

METRICS = {  # the estimators of KID and FID∞ are corrected for their bias and may be negative
    "fid": MetricName(label="FID", column="FID", lower_is_better=True, bounds=_NONNEGATIVE),
    "fid_infinity": MetricName(label="FID∞", lower_is_better=True, parent="fid"),
    "sfid": MetricName(label="sFID", column="sFID", lower_is_better=True, bounds=_NONNEGATIVE),
    "inception_score": MetricName(label="Inception score", column="IS", bounds=(1.0, math.inf)),
    "inception_score_order_free": MetricName(
        label="order-free", parent="inception_score", bounds=(1.0, math.inf)
    ),
    "precision": MetricName(label="Precision", column="Prec.", bounds=SHARE),
    "precision_float16": MetricName(label="ADM's float16", parent="precision", bounds=SHARE),
    "recall": MetricName(label="Recall", column="Rec.", bounds=SHARE),
    "recall_float16": MetricName(label="ADM's float16", parent="recall", bounds=SHARE),
    "kid": MetricName(label="KID", column="KID", lower_is_better=True, digits=6, column_digits=5),
    "kid_subsets": MetricName(label="mean of subsets", parent="kid", digits=6),
    "density": MetricName(label="Density", column="Dens.", bounds=_NONNEGATIVE),
    "coverage": MetricName(label="Coverage", column="Cov.", bounds=SHARE),
    "mind": MetricName(label="MIND", column="MIND", lower_is_better=True, bounds=_NONNEGATIVE),
}
ADM = ("fid", "sfid", "inception_score", "precision", "recall")  # what ADM's evaluator prints
HEADLINE = tuple(name for name, metric in METRICS.items() if not metric.parent)


def columns(measured: Iterable[Collection[str]]) -> tuple[str, ...]:
    """The columns of a table of results: ADM's five metrics, and others that a result has."""
    present = {name for names in measured for name in names}
    return tuple(name for name in HEADLINE if name in ADM or name in present)


def bounds(metric: str) -> tuple[float, float]:
    """The values that a metric can take; any for one without an entry."""
    return METRICS[metric].bounds if metric in METRICS else (-math.inf, math.inf)
