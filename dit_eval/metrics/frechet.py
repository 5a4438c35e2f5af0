"""The Fréchet distance of two Gaussians: FID on pool features, sFID on spatial features."""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cholesky, eigh, eigvalsh, solve_triangular
from scipy.linalg.lapack import dpstrf  # pyright: ignore[reportAttributeAccessIssue]

from dit_eval.errors import StatisticsError
from dit_eval.metrics.blocks import SupportsSlicing, row_blocks
from dit_eval.metrics.gaussian import Gaussian

_JITTER = 1e-6


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Squared 2-Wasserstein distance of two Gaussians; FID when fed pool features.

    a, b: mean (D,), covariance (D, D) with N - 1 in the denominator, float64.
    Returns feature units squared, 0 for equal inputs; lower is better.
    Raises StatisticsError if the dimensions differ or the covariances have no finite root.
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


def frechet_influence(features: SupportsSlicing, samples: Gaussian, reference: Gaussian) -> np.ndarray:
    """The derivative of the distance with respect to the weight of image i (influence function), centred.

    features: (N, D), with `samples` as their Gaussian; `reference` is taken as fixed. Returns float64 (N,),
    feature units squared; the variance of the distance is Σφ²/N². With δ the difference of the means,
    c = x - μ and T the optimal transport map from samples to reference, φ = 2 c·δ + cᵀ(I - T)c - its mean;
    for Σ = LLᵀ and S the reference's covariance, T = L⁻ᵀ (LᵀSL)^½ L⁻¹: one decomposition for any N.
    Directions in which the samples do not vary are left out.
    Source: derivative of the Bures metric; infinitesimal jackknife as in Jaeckel 1972.
    """
    factor = _factor(samples.covariance)
    if factor.shape[0] == factor.shape[1]:
        inverse = solve_triangular(factor, np.eye(len(factor)), lower=True)
    else:
        basis, triangle = np.linalg.qr(factor)
        inverse = solve_triangular(triangle, basis.T)
    values, vectors = eigh(factor.T @ reference.covariance @ factor, driver="evd")
    root = vectors * np.clip(values, 0, None) ** 0.25
    half = inverse.T @ root
    curvature = np.eye(len(factor)) - half @ half.T
    gradient = 2 * (samples.mean - reference.mean)
    influence = np.empty(len(features))
    for rows in row_blocks(len(features)):
        centred = features[rows] - samples.mean
        influence[rows] = centred @ gradient + ((centred @ curvature) * centred).sum(axis=1)
    return influence - influence.mean()


def _trace_of_root(a: np.ndarray, b: np.ndarray) -> float:
    """tr (AB)^½; where that is not finite, of A + 1e-6·I and B + 1e-6·I."""
    root = _sum_of_roots(a, b)
    if not np.isfinite(root):
        jitter = _JITTER * np.eye(len(a))
        root = _sum_of_roots(a + jitter, b + jitter)
    if not np.isfinite(root):
        raise StatisticsError("the product of the covariances has no finite square root.")
    return root


def _sum_of_roots(a: np.ndarray, b: np.ndarray) -> float:
    """Σ √λ over the eigenvalues of AB, which are those of the symmetric LᵀBL for any A = LLᵀ.

    The matrix of lower rank is factored: every null direction left in the product adds rounding noise.
    """
    try:
        factor, other = min((_factor(a), b), (_factor(b), a), key=lambda pair: pair[0].shape[1])
        eigenvalues = eigvalsh(factor.T @ other @ factor, overwrite_a=True, driver="evd")
    except LinAlgError:
        return float("nan")
    return float(np.sqrt(np.clip(eigenvalues, 0, None)).sum())


def _factor(a: np.ndarray) -> np.ndarray:
    """L (D, r) with A = LLᵀ: Cholesky's if A has full rank, else its pivoted form without the null space.

    The null space is rounding noise, whose square roots add up to 1e-6 of an FID.
    """
    noise = len(a) * np.finfo(np.float64).eps
    try:
        factor = cholesky(a, lower=True)
        pivots = np.diag(factor) ** 2
        if pivots.min() > pivots.max() * noise:  # Cholesky can succeed on a singular matrix by rounding
            return factor
    except LinAlgError:
        pass
    packed, order, rank, _ = dpstrf(a, lower=True, tol=noise * np.diag(a).max())
    factor = np.empty((len(a), rank))
    factor[order - 1] = np.tril(packed)[:, :rank]
    return factor
