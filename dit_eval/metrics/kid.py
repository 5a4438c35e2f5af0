"""KID: the squared maximum mean discrepancy under the cubic kernel (x·y/D + 1)³.

Over all pairs of images, without bias and with a standard error, and as torch-fidelity estimates it from
random subsets. Kernels are computed in blocks and not stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dit_eval.errors import StatisticsError
from dit_eval.metrics.blocks import row_blocks
from dit_eval.runtime.onednn import linear
from dit_eval.runtime.precision import computation

SUBSETS = 100
SUBSET_SIZE = 1000
_SEED = 2020  # torch-fidelity's default
_FEWEST_SAMPLES = 4  # an estimate of the variance takes products of two disjoint pairs


@dataclass(frozen=True)
class KernelDistance:
    """KID over all pairs.

    influence: the derivative with respect to the weight of sample i, centred, (N,) float64; the variance
    estimate Σφ²/N² is too large where KID is near 0, so `standard_error` is not made from it. Both take
    the reference as fixed.
    """

    value: float
    influence: np.ndarray
    standard_error: float


def kernel_distance(reference: np.ndarray, samples: np.ndarray, device: str = "cpu") -> KernelDistance:
    """KID of samples (N, D) against reference (M, D), float32 features, over all pairs of images.

    Returns the unbiased estimate, which may be below 0; lower is better. Products of features are float32,
    kernels and sums float64. Raises StatisticsError for fewer than 4 samples or 2 reference images, or
    for features that are not finite.
    Source: Bińkowski et al. 2018; Gretton et al. 2012, eq. 3.
    """
    n, m = len(samples), len(reference)
    if n < _FEWEST_SAMPLES or m < 2:
        raise StatisticsError(
            f"KID needs at least {_FEWEST_SAMPLES} samples and 2 reference images, found {n} and {m}."
        )
    with computation("fp32", torch.device(device)):
        x, y = (torch.from_numpy(features).to(device) for features in (samples, reference))
        own, squares = _sums_within(x)
        of_reference, _ = _sums_within(y)
        across = _sums_across(x, y) / m
    value = float(own.sum() / (n * (n - 1)) + of_reference.sum() / (m * (m - 1)) - 2 * across.mean())
    if not np.isfinite(value):
        raise StatisticsError("KID is not finite: the features contain NaN, infinity or values near 1e38.")
    influence = 2 * (own / (n - 1) - across)
    variance = _variance(own, squares, across)
    return KernelDistance(value, influence - influence.mean(), float(np.sqrt(variance)))


def subset_kernel_distances(reference: np.ndarray, samples: np.ndarray, device: str = "cpu") -> np.ndarray:
    """KIDs (100,) of random subsets of 1,000 images of each side, without replacement within a subset.

    reference: (M, D); samples: (N, D). torch-fidelity reports their mean and standard deviation, with N in
    the denominator. Its draws are repeated, and its formula in float64; its float32 moves the standard
    deviation by a relative 1.3e-4 on recorded features, and the mean by 2e-7.
    Raises StatisticsError for fewer than 1,000 images on a side or features that are not finite.
    Source: torch-fidelity's metric_kid.py.
    """
    for name, features in (("samples", samples), ("reference", reference)):
        if len(features) < SUBSET_SIZE:
            raise StatisticsError(
                f"torch-fidelity's KID draws subsets of {SUBSET_SIZE:,} images from each side; "
                f"{name}: {len(features):,}."
            )
    random = np.random.RandomState(_SEED)
    distances = np.empty(SUBSETS)
    with computation("fp32", torch.device(device)):
        for i in range(SUBSETS):
            x, y = (
                torch.from_numpy(features[random.choice(len(features), SUBSET_SIZE, replace=False)])
                .to(device)
                .double()
                for features in (samples, reference)
            )
            within = sum(_without_diagonal(_kernel(side, side)).sum() for side in (x, y))
            mean = within / (SUBSET_SIZE * (SUBSET_SIZE - 1)) - 2 * _kernel(x, y).mean()
            distances[i] = float(mean)
    if not np.isfinite(distances).all():
        raise StatisticsError("KID is not finite: the features contain NaN or infinity.")
    return distances


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x·y/D + 1)³ of x (N, D) and y (M, D): (N, M) float64."""
    return linear(x, y).double().div_(x.shape[1]).add_(1).pow_(3)


def _without_diagonal(kernel: Tensor) -> Tensor:
    """The square kernel, with zeros on its diagonal, in place."""
    kernel.diagonal().zero_()
    return kernel


def _blocks_within(x: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Blocks of the kernel of x (N, D) with itself, each pair of images once: rows, columns, kernel."""
    blocks = list(row_blocks(len(x)))
    for i, rows in enumerate(blocks):
        yield rows, rows, _without_diagonal(_kernel(x[rows], x[rows]))
        for columns in blocks[i + 1 :]:
            yield rows, columns, _kernel(x[rows], x[columns])


def _sums_within(x: Tensor) -> tuple[np.ndarray, float]:
    """Σk(xᵢ, xⱼ) over j ≠ i, (N,), and Σk² over all i ≠ j."""
    sums = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    squares = sums.new_zeros(())
    for rows, columns, kernel in _blocks_within(x):
        sums[rows] += kernel.sum(dim=1)
        if rows != columns:
            sums[columns] += kernel.sum(dim=0)
        squares += kernel.ravel().dot(kernel.ravel()) * (1 if rows == columns else 2)
    return sums.cpu().numpy(), float(squares)


def _sums_across(x: Tensor, y: Tensor) -> np.ndarray:
    """Σk(xᵢ, yⱼ) over j: (N,)."""
    sums = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for rows in row_blocks(len(x)):
        for columns in row_blocks(len(y)):
            sums[rows] += _kernel(x[rows], y[columns]).sum(dim=1)
    return sums.cpu().numpy()


def _variance(own: np.ndarray, squares: float, across: np.ndarray) -> float:
    """The variance of KID for a fixed reference, without bias except that it is kept at or above 0.

    own: Σk(xᵢ, xⱼ) over j ≠ i; squares: Σk² over i ≠ j; across: mean k(xᵢ, y) over the reference. For a
    fixed reference KID is the mean over pairs of samples of h(x, x') = k(x, x') - across(x) - across(x'),
    a U-statistic. Its variance is 4(n-2)/(n(n-1))·ζ₁ + 2/(n(n-1))·ζ₂ with the variances ζ₁ of E[h|x] and
    ζ₂ of h (Hoeffding 1948), both estimated from sums over disjoint indices.
    """
    n = len(own)
    total = across.sum()
    rows = own - (n - 2) * across - total  # Σh over j ≠ i
    mean = rows.mean() / (n - 1)
    pairs = squares - 4 * (across @ own) + 2 * (n - 2) * (across @ across) + 2 * total**2
    pairs -= n * (n - 1) * mean**2  # Σ(h - mean)² over i ≠ j
    star = ((rows - rows.mean()) ** 2).sum()
    disjoint = (2 * pairs - 4 * star) / (n * (n - 1) * (n - 2) * (n - 3))
    first = (star - pairs) / (n * (n - 1) * (n - 2)) - disjoint
    second = pairs / (n * (n - 1)) - disjoint
    return max((4 * (n - 2) * max(first, 0.0) + 2 * second) / (n * (n - 1)), 0.0)
