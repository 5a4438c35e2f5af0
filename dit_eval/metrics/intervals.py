"""Standard errors and confidence intervals from influence functions.

The influence φᵢ of a metric is its derivative with respect to the weight of image i, centred. The variance of
the metric is Σφ²/n², and that of the difference of two metrics over the same images is the same with the
differences of their φ. An interval is that of the metric at this n, with the reference taken as fixed: it
does not cover a bias that decreases with n. Where single images have no such φ, as with recall, other values
take its place whose squares have the same sum.
Source: infinitesimal jackknife, Jaeckel 1972.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Standard error and the ends of the 95 % interval, in units of the metric."""

    se: float
    low: float
    high: float


def normal_quantile(comparisons: int = 1) -> float:
    """Half-width, in standard errors, at which all of `comparisons` intervals hold in 95 % (Bonferroni)."""
    return NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * comparisons))


def standard_error(influence: np.ndarray) -> float:
    """√(Σ(φ - mean)² / (n (n - 1))) of influences (n,)."""
    return float(np.sqrt(np.var(influence) / (len(influence) - 1)))


def interval(value: float, influence: np.ndarray) -> Interval:
    """The 95 % interval of a metric with influences (n,)."""
    se = standard_error(influence)
    half_width = normal_quantile() * se
    return Interval(se, value - half_width, value + half_width)
