"""Standard errors and confidence intervals from influence functions.

The influence φᵢ of a metric is its derivative with respect to the weight of image i, centred. The variance of
the metric is Σφ²/n², and that of the difference of two metrics over the same images is the same with the
differences of their φ. An interval is that of the metric at this n, with the reference taken as fixed: it
does not cover a bias that decreases with n. Where single images have no such φ, as with recall, other values
take its place whose squares have the same sum.
Sources: infinitesimal jackknife, Jaeckel 1972; score interval of a proportion, Wilson 1927.
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


def interval(value: float, se: float, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Interval:
    """The 95 % interval of a metric with this standard error, cut to the values that the metric can take."""
    half_width = normal_quantile() * se
    low, high = max(bounds[0], value - half_width), min(bounds[1], value + half_width)
    return Interval(se, min(value, low), max(value, high))  # rounding may move a value beyond its bounds


def proportion_interval(value: float, se: float, n: int) -> Interval:
    """The 95 % score interval of a share of n images with this standard error; it lies within 0…1.

    The effective number of images is that of independent ones whose share would have this standard error, or
    n if the standard error is 0. A share of 0 or 1 counts as one image more or less for that number.
    """
    inside = min(max(value, 1 / n), 1 - 1 / n)
    effective = inside * (1 - inside) / se**2 if se else n
    z = normal_quantile()
    centre = (value + z**2 / (2 * effective)) / (1 + z**2 / effective)
    spread = value * (1 - value) / effective + z**2 / (4 * effective**2)
    half_width = z * spread**0.5 / (1 + z**2 / effective)
    # Rounding must not move an end at 0 or 1 beyond it
    return Interval(se, max(0.0, min(value, centre - half_width)), min(1.0, max(value, centre + half_width)))
