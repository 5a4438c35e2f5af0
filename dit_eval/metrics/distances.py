"""Squared distances between two sets of points, in blocks, and the nearest neighbours within a set."""

from __future__ import annotations

import torch

from dit_eval.errors import StatisticsError
from dit_eval.metrics.blocks import BLOCK_ROWS, row_blocks
from dit_eval.runtime.onednn import linear

_ADM_BLOCK = 10_000  # rows of a block of ADM's evaluator, which falls back to float32 by whole blocks


class Points:
    """A set of points (N, D) and its distances to another set, in float32, without a copy of the features."""

    def __init__(self, name: str, features: torch.Tensor):
        self.features = features
        self.norms = torch.cat([(block**2).sum(dim=1) for block in features.split(BLOCK_ROWS)])
        if not torch.isfinite(self.norms).all():
            raise StatisticsError(f"the features of the {name} contain NaN or infinity.")

    def __len__(self) -> int:
        return len(self.features)

    def squared_distances(self, rows: slice, other: Points, columns: slice) -> torch.Tensor:
        """‖u‖² - 2u·v + ‖v‖², at least 0: (rows, columns), float32."""
        products = linear(self.features[rows], -2 * other.features[columns], other.norms[columns])
        return products.add_(self.norms[rows, None]).clamp_(min=0)


class Float16Points(Points):
    """The same with every term rounded to float16 and sums accumulated in float32.

    A pair of ADM's blocks with a distance that is not finite is computed in float32. Distances are not finite
    exactly where a squared norm is not: |u·v| is at most the larger of the two.
    """

    def __init__(self, name: str, features: torch.Tensor):
        super().__init__(name, features)
        halves = (block.half() for block in features.split(BLOCK_ROWS))
        self.half_norms = torch.cat([(half * half).float().sum(dim=1).half() for half in halves])
        self.finite = [bool(block.all()) for block in torch.isfinite(self.half_norms).split(_ADM_BLOCK)]

    def squared_distances(self, rows: slice, other: Points, columns: slice) -> torch.Tensor:
        """(rows, columns), float32 tensor of float16 values where ADM's pair of blocks is finite."""
        assert isinstance(other, Float16Points)
        assert _ADM_BLOCK % BLOCK_ROWS == 0  # so that rows lie within one of ADM's blocks
        if not (self.finite[rows.start // _ADM_BLOCK] and other.finite[columns.start // _ADM_BLOCK]):
            return super().squared_distances(rows, other, columns)
        u, v = self.features[rows].half().float(), other.features[columns].half().float()
        distances = self.half_norms[rows, None] - 2 * linear(u, v).half() + other.half_norms[None, columns]
        return distances.clamp_(min=0).float()


class Smallest:
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


def nearest_neighbours(points: Points, n: int) -> Smallest:
    """The n nearest points of each point in its own set, itself included; all of them if there are fewer."""
    nearest = Smallest(len(points), min(n, len(points)), points.features.device)
    blocks = list(row_blocks(len(points)))
    for i, rows in enumerate(blocks):
        for columns in blocks[i:]:
            distances = points.squared_distances(rows, points, columns)
            nearest.merge(rows, columns, distances)
            if columns != rows:
                nearest.merge(columns, rows, distances.T)
    return nearest
