"""Density and coverage: how the samples lie in the balls around the reference images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dit_eval.errors import StatisticsError
from dit_eval.metrics.blocks import row_blocks
from dit_eval.metrics.distances import Points, nearest_neighbours
from dit_eval.metrics.intervals import standard_error
from dit_eval.runtime.precision import computation


@dataclass(frozen=True)
class DensityCoverage:
    """Which samples lie in the balls around the reference images, as counts.

    balls: how many balls contain each sample, (M,); alone: how many of them contain no other sample, (M,);
    samples: how many samples the ball of each reference image contains, (N,); k: the neighbour that sets the
    radii. All are integers. Errors take the reference and its balls as fixed.
    """

    balls: np.ndarray
    alone: np.ndarray
    samples: np.ndarray
    k: int

    @property
    def density(self) -> float:
        """Mean number of balls around a sample over k; 1 is expected of samples like the reference."""
        return float(self.balls.mean() / self.k)

    @property
    def coverage(self) -> float:
        """Share of reference images with a sample in their ball, 0 to 1."""
        return float((self.samples > 0).mean())

    def density_influence(self) -> np.ndarray:
        """The influence of each sample on density, centred: (M,)."""
        return self.balls / self.k - self.density

    def coverage_influence(self) -> np.ndarray:
        """M - 1 times what coverage loses without each sample, centred: (M,).

        Their `standard_error` is that of the delete-one jackknife, which is too large (Efron & Stein 1981).
        """
        return (len(self.alone) - 1) / len(self.samples) * (self.alone - self.alone.mean())

    def coverage_error(self) -> float:
        """The standard error of coverage.

        The delete-one jackknife counts a ball with one sample as if its λ expected samples each had
        the whole effect: its part in the variance has the mean λe^-λ instead of e^-λ(1 - e^-λ). Both are
        known for counts that follow a negative binomial distribution, fitted by moments, so that part is
        scaled by their ratio. The part that comes from samples alone in several balls stays as it is.
        Measured over simulations: 0.92 to 1.14 of the true deviation, 0.96 where samples miss half of the
        modes of the reference (intervals hold in 91 %), and less than half where coverage is above 0.999.
        """
        jackknife = standard_error(self.coverage_influence()) ** 2
        excess = (1 - self._single_ball_ratio()) * self.alone.sum() / len(self.samples) ** 2
        return float(np.sqrt(max(jackknife - excess, 0.0)))

    def _single_ball_ratio(self) -> float:
        """E[e^-λ(1 - e^-λ)] / E[λe^-λ] for expected counts λ of gamma distribution, 0 to 1.

        With shape a and rate b it is (b+1)/a · (1 - ((b+1)/(b+2))^a); the limit of large b is that of equal
        λ, for counts that vary no more than a Poisson distribution.
        """
        mean, variance = self.samples.mean(), self.samples.var()
        if not mean:
            return 1.0
        rate = mean / max(variance - mean, 1e-6 * mean)
        shape = mean * rate
        return float((rate + 1) / shape * -np.expm1(-shape * np.log1p(1 / (rate + 1))))


def density_coverage(
    reference: np.ndarray, samples: np.ndarray, k: int = 5, device: str = "cpu"
) -> DensityCoverage:
    """Density and coverage of samples (M, D) against reference (N, D), float32 features.

    The radius of a reference image's ball is the distance to its k-th nearest other reference image; the
    boundary does not belong to the ball. Distances are float32, equal to float64 to about one image.
    Raises StatisticsError for fewer than k + 1 reference images, fewer than 2 samples, or features that are
    not finite.
    Source: Naeem et al. 2020; clovaai's prdc.
    """
    if len(reference) <= k or len(samples) < 2:
        raise StatisticsError(
            f"density and coverage need at least {k + 1} reference images, because radii are distances to "
            f"the nearest neighbour number {k}, and 2 samples; found {len(reference)} and {len(samples)}."
        )
    with computation("fp32", torch.device(device)):
        reference_points = Points("reference", torch.from_numpy(reference).to(device))
        sample_points = Points("samples", torch.from_numpy(samples).to(device))
        balls, alone, inside = _count(reference_points, sample_points, k)
    return DensityCoverage(balls, alone, inside, k)


def _count(reference: Points, samples: Points, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`balls`, `alone` and `samples` of DensityCoverage."""
    radii = nearest_neighbours(reference, k + 1).distances[:, k]
    balls = torch.zeros(len(samples), dtype=torch.int64, device=radii.device)
    inside = torch.zeros(len(reference), dtype=torch.int64, device=radii.device)
    last = torch.zeros_like(inside)  # the last sample in each ball, the only one where `inside` is 1
    for rows in row_blocks(len(reference)):
        for columns in row_blocks(len(samples)):
            contained = reference.squared_distances(rows, samples, columns) < radii[rows, None]
            balls[columns] += contained.sum(dim=0)
            inside[rows] += contained.sum(dim=1)
            found, position = contained.max(dim=1)
            last[rows] = torch.where(found, columns.start + position, last[rows])
    counts = inside.cpu().numpy()
    alone = np.bincount(last.cpu().numpy()[counts == 1], minlength=len(samples))
    return balls.cpu().numpy(), alone, counts
