"""FID∞: the Fréchet distance extrapolated to infinitely many samples."""

from __future__ import annotations

import numpy as np

from dit_eval.errors import StatisticsError
from dit_eval.metrics.blocks import permutations, row_blocks
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.gaussian import Gaussian, moments_on

SUBSETS = 15


def subset_sizes(n: int, dimension: int) -> np.ndarray:
    """How many of n images are in each subset: (15,) integers, evenly spaced up to n.

    The smallest is a tenth of n, as in the paper, or twice the dimension if that is more: with fewer images
    the distance is not yet linear in 1/n. Raises StatisticsError if that is more than half of n.
    """
    smallest = max(-(-n // 10), 2 * dimension)
    if 2 * smallest > n:
        raise StatisticsError(
            f"FID∞ needs at least {4 * dimension:,} images for {dimension:,} features; found {n:,}"
        )
    return np.linspace(smallest, n, SUBSETS).round().astype(int)


def extrapolated_distance(
    features: np.ndarray, reference: Gaussian, influence: np.ndarray, device: str = "cpu"
) -> tuple[float, np.ndarray]:
    """The distance for n → ∞ and its influence function, centred: feature units squared, float64 (N,).

    features: (N, D); reference: taken as fixed, with whatever bias it has itself; influence: (N,), of the
    features on the distance, from `frechet_influence`; device: where to compute. The distances of random
    subsets, the same in every run, are fitted by a line in 1/n, whose intercept is the result. The intercept
    is a weighted sum of the distances; its influence is the same sum over the subsets that contain the image.
    Raises StatisticsError for fewer images than four times the dimension.
    Source: Chong & Forsyth 2020; the error of their regression ignores that the subsets share images.
    """
    n, dimension = features.shape
    sizes = subset_sizes(n, dimension)
    weights = np.linalg.pinv(np.stack([np.ones(SUBSETS), 1 / sizes], axis=1))[0]
    intercept, factors = 0.0, np.zeros(n)
    for size, weight, order in zip(sizes, weights, permutations(n), strict=False):
        subset = np.sort(order[:size])
        moments = moments_on(device, dimension)
        for rows in row_blocks(size):
            moments.update(features[subset[rows]])
        intercept += weight * frechet_distance(moments.gaussian(), reference, device)
        factors[subset] += weight * n / size
    influence = factors * influence
    return float(intercept), influence - influence.mean()
