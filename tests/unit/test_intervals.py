"""Influence functions: against finite differences of weights, and against the brute-force jackknife."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from dit_eval.metrics.blocks import random_subsets
from dit_eval.metrics.frechet import frechet_distance, frechet_influence
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.metrics.inception_score import InceptionScore, score_influence
from dit_eval.metrics.intervals import interval, normal_quantile, proportion_interval, standard_error
from dit_eval.metrics.precision_recall import precision_recall

STEP = 1e-5


def gaussian(features: np.ndarray) -> Gaussian:
    moments = Moments(features.shape[1])
    moments.update(features)
    return moments.gaussian()


def weighted(features: np.ndarray, weights: np.ndarray) -> Gaussian:
    mean = weights @ features
    centred = features - mean
    return Gaussian(mean, (weights[:, None] * centred).T @ centred)


@pytest.mark.parametrize("n", [60, 9], ids=["full rank", "fewer images than dimensions"])
def test_the_influence_on_fid_is_the_derivative_by_an_images_weight(n: int) -> None:
    rng = np.random.default_rng(0)
    features, reference = rng.normal(size=(n, 12)), gaussian(rng.normal(0.3, 1.4, size=(80, 12)))
    even = np.full(n, 1 / n)
    influence = frechet_influence(features, weighted(features, even), reference)
    for image in (0, n - 1):
        above, below = (
            frechet_distance(weighted(features, (1 - h) * even + h * np.eye(n)[image]), reference)
            for h in (STEP, -STEP)
        )
        assert influence[image] == pytest.approx((above - below) / (2 * STEP), rel=1e-4)
    assert influence.mean() == pytest.approx(0, abs=1e-10)


def test_the_standard_error_of_fid_is_that_of_the_delete_block_jackknife() -> None:
    rng = np.random.default_rng(1)
    features, reference = rng.normal(size=(1000, 6)), gaussian(rng.normal(0.5, 1.3, size=(500, 6)))
    blocks = 100
    left_out = np.array(
        [
            frechet_distance(gaussian(np.delete(features, block, axis=0)), reference)
            for block in np.split(np.arange(1000), blocks)
        ]
    )
    jackknife = np.sqrt((blocks - 1) * left_out.var())
    se = standard_error(frechet_influence(features, gaussian(features), reference))
    assert se == pytest.approx(jackknife, rel=0.15)  # a deviation from 100 blocks is known to 7 %


def test_the_standard_error_of_is_is_that_of_the_jackknife() -> None:
    probabilities = np.random.default_rng(2).dirichlet(np.full(5, 0.4), 300)

    def score(p: np.ndarray) -> float:
        whole = InceptionScore(chunk=1000)
        whole.update(p, 0)
        return whole.in_file_order()

    left_out = np.array([score(np.delete(probabilities, image, axis=0)) for image in range(300)])
    jackknife = np.sqrt(299 * left_out.var())
    assert standard_error(score_influence(probabilities, 1000)) == pytest.approx(jackknife, rel=0.02)


def test_a_short_last_chunk_weighs_as_much_as_the_others_and_so_do_its_images() -> None:
    probabilities = np.random.default_rng(3).dirichlet(np.full(5, 0.4), 250)
    influence = score_influence(probabilities, 200)
    last_alone = score_influence(probabilities[200:], 200)
    np.testing.assert_allclose(influence[200:], last_alone * 250 / (2 * 50))


def points(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)


def test_precision_is_binomial() -> None:
    found = precision_recall(points(4, 200), points(5, 100))
    p = found.precision
    assert standard_error(found.precision_influence()) == pytest.approx(np.sqrt(p * (1 - p) / 99))


def members_of(subset: int, m: int) -> np.ndarray:
    """Which of m samples are in the given one of the first 64 subsets by index: (m,) bool."""
    words = random_subsets(m, 8)[0].view(np.uint8).reshape(m, 8)
    return np.unpackbits(words, axis=1)[:, subset].astype(bool)


def test_subsets_hold_five_eighths_of_the_images() -> None:
    subsets = random_subsets(1000, 8)
    assert subsets.shape == (8, 1000)
    assert np.unpackbits(subsets.view(np.uint8)).mean() == pytest.approx(5 / 8, abs=0.003)
    assert len(np.unique(subsets)) == 8000


@pytest.mark.parametrize(("n", "m", "tolerance"), [(60, 16, 0), (200, 100, 0.01), (2100, 2050, 0.002)])
def test_the_recall_of_a_subset_is_that_of_its_samples_alone(n: int, m: int, tolerance: float) -> None:
    """Exactly where all neighbours and balls are kept, nearly so elsewhere."""
    reference, samples = points(4, n), points(5, m)
    found = precision_recall(reference, samples)
    for subset in (0, 9, 63):
        alone = precision_recall(reference, samples[members_of(subset, m)]).recall
        assert found.subset_recalls[1, subset] == pytest.approx(alone, abs=max(tolerance, 1e-12))


def test_the_error_of_recall_is_that_of_the_delete_d_jackknife() -> None:
    found = precision_recall(points(4, 200), points(5, 100))
    by_features, by_index = found.subset_recalls
    influence = found.recall_influence()
    assert influence is not None
    assert influence.mean() == pytest.approx(0, abs=1e-12)
    assert standard_error(influence) == pytest.approx(np.sqrt(5 / 3 * by_index.var(ddof=1)))
    assert found.recall_error() == pytest.approx(np.sqrt(5 / 3 * by_features.var(ddof=1)))


@pytest.mark.parametrize("duplicates", [0, 30])
def test_the_error_of_recall_does_not_depend_on_the_order_of_the_samples(duplicates: int) -> None:
    """Of sixty orders of the same 300 samples."""
    reference, samples = points(4, 300), points(5, 300)
    samples[:duplicates] = samples[-1]
    rng = np.random.default_rng(0)
    runs = [precision_recall(reference, samples[rng.permutation(300)]) for _ in range(60)]
    assert len({run.recall for run in runs}) == 1
    assert len({run.recall_error() for run in runs}) == 1


def test_the_error_of_recall_hardly_depends_on_the_choice_of_subsets() -> None:
    """Subsets by index are other subsets for every order of the samples."""
    reference, samples = points(4, 300), points(5, 300)
    rng = np.random.default_rng(0)
    errors = [
        standard_error(influence)
        for _ in range(60)
        if (influence := precision_recall(reference, samples[rng.permutation(300)]).recall_influence())
        is not None
    ]
    assert len(errors) == 60
    assert np.std(errors) < 0.05 * np.mean(errors)


def test_recalls_of_samples_that_differ_a_little_vary_together() -> None:
    reference, samples = points(4, 500), points(5, 400)
    near = samples + np.float32(0.02) * points(6, 400)
    influence, of_near, of_independent = (
        precision_recall(reference, x).recall_influence() for x in (samples, near, points(7, 400))
    )
    assert influence is not None
    assert of_near is not None
    assert of_independent is not None
    assert standard_error(influence - of_near) < 0.5 * standard_error(influence)
    assert standard_error(influence - of_independent) > standard_error(influence)


def test_recall_of_seven_samples_has_no_error() -> None:
    assert precision_recall(points(4, 50), points(5, 7)).recall_influence() is None
    assert precision_recall(points(4, 50), points(5, 8)).recall_influence() is not None


def test_an_interval_is_1_96_standard_errors_wide_on_each_side_and_wider_for_many_comparisons() -> None:
    found = interval(3.0, standard_error(np.array([-1.0, 1.0, -1.0, 1.0])))
    assert found.se == pytest.approx(np.sqrt(1 / 3))
    assert found.high - 3 == pytest.approx(1.959964 * found.se)
    assert 3 - found.low == pytest.approx(found.high - 3)
    assert normal_quantile(5) == pytest.approx(2.575829)


@pytest.mark.parametrize(("value", "low"), [(3.0, 3 - 1.959964), (1.0, 0.0), (0.0, 0.0), (-1e-9, -1e-9)])
def test_an_interval_is_cut_to_the_values_of_the_metric_and_contains_the_measured_one(
    value: float, low: float
) -> None:
    found = interval(value, 1.0, (0.0, np.inf))
    assert found.se == 1
    assert found.low == pytest.approx(low, abs=1e-6)
    assert found.low <= value
    assert found.high == pytest.approx(value + 1.959964)


@pytest.mark.parametrize("inside", [0, 1, 40, 50])
def test_the_interval_of_a_share_of_independent_images_is_wilsons(inside: int) -> None:
    share = inside / 50
    found = proportion_interval(share, float(np.sqrt(share * (1 - share) / 50)), 50)
    expected = binomtest(inside, 50).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_images_that_depend_on_each_other_count_as_fewer() -> None:
    twice = proportion_interval(0.8, 2 * np.sqrt(0.8 * 0.2 / 200), 200)
    independent = proportion_interval(0.8, np.sqrt(0.8 * 0.2 / 50), 50)
    assert (twice.low, twice.high) == pytest.approx((independent.low, independent.high))


@pytest.mark.parametrize("value", [0.0, 1e-3, 0.02, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("se", [0.0, 1e-9, 0.005, 0.3])
def test_the_interval_of_a_share_contains_it_and_lies_within_0_and_1(value: float, se: float) -> None:
    found = proportion_interval(value, se, 1000)
    assert 0 <= found.low <= value <= found.high <= 1
    assert found.high > found.low
