"""FID∞: what the Fréchet distance would be of infinitely many images, extrapolated from those there are."""

from __future__ import annotations

import numpy as np

from dit_eval.errors import StatisticsError
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.metrics.shuffle import permutations

SUBSETS = 15
_ROWS = 2000  # features of a subset that are gathered at once


def subset_sizes(n: int, dimension: int) -> np.ndarray:
    """How many of n images each subset holds: (15,), evenly spaced up to n.

    The smallest is a tenth, as in the paper, or twice the dimension where that is more: below, the distance
    is not yet straight in 1/n. Raises StatisticsError where it is more than half of n.
    """
    smallest = max(-(-n // 10), 2 * dimension)
    if 2 * smallest > n:
        raise StatisticsError(
            f"FID∞ takes {4 * dimension:,} images for {dimension:,} features, and these are {n:,}"
        )
    return np.linspace(smallest, n, SUBSETS).round().astype(int)


def extrapolated_distance(
    features: np.ndarray, theirs: Gaussian, influence: np.ndarray
) -> tuple[float, np.ndarray]:
    """The distance at n → ∞, and what each image does to it: its influence function, float64 (N,).

    features: (N, D); theirs: taken as given, with whatever bias it has itself; influence: of the features on
    the distance, as `frechet_influence` gives it. The distances of random subsets of the images are fitted by
    a line in 1/n, of which this is the intercept: a weighted sum of the distances, so that its influence is
    the same sum over the subsets that an image is in. Subsets are the same in every run.
    Raises StatisticsError for fewer images than four times the dimension.
    ModelSpec: Chong & Forsyth 2020; their regression's own error leaves out that the subsets share images.
    """
    n, dimension = features.shape
    sizes = subset_sizes(n, dimension)
    weights = np.linalg.pinv(np.stack([np.ones(SUBSETS), 1 / sizes], axis=1))[0]
    value, share = 0.0, np.zeros(n)
    for size, weight, order in zip(sizes, weights, permutations(n), strict=False):
        subset = np.sort(order[:size])
        value += weight * frechet_distance(_gaussian(features, subset), theirs)
        share[subset] += weight * n / size
    influence = share * influence
    return float(value), influence - influence.mean()


def _gaussian(features: np.ndarray, subset: np.ndarray) -> Gaussian:
    moments = Moments(features.shape[1])
    for start in range(0, len(subset), _ROWS):
        moments.update(features[subset[start : start + _ROWS]])
    return moments.gaussian()
