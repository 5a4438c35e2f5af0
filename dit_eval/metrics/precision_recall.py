"""Improved precision and recall: exact, and in the float16 arithmetic of ADM's evaluator on a GPU.

Distances are computed in blocks and not stored; those within one set are computed once for each pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dit_eval.errors import StatisticsError
from dit_eval.metrics.blocks import BLOCK_ROWS, permutations, row_blocks
from dit_eval.runtime.onednn import linear

_SUBSETS = 10  # random subsets of the samples, from which the variance of recall is estimated
_ADM_BLOCK = 10_000  # rows of a block of ADM's evaluator, which falls back to float32 by whole blocks


@dataclass(frozen=True)
class PrecisionRecall:
    """Which images lie inside the manifold of the other set, a union of balls."""

    samples_inside: np.ndarray  # (M,) bool
    reference_inside: np.ndarray  # (N,) bool
    inside_parts: np.ndarray  # (N, P) bool: inside that of each of P subsets of the samples; P = 0 in float16

    @property
    def precision(self) -> float:
        """Share of samples inside the reference's manifold, 0 to 1."""
        return float(self.samples_inside.mean())

    @property
    def recall(self) -> float:
        """Share of reference images inside the samples' manifold, 0 to 1."""
        return float(self.reference_inside.mean())

    def precision_influence(self) -> np.ndarray:
        """The influence of each sample on precision, centred: (M,). Σφ²/M² is the binomial variance."""
        return self.samples_inside - self.precision

    def recall_influence(self) -> np.ndarray | None:
        """Values with the variance of recall, centred: (P + P·N,); None for fewer than two subsets.

        Recall is a mean of booleans, correlated where reference images are covered by the same samples. For
        a fixed reference its variance is that of the booleans, α/N, plus their covariances, which are local
        and fall as 1/M: C/M. A subset of M/P samples has radii of its own, so the variance of its recall is
        α/N + C·P/M. Both terms are estimated from the subsets, α for each reference image. The values are
        scaled so that their sum of squares gives α/N + C/M, and linear in the booleans, so that those of two
        results against the same reference can be subtracted.
        """
        n, subsets = self.inside_parts.shape
        if subsets < 2:
            return None
        deviations = self.inside_parts - self.inside_parts.mean(axis=1, keepdims=True)
        shared = deviations.mean(axis=0)
        values = np.concatenate([shared / np.sqrt(subsets - 1), deviations.ravel() / n]) / np.sqrt(subsets)
        return values * np.sqrt(len(values) * (len(values) - 1))


def precision_recall(
    reference: np.ndarray, samples: np.ndarray, k: int = 3, device: str = "cpu", float16: bool = False
) -> PrecisionRecall:
    """Precision and recall of samples (M, D) against reference (N, D), float32 features.

    The radius of an image's ball is the distance to its k-th nearest neighbour in its own set, itself not
    counted; the boundary belongs to the ball. float16: reproduce ADM's evaluator on a GPU, where terms are
    rounded to float16 and sums accumulate in float32; otherwise float32, equal to float64 to about one image.
    Raises StatisticsError if a set has fewer than k + 1 images or features that are not finite.
    Source: Kynkäänniemi et al. 2019; blocks and fallback as in ADM's evaluator.
    """
    for name, features in (("reference", reference), ("samples", samples)):
        require_points(name, len(features), k)
    points = _Float16Points if float16 else _Points
    reference_points = points("reference", torch.from_numpy(reference).to(device))
    sample_points = points("samples", torch.from_numpy(samples).to(device))
    reference_radii, sample_radii = _squared_radii(reference_points, k), _squared_radii(sample_points, k)
    membership, subset_radii = _subsets(sample_points, k, 0 if float16 else _SUBSETS)
    samples_inside = torch.zeros(len(sample_points), dtype=torch.bool, device=device)
    reference_inside = torch.zeros(len(reference_points), dtype=torch.bool, device=device)
    inside_parts = torch.zeros(len(reference_points), membership.shape[1], dtype=torch.bool, device=device)
    for rows in row_blocks(len(reference_points)):
        for columns in row_blocks(len(sample_points)):
            distances = reference_points.squared_distances(rows, sample_points, columns)
            samples_inside[columns] |= (distances <= reference_radii[rows, None]).any(dim=0)
            reference_inside[rows] |= (distances <= sample_radii[None, columns]).any(dim=1)
            if not float16:
                covered = (distances <= subset_radii[None, columns]).float()
                inside_parts[rows] |= covered @ membership[columns] > 0
    return PrecisionRecall(*(x.cpu().numpy() for x in (samples_inside, reference_inside, inside_parts)))


def require_points(name: str, n: int, k: int) -> None:
    """Raise StatisticsError if a set of n images has no k-th nearest neighbours."""
    if n <= k:
        raise StatisticsError(
            f"precision and recall need at least {k + 1} images on each side, because radii are distances to "
            f"the nearest neighbour number {k}; {name}: {n}."
        )


class _Points:
    """A set of points (N, D) and its distances to another set, in float32, without a copy of the features."""

    def __init__(self, name: str, features: torch.Tensor):
        self.features = features
        self.norms = torch.cat([(block**2).sum(dim=1) for block in features.split(BLOCK_ROWS)])
        if not torch.isfinite(self.norms).all():
            raise StatisticsError(f"the features of the {name} contain NaN or infinity.")

    def __len__(self) -> int:
        return len(self.features)

    def squared_distances(self, rows: slice, other: _Points, columns: slice) -> torch.Tensor:
        """‖u‖² - 2u·v + ‖v‖², at least 0: (rows, columns), float32."""
        products = linear(self.features[rows], -2 * other.features[columns], other.norms[columns])
        return products.add_(self.norms[rows, None]).clamp_(min=0)


class _Float16Points(_Points):
    """The same with every term rounded to float16 and sums accumulated in float32.

    A pair of ADM's blocks with a distance that is not finite is computed in float32. Distances are not finite
    exactly where a squared norm is not: |u·v| is at most the larger of the two.
    """

    def __init__(self, name: str, features: torch.Tensor):
        super().__init__(name, features)
        halves = (block.half() for block in features.split(BLOCK_ROWS))
        self.half_norms = torch.cat([(half * half).float().sum(dim=1).half() for half in halves])
        self.finite = [bool(block.all()) for block in torch.isfinite(self.half_norms).split(_ADM_BLOCK)]

    def squared_distances(self, rows: slice, other: _Points, columns: slice) -> torch.Tensor:
        """(rows, columns), float32 tensor of float16 values where ADM's pair of blocks is finite."""
        assert isinstance(other, _Float16Points)
        assert _ADM_BLOCK % BLOCK_ROWS == 0  # so that rows lie within one of ADM's blocks
        if not (self.finite[rows.start // _ADM_BLOCK] and other.finite[columns.start // _ADM_BLOCK]):
            return super().squared_distances(rows, other, columns)
        u, v = self.features[rows].half().float(), other.features[columns].half().float()
        distances = self.half_norms[rows, None] - 2 * linear(u, v).half() + other.half_norms[None, columns]
        return distances.clamp_(min=0).float()


def _subsets(points: _Points, k: int, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A random partition into P ≤ `most` subsets of at least k + 1 points.

    Returns the membership of each point, (N, P) of 0 and 1, and its squared radius within its subset, (N,).
    """
    count, device = min(most, len(points) // (k + 1)), points.features.device
    order = torch.from_numpy(next(permutations(len(points)))).to(device)
    membership = torch.zeros(len(points), count, device=device)
    radii = torch.empty(len(points), device=device)
    for subset in range(count):
        chosen = order[subset::count]
        membership[chosen, subset] = 1
        radii[chosen] = _squared_radii(type(points)("samples", points.features[chosen]), k)
    return membership, radii


def _squared_radii(points: _Points, k: int) -> torch.Tensor:
    """Squared distance of each point to its k-th nearest neighbour, itself not counted: (N,), float32."""
    nearest = torch.full((len(points), k + 1), torch.inf, device=points.features.device)
    blocks = list(row_blocks(len(points)))
    for i, rows in enumerate(blocks):
        for columns in blocks[i:]:
            distances = points.squared_distances(rows, points, columns)
            _keep_nearest(nearest, rows, distances)
            if columns != rows:
                _keep_nearest(nearest, columns, distances.T)
    return nearest[:, k]


def _keep_nearest(nearest: torch.Tensor, rows: slice, distances: torch.Tensor) -> None:
    """Merge the smallest of new distances (rows, M) into `nearest`, which stays sorted."""
    k = nearest.shape[1]
    new = distances.topk(min(k, distances.shape[1]), dim=1, largest=False).values
    nearest[rows] = torch.cat([nearest[rows], new], dim=1).topk(k, dim=1, largest=False, sorted=True).values
