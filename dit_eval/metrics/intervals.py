"""Standard errors and intervals of numbers whose influence functions are known.

A metric gives φ, one value of mean 0 for each image: what a little more weight on that image does to it.
The variance of the number is then Σφ²/n², and that of the difference of two numbers over the same images
is the same with the differences of their φ. An interval is one of the number at this n: the reference stays
as it is, and so does a bias that falls with n. Where single images have no such φ, as with recall, other
entries stand for it whose squares add up to the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Standard error, and the ends of the 95 % interval."""

    se: float
    low: float
    high: float


def normal_quantile(comparisons: int = 1) -> float:
    """How many standard errors reach to each side so that all of `comparisons` intervals hold in 95 %."""
    return NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * comparisons))


def standard_error(influence: np.ndarray) -> float:
    """√(Σ(φ - mean)² / (n (n - 1))) of influences (N,)."""
    n = len(influence)
    return float(np.sqrt(np.var(influence) / (n - 1)))


def interval(value: float, influence: np.ndarray) -> Interval:
    """The 95 % interval of a number from its images' influences (N,)."""
    se = standard_error(influence)
    reach = normal_quantile() * se
    return Interval(se, value - reach, value + reach)
