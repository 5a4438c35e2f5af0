"""Improved precision and recall: exact, and in the float16 arithmetic of ADM's evaluator on a GPU.

Distances are computed in blocks and not stored; those within one set are computed once for each pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dit_eval.errors import StatisticsError
from dit_eval.metrics.blocks import row_blocks
from dit_eval.metrics.distances import Float16Points, Points, Smallest, nearest_neighbours
from dit_eval.metrics.intervals import standard_error
from dit_eval.metrics.subset_recalls import SHARE, subset_recalls
from dit_eval.runtime.precision import computation

_NEIGHBOURS = 17  # of a sample, itself included, that are kept to find its radius within a subset
_BALLS = 16  # samples that are kept for each reference image, to find whether a subset covers it


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
            points = Float16Points if float16 else Points
            self.points = points(name, torch.from_numpy(features).to(device))
            self.radii = nearest_neighbours(self.points, k + 1).distances[:, k]
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
        points = Float16Points if float16 else Points
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


def _precision_recall(manifold: Manifold, samples: Points, with_subsets: bool) -> PrecisionRecall:
    reference, reference_radii, k = manifold.points, manifold.radii, manifold.k
    neighbours = nearest_neighbours(samples, _NEIGHBOURS if with_subsets else k + 1)
    sample_radii, reach = neighbours.distances[:, k], neighbours.distances[:, -1]
    samples_inside = torch.zeros_like(sample_radii, dtype=torch.bool)
    reference_inside = torch.zeros_like(reference_radii, dtype=torch.bool)
    balls = Smallest(len(reference), min(_BALLS, len(samples)), reach.device)
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
