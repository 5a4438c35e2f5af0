"""The Fréchet distance of two Gaussians: FID on pool features, sFID on spatial features."""

from __future__ import annotations

import numpy as np

from dit_eval.errors import StatisticsError
from dit_eval.metrics.blocks import SupportsSlicing, row_blocks
from dit_eval.metrics.gaussian import Gaussian
from dit_eval.metrics.linalg import linalg_on

_JITTER = 1e-6


def frechet_distance(a: Gaussian, b: Gaussian, device: str = "cpu") -> float:
    """Squared 2-Wasserstein distance of two Gaussians; FID when fed pool features.

    a, b: mean (D,), covariance (D, D) with N - 1 in the denominator, float64; device: where to compute.
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
    return float(shift @ shift + trace - 2 * _trace_of_root(a, b, device))


def frechet_influence(
    features: SupportsSlicing, samples: Gaussian, reference: Gaussian, device: str = "cpu"
) -> np.ndarray:
    """The derivative of the distance with respect to the weight of image i (influence function), centred.

    features: (N, D), with `samples` as their Gaussian; `reference` is taken as fixed. Returns float64 (N,),
    feature units squared; the variance of the distance is Σφ²/N². With δ the difference of the means,
    c = x - μ and T the optimal transport map from samples to reference, φ = 2 c·δ + cᵀ(I - T)c - its mean;
    for Σ = LLᵀ and S the reference's covariance, T = L⁻ᵀ (LᵀSL)^½ L⁻¹: one decomposition for any N.
    Directions in which the samples do not vary are left out.
    Source: derivative of the Bures metric; infinitesimal jackknife as in Jaeckel 1972.
    """
    linalg = linalg_on(device)
    factor = samples.factor(device)
    values, vectors = linalg.eigh(factor.T @ linalg.array(reference.covariance) @ factor)
    root = vectors * values.clip(0) ** 0.25
    half = linalg.pseudo_inverse(factor).T @ root
    curvature = linalg.eye(len(factor)) - half @ half.T
    mean, gradient = linalg.array(samples.mean), linalg.array(2 * (samples.mean - reference.mean))
    influence = np.empty(len(features))
    for rows in row_blocks(len(features)):
        centred = linalg.array(features[rows]) - mean
        influence[rows] = linalg.numpy(centred @ gradient + ((centred @ curvature) * centred).sum(axis=1))
    return influence - influence.mean()


def _trace_of_root(a: Gaussian, b: Gaussian, device: str) -> float:
    """tr (AB)^½ of the covariances; where that is not finite, of A + 1e-6·I and B + 1e-6·I."""
    root = _sum_of_roots(a, b, device)
    if not np.isfinite(root):
        jitter = _JITTER * np.eye(len(a.mean))
        a, b = (Gaussian(side.mean, side.covariance + jitter) for side in (a, b))
        root = _sum_of_roots(a, b, device)
    if not np.isfinite(root):
        raise StatisticsError("the product of the covariances has no finite square root.")
    return root


def _sum_of_roots(a: Gaussian, b: Gaussian, device: str) -> float:
    """Σ √λ over the eigenvalues of AB, which are those of the symmetric LᵀBL for any A = LLᵀ.

    The matrix of lower rank is factored: every null direction left in the product adds rounding noise.
    """
    linalg = linalg_on(device)
    try:
        sides = (a.factor(device), b.covariance), (b.factor(device), a.covariance)
        factor, other = min(sides, key=lambda side: side[0].shape[1])
        eigenvalues = linalg.eigvalsh(factor.T @ linalg.array(other) @ factor)
    except linalg.error:
        return float("nan")
    return float((eigenvalues.clip(0) ** 0.5).sum())
