"""The five numbers without what makes the evaluator's inexact, in plain numpy.

FID and sFID without `sqrtm`, the inception score without float32, precision and recall without TensorFlow's
float16 sums. They are written for this comparison alone and share no code with dit_eval.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
Distances = Callable[[Array, Array], Array]  # (N, D), (M, D) → squared distances (N, M)

K = 3  # the nearest neighbour whose distance is the radius
BLOCK = 10_000  # rows and columns in which the evaluator computes distances
SPLIT = 5_000  # images of one inception score


def frechet_distance(samples: Array, reference: Array) -> float:
    """FID in float64 of features (N, D) and (M, D).

    tr √(Σ₁Σ₂) is the sum of the singular values of A Bᵀ if AᵀA = Σ₁ and BᵀB = Σ₂. It needs no square root of
    a matrix that may be singular.
    """
    (mean1, a), (mean2, b) = _mean_and_root(samples), _mean_and_root(reference)
    trace = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(((mean1 - mean2) ** 2).sum() + (a * a).sum() + (b * b).sum() - 2 * trace)


def _mean_and_root(features: Array) -> tuple[Array, Array]:
    """The mean (D,) and a root (min(N, D), D) of the covariance."""
    rows = features.astype(np.float64)
    mean = rows.mean(axis=0)
    root = (rows - mean) / np.sqrt(len(rows) - 1)
    return mean, np.asarray(np.linalg.qr(root, mode="r")) if len(root) > root.shape[1] else root


def inception_score(pool: Array, classifier: Array) -> float:
    """In float64, of features (N, 2048) and the classifier's weights (1008, 2048), without its bias."""
    logits = pool.astype(np.float64) @ classifier.astype(np.float64).T
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    scores = []
    for first in range(0, len(log_p), SPLIT):
        part = log_p[first : first + SPLIT]
        p = np.exp(part)
        scores.append(np.exp((p * (part - np.log(p.mean(axis=0)))).sum(axis=1).mean()))
    return float(np.mean(scores))


def distances_f64(u: Array, v: Array) -> Array:
    """In float64."""
    return _distances(u.astype(np.float64), v.astype(np.float64))


def distances_f32(u: Array, v: Array) -> Array:
    """In float32."""
    return _distances(u.astype(np.float32), v.astype(np.float32))


def _distances(u: Array, v: Array) -> Array:
    """|u|² − 2uv + |v|², at least 0."""
    squared = u @ v.T
    squared *= -2
    squared += (u * u).sum(axis=1)[:, None]
    squared += (v * v).sum(axis=1)
    return np.maximum(squared, 0, out=squared)


class Float16Model:
    """Distances in float16 as a GPU computes them: every term is rounded, sums are in float32.

    Like the evaluator, a block that is not finite throughout is computed in float32. `branches` says which of
    the two, block by block.
    """

    def __init__(self) -> None:
        self.branches: list[str] = []

    def __call__(self, u: Array, v: Array) -> Array:
        """In float16, or in float32 where that overflows."""
        with np.errstate(over="ignore", invalid="ignore"):
            u16, v16 = u.astype(np.float16), v.astype(np.float16)
            products = (u16.astype(np.float32) @ v16.astype(np.float32).T).astype(np.float16)
            squared = _norms_f16(u16)[:, None] - np.float16(2) * products + _norms_f16(v16)
            squared = np.maximum(squared, np.float16(0))
        finite = bool(np.isfinite(squared).all())
        self.branches.append("fp16" if finite else "fp32")
        return squared.astype(np.float32) if finite else distances_f32(u, v)


def _norms_f16(rows: Array) -> Array:
    return (rows * rows).astype(np.float32).sum(axis=1).astype(np.float16)


class Manifold(NamedTuple):
    """Precision and recall, and the squared radii (N,) and (M,) behind them."""

    precision: float
    recall: float
    ref_radii: Array
    samples_radii: Array


def manifold(reference: Array, samples: Array, distances: Distances) -> Manifold:
    """Precision and recall of features (N, D) and (M, D), by blocks in the evaluator's order."""
    ref_radii, samples_radii = _radii(reference, distances), _radii(samples, distances)
    ref_covered, samples_covered = np.zeros(len(reference), bool), np.zeros(len(samples), bool)
    for rows in _blocks(len(reference)):
        for columns in _blocks(len(samples)):
            block = distances(reference[rows], samples[columns])
            ref_covered[rows] |= (block <= samples_radii[columns]).any(axis=1)
            samples_covered[columns] |= (block <= ref_radii[rows, None]).any(axis=0)
    return Manifold(float(samples_covered.mean()), float(ref_covered.mean()), ref_radii, samples_radii)


def _radii(features: Array, distances: Distances) -> Array:
    """Squared distance to the K-th nearest other row; the nearest of all is the row itself."""
    radii = []
    for rows in _blocks(len(features)):
        strip = [distances(features[rows], features[columns]) for columns in _blocks(len(features))]
        radii.append(np.partition(np.concatenate(strip, axis=1), K, axis=1)[:, K])
    return np.concatenate(radii)


def _blocks(n: int) -> list[slice]:
    return [slice(first, first + BLOCK) for first in range(0, n, BLOCK)]


def numbers(features: dict[str, Array], classifier: Array) -> tuple[dict[str, Any], dict[str, Array]]:
    """What expected.json keeps as exact, and the radii that knn_radii.npz keeps.

    features: {ref,samples}_{pool,spatial}, as tests/golden/features.py makes them.
    """
    ref, samples = features["ref_pool"], features["samples_pool"]
    exact = {
        "fid": frechet_distance(samples, ref),
        "sfid": frechet_distance(features["samples_spatial"], features["ref_spatial"]),
        "inception_score": inception_score(samples, classifier),
    }
    found, radii = {}, {}
    float16 = Float16Model()
    for kind, distances in (("f64", distances_f64), ("f32", distances_f32), ("f16_f32acc", float16)):
        result = manifold(ref, samples, distances)
        found[kind] = {"precision": result.precision, "recall": result.recall}
        if kind != "f32":  # whose radii are not kept
            radii[f"ref_{kind}"] = result.ref_radii.astype(np.float32)
            radii[f"samples_{kind}"] = result.samples_radii.astype(np.float32)
    found["f16_f32acc"]["branches"] = float16.branches
    return {"exact_float64": exact, "precision_recall": found}, radii
