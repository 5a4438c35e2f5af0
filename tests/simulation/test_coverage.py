"""200 runs of a known truth: do the intervals hold it, and does the paired gate cry wolf?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from dit_eval.metrics.fid_infinity import extrapolated_distance
from dit_eval.metrics.frechet import frechet_distance, frechet_influence
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.metrics.intervals import interval, normal_quantile, proportion_interval, standard_error
from dit_eval.metrics.precision_recall import PrecisionRecall, precision_recall
from tests.simulation.conftest import Record

pytestmark = pytest.mark.simulation
RUNS = 200
FIRST = 1000  # seed of the first run; the references have seeds of their own


def gaussian(features: np.ndarray) -> Gaussian:
    moments = Moments(features.shape[1])
    moments.update(features)
    return moments.gaussian()


def reference(dimension: int) -> tuple[Gaussian, np.ndarray]:
    """A Gaussian with correlated features, and the root of its covariance."""
    root = np.random.default_rng(7).normal(size=(dimension, dimension)) / np.sqrt(dimension)
    root += 0.5 * np.eye(dimension)
    return Gaussian(np.zeros(dimension), root @ root.T), root


def test_the_interval_holds_the_known_fid_of_gaussian_features(record_property: Record) -> None:
    theirs, root = reference(8)
    mean, scale, n = np.full(8, 0.2), 1.2, 5000
    truth = frechet_distance(Gaussian(mean, scale**2 * theirs.covariance), theirs)
    held = 0
    for seed in range(RUNS):
        features = mean + scale * np.random.default_rng(FIRST + seed).normal(size=(n, 8)) @ root.T
        ours = gaussian(features)
        influence = frechet_influence(features, ours, theirs)
        found = interval(frechet_distance(ours, theirs), standard_error(influence))
        held += found.low <= truth <= found.high
    record_property("coverage", held / RUNS)
    assert 0.90 <= held / RUNS <= 0.99


def test_with_many_features_the_interval_holds_the_fid_to_expect_at_this_n(record_property: Record) -> None:
    """256 features, 2,000 images: the bias is many standard errors, and belongs to the number."""
    theirs, root = reference(256)
    values, errors = np.empty((2, RUNS))
    for seed in range(RUNS):
        features = 0.1 + 1.1 * np.random.default_rng(FIRST + seed).normal(size=(2000, 256)) @ root.T
        ours = gaussian(features)
        values[seed] = frechet_distance(ours, theirs)
        errors[seed] = standard_error(frechet_influence(features, ours, theirs))
    held = np.mean(np.abs(values - values.mean()) <= normal_quantile() * errors)
    record_property("coverage", held)
    record_property("error_over_deviation", errors.mean() / values.std())
    assert 0.90 <= held <= 1
    assert 0.9 <= errors.mean() / values.std() <= 1.5


def test_the_interval_of_the_extrapolation_holds_the_true_fid_where_that_of_fid_does_not(
    record_property: Record,
) -> None:
    theirs, root = reference(32)
    truth = frechet_distance(Gaussian(np.full(32, 0.1), 1.1**2 * theirs.covariance), theirs)
    held, found = np.empty((2, RUNS)), np.empty((2, RUNS))
    for seed in range(RUNS):
        features = 0.1 + 1.1 * np.random.default_rng(FIRST + seed).normal(size=(500, 32)) @ root.T
        ours = gaussian(features)
        influence = frechet_influence(features, ours, theirs)
        at_n = frechet_distance(ours, theirs), influence
        for row, each in enumerate((at_n, extrapolated_distance(features, theirs, influence))):
            ends = interval(each[0], standard_error(each[1]))
            held[row, seed], found[row, seed] = ends.low <= truth <= ends.high, each[0]
    at_n, at_infinity = held.mean(axis=1)
    record_property("coverage", at_infinity)
    record_property("coverage_of_fid", at_n)
    record_property("bias_over_bias_of_fid", (found[1].mean() - truth) / (found[0].mean() - truth))
    assert 0.90 <= at_infinity <= 0.99
    assert at_n < 0.5


def twins(closeness: float, shift: float = 0.0) -> Iterator[tuple[float, float, float]]:
    """(difference of two FIDs, its paired, its unpaired standard error) of models with the same noise.

    closeness: correlation of image i of one with image i of the other; shift: what makes the second worse.
    """
    theirs, root = reference(32)
    other = np.sqrt(1 - closeness**2)
    for seed in range(RUNS):
        rng = np.random.default_rng(FIRST + seed)
        shared = rng.normal(size=(2000, 32))
        a = 0.1 + 1.1 * shared @ root.T
        b = 0.1 + shift + 1.1 * (closeness * shared + other * rng.normal(size=shared.shape)) @ root.T
        numbers, influences = [], []
        for features in (a, b):
            ours = gaussian(features)
            numbers.append(frechet_distance(ours, theirs))
            influences.append(frechet_influence(features, ours, theirs))
        apart = math.hypot(*map(standard_error, influences))
        yield numbers[1] - numbers[0], standard_error(influences[1] - influences[0]), apart


@pytest.mark.parametrize("closeness", [0.99, 0.5])
def test_the_paired_gate_on_equal_models_gives_few_false_alarms(
    closeness: float, record_property: Record
) -> None:
    alarms = np.mean([abs(difference) > normal_quantile() * se for difference, se, _ in twins(closeness)])
    record_property("false_alarms", alarms)
    assert alarms <= 0.08


def test_the_paired_gate_finds_a_shift_that_separate_intervals_do_not(record_property: Record) -> None:
    runs = list(twins(0.99, shift=0.02))
    paired = np.mean([difference > normal_quantile(5) * se for difference, se, _ in runs])
    apart = np.mean([difference > normal_quantile(5) * se for difference, _, se in runs])
    record_property("found_in_pairs", paired)
    record_property("found_apart", apart)
    assert paired == 1
    assert apart < 0.5


def manifolds(n: int, m: int, dimension: int, scale: float) -> list[PrecisionRecall]:
    """Runs with n samples of the given scale against m reference images, which stay."""
    reference = np.random.default_rng(1).normal(size=(m, dimension)).astype(np.float32)
    samples = (np.random.default_rng(FIRST + seed).normal(size=(n, dimension)) for seed in range(RUNS))
    return [precision_recall(reference, (scale * x).astype(np.float32)) for x in samples]


def values_and_errors(runs: list[PrecisionRecall], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Precision or recall of all runs, and their standard errors."""
    values = np.array([getattr(run, name) for run in runs])
    if name == "recall":
        return values, np.array([run.recall_error() for run in runs])
    return values, np.array([standard_error(run.precision_influence()) for run in runs])


@pytest.mark.parametrize(("n", "m"), [(1000, 1000), (500, 2000), (2000, 500)])
def test_intervals_of_precision_and_recall_hold_what_is_to_be_expected(
    n: int, m: int, record_property: Record
) -> None:
    runs = manifolds(n, m, dimension=12, scale=0.8)
    for name, images in (("precision", n), ("recall", m)):
        values, errors = values_and_errors(runs, name)
        ends = [proportion_interval(value, se, images) for value, se in zip(values, errors, strict=True)]
        held = np.mean([found.low <= values.mean() <= found.high for found in ends])
        record_property(f"{name}_coverage", held)
        record_property(f"{name}_error_over_deviation", errors.mean() / values.std())
        assert 0.90 <= held <= 0.99, name
        assert 0.85 <= errors.mean() / values.std() <= 1.2, name
    assert errors.std() < 0.12 * errors.mean()  # of recall; ten parts of the samples vary by 0.06 to 0.18


@pytest.mark.parametrize("scale", [0.5, 1.6])
def test_intervals_of_shares_near_0_and_1_hold_what_is_to_be_expected(
    scale: float, record_property: Record
) -> None:
    """Precision is 0.999 or recall 0.995, where symmetric intervals leave 0…1 and hold too little."""
    runs = manifolds(300, 500, dimension=8, scale=scale)
    for name, images in (("precision", 300), ("recall", 500)):
        values, errors = values_and_errors(runs, name)
        ends = [proportion_interval(value, se, images) for value, se in zip(values, errors, strict=True)]
        held = np.mean([found.low <= values.mean() <= found.high for found in ends])
        symmetric = np.mean(np.abs(values - values.mean()) <= normal_quantile() * errors)
        record_property(f"{name}_mean", values.mean())
        record_property(f"{name}_coverage", held)
        record_property(f"{name}_coverage_of_symmetric_intervals", symmetric)
        assert 0.92 <= held <= 0.99, name
        if values.mean() > 0.998:
            assert symmetric < 0.5


@pytest.mark.parametrize("closeness", [0.99, 0.5])
def test_paired_recalls_of_equal_models_give_few_false_alarms(
    closeness: float, record_property: Record
) -> None:
    reference = np.random.default_rng(1).normal(size=(500, 12)).astype(np.float32)
    differences, errors, errors_apart = np.empty((3, RUNS))
    for seed in range(RUNS):
        shared, own = np.random.default_rng(FIRST + seed).normal(size=(2, 400, 12))
        twin = closeness * shared + np.sqrt(1 - closeness**2) * own
        runs = [precision_recall(reference, (0.9 * x).astype(np.float32)) for x in (shared, twin)]
        influences = [run.recall_influence() for run in runs]
        assert influences[0] is not None
        assert influences[1] is not None
        differences[seed] = runs[1].recall - runs[0].recall
        errors[seed] = standard_error(influences[1] - influences[0])
        errors_apart[seed] = math.hypot(*(run.recall_error() or 0 for run in runs))
    alarms = np.mean(np.abs(differences) > normal_quantile() * errors)
    record_property("false_alarms", alarms)
    record_property("error_over_deviation", errors.mean() / differences.std())
    record_property("error_over_unpaired_error", errors.mean() / errors_apart.mean())
    assert alarms <= 0.05
    assert errors.mean() < errors_apart.mean()
