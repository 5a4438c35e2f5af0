"""200 runs of KID, density, coverage, MIND and FDr: do the intervals hold what is to be expected?"""

from __future__ import annotations

import numpy as np
import pytest

from dit_eval.metrics.density_coverage import density_coverage
from dit_eval.metrics.fd_ratio import Normaliser, frechet_ratio, mean_ratio
from dit_eval.metrics.frechet import frechet_distance, frechet_influence
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.metrics.intervals import Interval, interval, proportion_interval, standard_error
from dit_eval.metrics.kid import kernel_distance
from dit_eval.metrics.mind import monge_distance
from tests.simulation.conftest import Record

pytestmark = pytest.mark.simulation
RUNS = 200
FIRST = 1000  # seed of the first run; the reference has a seed of its own


def points(seed: int, n: int, dimension: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    normal = np.random.default_rng(seed).normal(size=(n, dimension))
    return (shift + scale * normal).astype(np.float32)


def share_held(values: np.ndarray, ends: list[Interval]) -> float:
    """The share of intervals that hold the mean over all runs."""
    return float(np.mean([found.low <= values.mean() <= found.high for found in ends]))


@pytest.mark.parametrize(
    ("scale", "shift"),
    [(1.0, 0.0), (1.0, 0.03), (1.0, 0.2), (1.3, 0.0)],
    ids=["equal", "near", "far", "wide"],
)
def test_the_interval_of_kid_holds_the_kid_to_expect(
    scale: float, shift: float, record_property: Record
) -> None:
    """Also for samples like the reference, where errors by influences are too large."""
    reference = points(1, 500, 32)
    runs = [kernel_distance(reference, points(FIRST + i, 300, 32, scale, shift)) for i in range(RUNS)]
    values = np.array([run.value for run in runs])
    errors = np.array([run.standard_error for run in runs])
    by_influence = np.array([standard_error(run.influence) for run in runs])
    held = share_held(values, [interval(run.value, run.standard_error) for run in runs])
    record_property("coverage", held)
    record_property("error_over_deviation", errors.mean() / values.std())
    record_property("error_by_influence_over_deviation", by_influence.mean() / values.std())
    assert 0.90 <= held <= 0.99
    assert 0.85 <= errors.mean() / values.std() <= 1.15


@pytest.mark.parametrize(
    ("n", "m", "dimension", "scale"),
    [
        *((1000, 1000, 12, 0.8), (500, 2000, 12, 0.8), (1000, 1000, 12, 1.0), (1000, 1000, 4, 1.0)),
        *((1000, 1000, 32, 1.0), (1000, 1000, 12, 1.3), (300, 500, 8, 0.5), (300, 500, 8, 1.6)),
    ],
)
def test_intervals_of_density_and_coverage_hold_what_is_to_be_expected(
    n: int, m: int, dimension: int, scale: float, record_property: Record
) -> None:
    reference = points(1, m, dimension)
    runs = [density_coverage(reference, points(FIRST + i, n, dimension, scale)) for i in range(RUNS)]
    density = np.array([run.density for run in runs])
    coverage = np.array([run.coverage for run in runs])
    density_error = np.array([standard_error(run.density_influence()) for run in runs])
    coverage_error = np.array([run.coverage_error() for run in runs])
    jackknife = np.array([standard_error(run.coverage_influence()) for run in runs])
    held = {
        "density": share_held(density, [*map(interval, density, density_error)]),
        "coverage": share_held(
            coverage, [proportion_interval(v, e, m) for v, e in zip(coverage, coverage_error, strict=True)]
        ),
    }
    record_property("mean_coverage", coverage.mean())
    record_property("held", held)
    record_property("density_error_over_deviation", density_error.mean() / density.std())
    record_property("coverage_error_over_deviation", coverage_error.mean() / coverage.std())
    record_property("jackknife_error_over_deviation", jackknife.mean() / coverage.std())
    assert 0.90 <= held["density"] <= 0.99
    assert 0.90 <= held["coverage"] <= 0.99
    assert 0.85 <= coverage_error.mean() / coverage.std() <= 1.2


@pytest.mark.parametrize(
    ("n", "m", "scale", "shift"),
    [(500, 500, 1.0, 0.0), (500, 500, 1.1, 0.1), (300, 600, 1.1, 0.1), (600, 300, 1.1, 0.1)],
    ids=["equal", "far", "fewer samples", "more samples"],
)
def test_the_interval_of_mind_holds_the_mind_to_expect_at_this_n(
    n: int, m: int, scale: float, shift: float, record_property: Record
) -> None:
    reference = points(1, m, 32)
    runs = [monge_distance(reference, points(FIRST + i, n, 32, scale, shift)) for i in range(RUNS)]
    values = np.array([run.value for run in runs])
    errors = np.array([standard_error(run.influence) for run in runs])
    held = share_held(values, [*map(interval, values, errors)])
    record_property("coverage", held)
    record_property("error_over_deviation", errors.mean() / values.std())
    assert 0.90 <= held <= 0.99


def test_the_interval_of_fdr_holds_the_ratio_to_expect(record_property: Record) -> None:
    """The mean over three spaces, which are overlapping parts of the same features."""
    spaces = [slice(0, 6), slice(3, 9), slice(5, 11)]
    train, validation = points(1, 20_000, 11), points(2, 5000, 11)
    values, ends = np.empty(RUNS), []
    for i in range(RUNS):
        samples = points(FIRST + i, 2000, 11, scale=1.1, shift=0.1)
        ratios = []
        for space in spaces:
            reference, own = (gaussian(features[:, space]) for features in (train, samples))
            normaliser = Normaliser(frechet_distance(gaussian(validation[:, space]), reference))
            influence = frechet_influence(samples[:, space], own, reference)
            ratios.append(frechet_ratio(frechet_distance(own, reference), influence, normaliser))
        mean = mean_ratio(ratios)
        values[i] = mean.value
        ends.append(interval(mean.value, mean.standard_error()))
    held = share_held(values, ends)
    record_property("coverage", held)
    record_property("error_over_deviation", np.mean([found.se for found in ends]) / values.std())
    assert 0.90 <= held <= 0.99


def gaussian(features: np.ndarray) -> Gaussian:
    moments = Moments(features.shape[1])
    moments.update(features)
    return moments.gaussian()
