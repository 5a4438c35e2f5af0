"""Improved precision and recall: exact, and in the float16 arithmetic of ADM's evaluator on a GPU.

Distances are computed in blocks and not stored; those within one set are computed once for each pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dit_eval.errors import StatisticsError
from dit_eval.metrics.blocks import BLOCK_ROWS, row_blocks
from dit_eval.metrics.intervals import standard_error
from dit_eval.metrics.subset_recalls import SHARE, subset_recalls
from dit_eval.runtime.onednn import linear
from dit_eval.runtime.precision import computation

_NEIGHBOURS = 17  # of a sample, itself included, that are kept to find its radius within a subset
_BALLS = 16  # samples that are kept for each reference image, to find whether a subset covers it
_ADM_BLOCK = 10_000  # rows of a block of ADM's evaluator, which falls back to float32 by whole blocks


@dataclass(frozen=True)
class PrecisionRecall:
    """Which images lie inside the manifold of the other set, a union of balls.

    subset_recalls: the recalls of random subsets of the samples, (2, R). Those of the first row are chosen by
    the features, so that they do not depend on the order of the file; those of the second by index, so that
    two sets of samples can be compared image by image. R = 0 in float16 and for fewer than 2 (k + 1) samples.
    """

    samples_inside: np.ndarray  # (M,) bool
    reference_inside: np.ndarray  # (N,) bool
    subset_recalls: np.ndarray

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

    def recall_error(self) -> float | None:
        """The standard error of recall, which does not depend on the order of the samples; None for R = 0.

        Recall is a mean of booleans that depend on each other: a sample covers many reference images. For
        a fixed reference its variance is estimated by a delete-d jackknife: f / (1 - f) times the variance of
        the recalls of random subsets that hold a share f of the samples, with radii of their own.
        Source: Shao & Wu 1989.
        """
        return standard_error(self._deviations(0)) if self.subset_recalls.size else None

    def recall_influence(self) -> np.ndarray | None:
        """Values with the variance of recall, centred: (R,); None for R = 0.

        They belong to subsets chosen by index, so those of two sets of M samples can be subtracted. Their
        `standard_error` is another estimate of `recall_error`.
        """
        return self._deviations(1) if self.subset_recalls.size else None

    def _deviations(self, row: int) -> np.ndarray:
        """Deviations of subset recalls from their mean, scaled for `standard_error`."""
        recalls = self.subset_recalls[row]
        return (recalls - recalls.mean()) * np.sqrt(len(recalls) * SHARE / (1 - SHARE))


class Manifold:
    """Features (N, D), float32, and the radii of their balls: one reference for several sets of samples.

    For the parameters and errors see `precision_recall`.
    """

    def __init__(
        self, name: str, features: np.ndarray, k: int = 3, device: str = "cpu", float16: bool = False
    ) -> None:
        require_points(name, len(features), k)
        with computation("fp32", torch.device(device)):
            points = _Float16Points if float16 else _Points
            self.points = points(name, torch.from_numpy(features).to(device))
            self.radii = _nearest(self.points, k + 1).distances[:, k]
        self.k, self.device, self.float16 = k, device, float16


def precision_recall(
    reference: np.ndarray | Manifold,
    samples: np.ndarray,
    k: int = 3,
    device: str = "cpu",
    float16: bool = False,
    *,
    intervals: bool = True,
) -> PrecisionRecall:
    """Precision and recall of samples (M, D) against reference (N, D), float32 features.

    The radius of an image's ball is the distance to its k-th nearest neighbour in its own set, itself not
    counted; the boundary belongs to the ball. float16: reproduce ADM's evaluator on a GPU, where terms are
    rounded to float16 and sums accumulate in float32; otherwise float32, equal to float64 to about one image.
    reference: also its `Manifold` of the same k, device and arithmetic; intervals: False leaves out the
    recalls of subsets, of which the interval of recall is made.
    Raises StatisticsError if a set has fewer than k + 1 images or features that are not finite.
    Source: Kynkäänniemi et al. 2019; blocks and fallback as in ADM's evaluator.
    """
    require_points("samples", len(samples), k)
    if not isinstance(reference, Manifold):
        reference = Manifold("reference", reference, k, device, float16)
    assert (reference.k, reference.device, reference.float16) == (k, device, float16)
    with computation("fp32", torch.device(device)):
        points = _Float16Points if float16 else _Points
        return _precision_recall(
            reference,
            points("samples", torch.from_numpy(samples).to(device)),
            with_subsets=intervals and not float16 and len(samples) >= 2 * (k + 1),
        )


def squared_radii(features: np.ndarray, k: int = 3, device: str = "cpu", float16: bool = False) -> np.ndarray:
    """The squared distance (N,) of each of the features (N, D) to its k-th nearest neighbour, float32.

    As `precision_recall` computes it. Raises StatisticsError for features that are not finite.
    """
    return Manifold("set", features, k, device, float16).radii.cpu().numpy()


def _precision_recall(manifold: Manifold, samples: _Points, with_subsets: bool) -> PrecisionRecall:
    reference, reference_radii, k = manifold.points, manifold.radii, manifold.k
    neighbours = _nearest(samples, _NEIGHBOURS if with_subsets else k + 1)
    sample_radii, reach = neighbours.distances[:, k], neighbours.distances[:, -1]
    samples_inside = torch.zeros_like(sample_radii, dtype=torch.bool)
    reference_inside = torch.zeros_like(reference_radii, dtype=torch.bool)
    balls = _Smallest(len(reference), min(_BALLS, len(samples)), reach.device)
    for rows in row_blocks(len(reference)):
        for columns in row_blocks(len(samples)):
            distances = reference.squared_distances(rows, samples, columns)
            samples_inside[columns] |= (distances <= reference_radii[rows, None]).any(dim=0)
            reference_inside[rows] |= (distances <= sample_radii[None, columns]).any(dim=1)
            if with_subsets:
                balls.merge(rows, columns, distances, scale=reach[columns])
    recalls = np.empty((2, 0))
    if with_subsets:
        nearest = (neighbours.columns.cpu().numpy(), neighbours.distances.cpu().numpy())
        covering = (balls.columns.cpu().numpy(), balls.distances.cpu().numpy())
        recalls = subset_recalls(samples.features.cpu().numpy(), *nearest, *covering, k)
    return PrecisionRecall(samples_inside.cpu().numpy(), reference_inside.cpu().numpy(), recalls)


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


class _Smallest:
    """For each of N rows, the n columns with the smallest keys, ascending, and their distances: (N, n) each.

    The keys are distances, or distances divided by a scale for each column.
    """

    def __init__(self, rows: int, n: int, device: torch.device):
        self.keys = torch.full((rows, n), torch.inf, device=device)
        self.columns = torch.zeros(rows, n, dtype=torch.int64, device=device)
        self.distances = torch.full_like(self.keys, torch.inf)

    def merge(
        self, rows: slice, columns: slice, distances: torch.Tensor, scale: torch.Tensor | None = None
    ) -> None:
        """Take further distances (rows, columns) into account; scale: (columns,), or None for 1."""
        n = self.keys.shape[1]
        keys = distances if scale is None else distances / scale.clamp(min=torch.finfo(scale.dtype).tiny)
        new, indices = keys.topk(min(n, keys.shape[1]), dim=1, largest=False)
        keys = torch.cat([self.keys[rows], new], dim=1)
        all_columns = torch.cat([self.columns[rows], columns.start + indices], dim=1)
        all_distances = torch.cat([self.distances[rows], distances.gather(1, indices)], dim=1)
        self.keys[rows], order = keys.topk(n, dim=1, largest=False, sorted=True)
        self.columns[rows] = all_columns.gather(1, order)
        self.distances[rows] = all_distances.gather(1, order)


def _nearest(points: _Points, n: int) -> _Smallest:
    """The n nearest points of each point in its own set, itself included; all of them if there are fewer."""
    nearest = _Smallest(len(points), min(n, len(points)), points.features.device)
    blocks = list(row_blocks(len(points)))
    for i, rows in enumerate(blocks):
        for columns in blocks[i:]:
            distances = points.squared_distances(rows, points, columns)
            nearest.merge(rows, columns, distances)
            if columns != rows:
                nearest.merge(columns, rows, distances.T)
    return nearest
