"""Improved precision and recall: exact, and as ADM's float16 arithmetic gives them on a GPU.

Distances are computed block by block and never kept; of two equal sets each half is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from dit_eval.errors import StatisticsError
from dit_eval.metrics.shuffle import permutations
from dit_eval.runtime.onednn import linear

_PARTS = 10  # of the samples, among which recall is seen to vary
_BLOCK = 2000  # rows and columns of one block of distances
_ADM_BLOCK = 10_000  # ADM falls back to float32 for whole blocks of this size


@dataclass(frozen=True)
class PrecisionRecall:
    """What lies inside a ball of the other set."""

    samples_inside: np.ndarray  # (M,) bool
    reference_inside: np.ndarray  # (N,) bool
    inside_parts: np.ndarray  # (N, P) bool: inside a ball of each of P parts of the samples; none in float16

    @property
    def precision(self) -> float:
        """Share of samples inside."""
        return float(self.samples_inside.mean())

    @property
    def recall(self) -> float:
        """Share of reference images inside."""
        return float(self.reference_inside.mean())

    def precision_influence(self) -> np.ndarray:
        """What each sample does to precision, (M,), of mean 0: its variance is Σφ²/M², exactly binomial."""
        return self.samples_inside - self.precision

    def recall_influence(self) -> np.ndarray | None:
        """What the parts of the samples do to recall, (P + P·N,), of mean 0; None for fewer than two parts.

        Recall is a mean of booleans that share samples. Its variance, the reference given, is that of the
        booleans, α/N, and their covariances, which are local and fall as 1/M: C/M. A part of M/P samples
        has radii of its own, so that of its recall is α/N + C·P/M. Both terms are seen among the parts, α
        image by image; entries are scaled for their sum of squares to be α/N + C/M, and linear in the
        booleans, so that those of two results over the same reference are subtracted.
        """
        n, parts = self.inside_parts.shape
        if parts < 2:
            return None
        each = self.inside_parts - self.inside_parts.mean(axis=1, keepdims=True)
        together = each.mean(axis=0)
        entries = np.concatenate([together / np.sqrt(parts - 1), each.ravel() / n]) / np.sqrt(parts)
        return entries * np.sqrt(len(entries) * (len(entries) - 1))


def precision_recall(
    reference: np.ndarray, samples: np.ndarray, k: int = 3, device: str = "cpu", float16: bool = False
) -> PrecisionRecall:
    """Precision and recall of samples (M, D) against reference (N, D), float32 features.

    A point's ball reaches to its k-th neighbour other than itself; borders belong to it. float16: model
    ADM's evaluator on a GPU, where terms are rounded to float16 and sums run in float32; else float32
    throughout, equal to float64 to about one item.
    Raises StatisticsError if a set has fewer than k + 1 points or features that are not finite.
    ModelSpec: Kynkäänniemi et al. 2019; blocks and fallback as in ADM's evaluator.
    """
    for name, features in (("reference", reference), ("samples", samples)):
        require_points(name, len(features), k)
    prepare: type[_Points] = _Float16Points if float16 else _Points
    theirs = prepare("reference", torch.from_numpy(reference).to(device))
    ours = prepare("samples", torch.from_numpy(samples).to(device))
    reach_theirs, reach_ours = _squared_radii(theirs, k), _squared_radii(ours, k)
    member, reach_parts = _parts(ours, k, 0 if float16 else _PARTS)
    inside_theirs = torch.zeros(len(ours), dtype=torch.bool, device=device)
    inside_ours = torch.zeros(len(theirs), dtype=torch.bool, device=device)
    inside_parts = torch.zeros(len(theirs), member.shape[1], dtype=torch.bool, device=device)
    for rows in _blocks(len(theirs)):
        for columns in _blocks(len(ours)):
            distances = theirs.squared_distances(rows, ours, columns)
            inside_theirs[columns] |= (distances <= reach_theirs[rows, None]).any(dim=0)
            inside_ours[rows] |= (distances <= reach_ours[None, columns]).any(dim=1)
            if not float16:
                covering = (distances <= reach_parts[None, columns]).float()
                inside_parts[rows] |= covering @ member[columns] > 0
    return PrecisionRecall(*(inside.cpu().numpy() for inside in (inside_theirs, inside_ours, inside_parts)))


def require_points(name: str, n: int, k: int) -> None:
    """Raise StatisticsError if a set of n points is too small for the k-th neighbour."""
    if n <= k:
        raise StatisticsError(
            f"precision and recall need at least {k + 1} images on each side, for the distance to "
            f"neighbour {k}; {name}: {n}."
        )


class _Points:
    """A set of points and their distances to another set, in float32; nothing of its size is made."""

    def __init__(self, name: str, features: torch.Tensor):
        self.features = features
        self.norms = torch.cat([(part**2).sum(dim=1) for part in features.split(_BLOCK)])
        if not torch.isfinite(self.norms).all():
            raise StatisticsError(f"the features of the {name} hold NaN or infinity.")

    def __len__(self) -> int:
        return len(self.features)

    def squared_distances(self, rows: slice, other: _Points, columns: slice) -> torch.Tensor:
        """‖u‖² - 2u·v + ‖v‖², not below 0: (rows, columns), float32."""
        products = linear(self.features[rows], -2 * other.features[columns], other.norms[columns])
        return products.add_(self.norms[rows, None]).clamp_(min=0)


class _Float16Points(_Points):
    """The same with every term rounded to float16 and sums accumulated in float32.

    A pair of ADM's blocks of 10,000 in which a distance is not finite is computed in float32. Distances are
    not finite just where a squared norm is not: |u·v| is at most the larger of the two.
    """

    def __init__(self, name: str, features: torch.Tensor):
        super().__init__(name, features)
        halves = (part.half() for part in features.split(_BLOCK))
        self.half_norms = torch.cat([(half * half).float().sum(dim=1).half() for half in halves])
        finite = torch.isfinite(self.half_norms)
        self.fits = [bool(part.all()) for part in finite.split(_ADM_BLOCK)]

    def squared_distances(self, rows: slice, other: _Points, columns: slice) -> torch.Tensor:
        """(rows, columns), float32 that holds float16 values where ADM's block is finite."""
        assert isinstance(other, _Float16Points)
        if not (self.fits[rows.start // _ADM_BLOCK] and other.fits[columns.start // _ADM_BLOCK]):
            return super().squared_distances(rows, other, columns)
        u, v = self.features[rows].half().float(), other.features[columns].half().float()
        distances = self.half_norms[rows, None] - 2 * linear(u, v).half() + other.half_norms[None, columns]
        return distances.clamp_(min=0).float()


def _blocks(n: int) -> Iterator[slice]:
    """Slices that cover 0…n; none crosses a border of ADM's blocks."""
    assert _ADM_BLOCK % _BLOCK == 0
    for start in range(0, n, _BLOCK):
        yield slice(start, min(start + _BLOCK, n))


def _parts(points: _Points, k: int, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random parts of a set: who is in which, (N, P) of 0 and 1, and squared radii within the part, (N,).

    There are at most `most`, of k + 1 points and more.
    """
    parts = min(most, len(points) // (k + 1))
    device = points.features.device
    order = torch.from_numpy(next(permutations(len(points)))).to(device)
    member = torch.zeros(len(points), parts, device=device)
    reach = torch.empty(len(points), device=device)
    for part in range(parts):
        chosen = order[part::parts]
        member[chosen, part] = 1
        reach[chosen] = _squared_radii(type(points)("samples", points.features[chosen]), k)
    return member, reach


def _squared_radii(points: _Points, k: int) -> torch.Tensor:
    """Squared distance of each point to its k-th neighbour, itself not counted: (N,), float32."""
    nearest = torch.full((len(points), k + 1), torch.inf, device=points.features.device)
    blocks = list(_blocks(len(points)))
    for i, rows in enumerate(blocks):
        for columns in blocks[i:]:
            distances = points.squared_distances(rows, points, columns)
            _keep_nearest(nearest, rows, distances)
            if columns != rows:
                _keep_nearest(nearest, columns, distances.T)
    return nearest[:, k]


def _keep_nearest(nearest: torch.Tensor, rows: slice, distances: torch.Tensor) -> None:
    """Merge the smallest of new distances (rows, M) into `nearest`, sorted."""
    k = nearest.shape[1]
    new = distances.topk(min(k, distances.shape[1]), dim=1, largest=False).values
    nearest[rows] = torch.cat([nearest[rows], new], dim=1).topk(k, dim=1, largest=False, sorted=True).values
