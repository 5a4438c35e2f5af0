"""MIND: the Monge Inception Distance, a sliced Wasserstein distance of two sets of features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dit_eval.errors import StatisticsError
from dit_eval.runtime.onednn import linear
from dit_eval.runtime.precision import computation

DIRECTIONS = 1000
_SEED = 2020  # torch-fidelity's default
_BLOCK = 50  # directions whose projections are in memory at once


@dataclass(frozen=True)
class MongeDistance:
    """MIND and the number of images that it used of each side.

    influence: the derivative with respect to the weight of sample i, centred, (N,) float64, 0 for samples
    that were not used; the reference and the directions are taken as fixed.
    """

    value: float
    influence: np.ndarray
    n: int


def monge_distance(reference: np.ndarray, samples: np.ndarray, device: str = "cpu") -> MongeDistance:
    """MIND of samples (N, D) against reference (M, D), float32 features; lower is better.

    3D times the mean over 1,000 random directions of the squared 2-Wasserstein distance of the projections.
    Of the larger set as many images are used as the smaller one has. The random images and directions are
    torch-fidelity's for its default seed. Projections are float32, sums float64. As with FID, the value
    has a bias that decreases with the number of images.
    Raises StatisticsError for fewer than 2 images on a side or features that are not finite.
    Source: Berthet et al. 2026, arXiv 2605.06797; torch-fidelity's metric_mind.py.
    """
    n = min(len(samples), len(reference))
    if n < 2:
        raise StatisticsError(f"MIND needs at least 2 images on each side; one side has {n}.")
    random = torch.Generator("cpu").manual_seed(_SEED)
    used, used_reference = (_subset(len(features), n, random) for features in (samples, reference))
    shape = DIRECTIONS, samples.shape[1]
    directions = torch.randn(shape, generator=random, dtype=torch.float32, device="cpu")
    directions /= directions.norm(dim=1, keepdim=True)
    with computation("fp32", torch.device(device)):
        x, y = (
            torch.from_numpy(features[rows]).to(device)
            for features, rows in ((samples, used), (reference, used_reference))
        )
        distance = torch.zeros((), dtype=torch.float64, device=device)
        potentials = distance.new_zeros(n)
        for block in directions.to(device).split(_BLOCK):
            _add_block(x, y, block, distance, potentials)
    scale = 3 * samples.shape[1] / DIRECTIONS
    value = scale * float(distance)
    if not np.isfinite(value):
        raise StatisticsError("MIND is not finite: the features contain NaN or infinity.")
    influence = np.zeros(len(samples))
    potential = scale * potentials.cpu().numpy()
    influence[used] = (potential - potential.mean()) * (len(samples) / n)
    return MongeDistance(value, influence, n)


def _subset(length: int, n: int, random: torch.Generator) -> slice | np.ndarray:
    """Which n of so many images are used; nothing is drawn where that is all of them."""
    return slice(None) if length == n else torch.randperm(length, generator=random, device="cpu")[:n].numpy()


def _add_block(x: Tensor, y: Tensor, directions: Tensor, distance: Tensor, potentials: Tensor) -> None:
    """Add the squared distances in these directions to `distance`, and their potentials at x (n, D).

    The derivative of a squared distance with respect to the weight of a point is the Kantorovich potential
    there, whose slope is 2(x - T(x)) for the optimal transport map T. Between neighbouring points it rises by
    what the trapezoidal rule gives.
    """
    projections, order = linear(directions, x).sort(dim=1)
    difference = projections.double() - linear(directions, y).sort(dim=1).values
    distance += difference.square().mean(dim=1).sum()
    rises = projections.double().diff(dim=1) * (difference[:, 1:] + difference[:, :-1])
    potential = torch.nn.functional.pad(rises.cumsum(dim=1), (1, 0))
    potentials += potential.new_zeros(potential.shape).scatter_(1, order, potential).sum(dim=0)
