"""The Fréchet distance of two Gaussians: FID on pool features, sFID on spatial ones."""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cholesky, eigh, eigvalsh, solve_triangular
from scipy.linalg.lapack import dpstrf  # pyright: ignore[reportAttributeAccessIssue]

from dit_eval.errors import StatisticsError
from dit_eval.metrics.gaussian import Gaussian
from dit_eval.metrics.sliceable import Sliceable

_JITTER = 1e-6
_ROWS = 2000  # features of one block of influences, in float64


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Squared 2-Wasserstein distance of two Gaussians; FID when fed pool features.

    a, b: mean (D,), covariance (D, D) with N - 1 in the denominator, float64.
    Returns feature units squared, 0 for equal inputs; lower is better.
    Raises StatisticsError if the dimensions differ or no root can be found.
    ModelSpec: Heusel et al. 2017; jitter rule as in ADM's evaluator.
    """
    if len(a.mean) != len(b.mean):
        raise StatisticsError(
            f"features of {len(a.mean)} and {len(b.mean)} dimensions cannot be compared; "
            "the two sides were made with different networks."
        )
    shift = a.mean - b.mean
    trace = np.trace(a.covariance) + np.trace(b.covariance)
    return float(shift @ shift + trace - 2 * _trace_of_root(a.covariance, b.covariance))


def frechet_influence(features: Sliceable, ours: Gaussian, theirs: Gaussian) -> np.ndarray:
    """What each image does to the distance: its influence function, float64 (N,), of mean 0.

    features: (N, D), an array or what is sliced like one, of which `ours` is the Gaussian; `theirs` is taken
    as given. The variance of the distance is Σφ²/N². With δ the difference of the means, c = x - μ and T the
    optimal transport map from ours to theirs, φ = 2 c·δ + cᵀ(I - T)c - its mean; for Σ = LLᵀ,
    T = L⁻ᵀ (LᵀSL)^½ L⁻¹: one decomposition, whatever N. Directions in which the images do not vary are left
    out.
    ModelSpec: the derivative of the Bures metric; infinitesimal jackknife as in Jaeckel 1972.
    """
    factor = _factor(ours.covariance)
    if factor.shape[0] == factor.shape[1]:
        inverse = solve_triangular(factor, np.eye(len(factor)), lower=True)
    else:
        basis, triangle = np.linalg.qr(factor)
        inverse = solve_triangular(triangle, basis.T)
    values, vectors = eigh(factor.T @ theirs.covariance @ factor, driver="evd")
    root = vectors * np.clip(values, 0, None) ** 0.25
    half = inverse.T @ root
    curvature = np.eye(len(factor)) - half @ half.T
    shift = 2 * (ours.mean - theirs.mean)
    influence = np.empty(len(features))
    for start in range(0, len(features), _ROWS):
        centred = features[start : start + _ROWS] - ours.mean
        influence[start : start + _ROWS] = centred @ shift + ((centred @ curvature) * centred).sum(axis=1)
    return influence - influence.mean()


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
    """Σ √λ over the eigenvalues of AB, which are those of the symmetric LᵀBL for any A = LLᵀ.

    The side of lower rank is factored: every null direction left in the product adds its rounding noise.
    """
    try:
        factor, other = min((_factor(a), b), (_factor(b), a), key=lambda pair: pair[0].shape[1])
        eigenvalues = eigvalsh(factor.T @ other @ factor, overwrite_a=True, driver="evd")
    except LinAlgError:
        return float("nan")
    return float(np.sqrt(np.clip(eigenvalues, 0, None)).sum())


def _factor(a: np.ndarray) -> np.ndarray:
    """L (D, r) with A = LLᵀ: Cholesky's where A has full rank, else its pivoted form without the null space.

    Leaving the null space out also leaves out its rounding noise, whose square roots add up to 1e-6
    of an FID.
    """
    noise = len(a) * np.finfo(np.float64).eps
    try:
        factor = cholesky(a, lower=True)
        pivots = np.diag(factor) ** 2
        if pivots.min() > pivots.max() * noise:  # else it got through a singular matrix by luck
            return factor
    except LinAlgError:
        pass
    packed, order, rank, _ = dpstrf(a, lower=True, tol=noise * np.diag(a).max())
    factor = np.empty((len(a), rank))
    factor[order - 1] = np.tril(packed)[:, :rank]
    return factor
