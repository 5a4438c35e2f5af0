"""The Fréchet distance of two Gaussians: FID on pool features, sFID on spatial ones."""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cholesky, eigh, eigvalsh

from dit_eval.errors import StatisticsError
from dit_eval.metrics.gaussian import Gaussian

_JITTER = 1e-6


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Squared 2-Wasserstein distance of two Gaussians; FID when fed pool features.

    a, b: mean (D,), covariance (D, D) with N - 1 in the denominator, float64.
    Returns feature units squared, 0 for equal inputs; lower is better.
    Raises StatisticsError if the dimensions differ or no root can be found.
    Source: Heusel et al. 2017; jitter rule as in ADM's evaluator.
    """
    if len(a.mean) != len(b.mean):
        raise StatisticsError(
            f"features of {len(a.mean)} and {len(b.mean)} dimensions cannot be compared; "
            "the two sides were made with different networks."
        )
    shift = a.mean - b.mean
    trace = np.trace(a.covariance) + np.trace(b.covariance)
    return float(shift @ shift + trace - 2 * _trace_of_root(a.covariance, b.covariance))


def _trace_of_root(a: np.ndarray, b: np.ndarray) -> float:
    """tr (AB)^½, once more with 1e-6·I on both where the first try is not finite."""
    root = _sum_of_roots(a, b)
    if not np.isfinite(root):
        jitter = _JITTER * np.eye(len(a))
        root = _sum_of_roots(a + jitter, b + jitter)
    if not np.isfinite(root):
        raise StatisticsError("the product of the covariances has no finite square root.")
    return root


def _sum_of_roots(a: np.ndarray, b: np.ndarray) -> float:
    """Σ √λ over the eigenvalues of AB, which are those of the symmetric LᵀBL for any A = LLᵀ."""
    try:
        factor = _factor(a)
        eigenvalues = eigvalsh(factor.T @ b @ factor, overwrite_a=True, driver="evd")
    except LinAlgError:
        return float("nan")
    return float(np.sqrt(np.clip(eigenvalues, 0, None)).sum())


def _factor(a: np.ndarray) -> np.ndarray:
    """L (D, r) with A = LLᵀ: Cholesky where A has full rank, else its eigenvectors without the null space.

    Leaving the null space out also leaves out its rounding noise, whose square roots add up to 1e-6
    of an FID.
    """
    try:
        return cholesky(a, lower=True)
    except LinAlgError:
        values, vectors = eigh(a, driver="evd")
        kept = values > values[-1] * len(a) * np.finfo(np.float64).eps
        return vectors[:, kept] * np.sqrt(values[kept])
