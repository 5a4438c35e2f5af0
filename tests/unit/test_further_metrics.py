"""KID, density, coverage, MIND and FDr against closed forms, float64 and direct definitions."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import gamma

from dit_eval.errors import StatisticsError
from dit_eval.metrics.density_coverage import DensityCoverage, density_coverage
from dit_eval.metrics.fd_ratio import (
    PUBLISHED,
    FrechetRatio,
    Normaliser,
    frechet_ratio,
    mean_ratio,
    split_by_training,
)
from dit_eval.metrics.frechet import frechet_distance, frechet_influence
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.metrics.intervals import standard_error
from dit_eval.metrics.kid import kernel_distance, subset_kernel_distances
from dit_eval.metrics.mind import monge_distance
from tests.fake_cuda import fake_cuda


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def integers(seed: int, *shape: int) -> np.ndarray:
    """Features whose products and distances are exact in float32."""
    return np.random.default_rng(seed).integers(-500, 500, shape).astype(np.float32)


# KID


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x.astype(np.float64) @ y.T.astype(np.float64) / x.shape[1] + 1) ** 3


def mean_off_diagonal(matrix: np.ndarray) -> float:
    n = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (n * (n - 1)))


def direct_kid(reference: np.ndarray, samples: np.ndarray) -> float:
    own = mean_off_diagonal(kernel(samples, samples)) + mean_off_diagonal(kernel(reference, reference))
    return own - 2 * float(kernel(samples, reference).mean())


def test_kid_and_its_error_are_those_of_all_pairs_also_in_several_blocks() -> None:
    """Of samples like the reference, where the error depends on squares of the kernel."""
    reference, samples = normal(0, 2100, 8), normal(1, 2050, 8)
    found, n = kernel_distance(reference, samples), len(samples)
    assert found.value == pytest.approx(direct_kid(reference, samples), rel=1e-6)
    across = kernel(samples, reference).mean(axis=1)
    h = kernel(samples, samples) - across[:, None] - across
    np.fill_diagonal(h, 0)
    stars, squares = (h.sum(axis=1) ** 2).sum(), (h**2).sum()
    disjoint = h.sum() ** 2 - 4 * stars + 2 * squares  # over four different samples
    variance = mean_off_diagonal(h) ** 2 - disjoint / (n * (n - 1) * (n - 2) * (n - 3))
    assert found.standard_error == pytest.approx(np.sqrt(variance), rel=1e-5)


def mean_cubed_product(a: Gaussian, b: Gaussian) -> float:
    """E[(x·y/D + 1)³] of independent x and y, from their moments up to the third."""

    def third(g: Gaussian) -> np.ndarray:
        mean, covariance = g.mean, g.covariance
        mixed = np.einsum("i,jk->ijk", mean, covariance)
        return (
            np.einsum("i,j,k->ijk", mean, mean, mean)
            + mixed
            + mixed.transpose(1, 0, 2)
            + mixed.transpose(1, 2, 0)
        )

    dimension = len(a.mean)
    second = [g.covariance + np.outer(g.mean, g.mean) for g in (a, b)]
    return (
        float((third(a) * third(b)).sum()) / dimension**3
        + 3 * float((second[0] * second[1]).sum()) / dimension**2
        + 3 * float(a.mean @ b.mean) / dimension
        + 1
    )


def test_kid_of_two_gaussians_is_that_of_their_moments() -> None:
    """Over 400 pairs of small sets, to three standard errors: the estimate has no bias."""
    root = np.array([[1.0, 0.0, 0.0], [0.5, 0.8, 0.0], [-0.3, 0.2, 1.1]])
    a, b = Gaussian(np.array([0.5, -0.2, 0.1]), root @ root.T), Gaussian(np.zeros(3), np.eye(3))
    expected = mean_cubed_product(a, a) + mean_cubed_product(b, b) - 2 * mean_cubed_product(a, b)
    found = np.array(
        [
            kernel_distance(
                normal(2 * i, 25, 3), (a.mean + normal(2 * i + 1, 20, 3) @ root.T).astype(np.float32)
            ).value
            for i in range(400)
        ]
    )
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - expected) < 3 * error
    assert error < 0.1 * expected


def test_the_influence_on_kid_is_what_it_loses_without_the_sample() -> None:
    """n - 1 times the loss differs from the derivative by the factor (n - 1)/(n - 2) of the pairs."""
    reference, samples = normal(0, 50, 4), 1.3 * normal(1, 40, 4)
    n, found = len(samples), kernel_distance(reference, samples)
    left_out = np.array([direct_kid(reference, np.delete(samples, i, axis=0)) for i in range(n)])
    losses = (n - 1) * (direct_kid(reference, samples) - left_out)
    across = 2 * kernel(samples, reference).mean(axis=1)
    pairs = (losses + across) * (n - 2) / (n - 1)
    expected = pairs - across
    np.testing.assert_allclose(found.influence, expected - expected.mean(), rtol=1e-4, atol=1e-5)


def test_the_variance_of_kid_is_that_of_a_u_statistic_without_bias() -> None:
    """U² minus the mean of h(a, b)·h(c, d) over all disjoint pairs of 7 samples."""
    reference, samples = normal(0, 30, 2), normal(1, 7, 2) + np.float32(1)
    across = kernel(samples, reference).mean(axis=1)
    h = kernel(samples, samples) - across[:, None] - across[None]
    disjoint = np.mean([h[a, b] * h[c, d] for a, b, c, d in permutations(range(7), 4)])
    expected = mean_off_diagonal(h) ** 2 - disjoint
    assert expected > 0
    assert kernel_distance(reference, samples).standard_error == pytest.approx(np.sqrt(expected), rel=1e-4)


def test_kid_of_equal_images_has_no_error() -> None:
    samples = np.ones((5, 4), np.float32)
    found = kernel_distance(samples[:2], samples)
    assert (found.value, found.standard_error) == (0, 0)
    assert (found.influence == 0).all()


@pytest.mark.parametrize(("n", "m"), [(3, 9), (9, 1)])
def test_kid_of_too_few_images_is_refused(n: int, m: int) -> None:
    with pytest.raises(StatisticsError, match=f"found {n} and {m}"):
        kernel_distance(normal(0, m, 2), normal(1, n, 2))


def test_kid_of_subsets_needs_a_thousand_images_on_each_side() -> None:
    with pytest.raises(StatisticsError, match=r"1,000 images from each side; reference: 999"):
        subset_kernel_distances(normal(0, 999, 2), normal(1, 1000, 2))


# Density and coverage


def test_copies_of_the_reference_have_density_1_and_coverage_1() -> None:
    """A ball holds its centre and the k - 1 nearer neighbours; the k-th lies on its boundary."""
    reference = integers(0, 200, 3)
    for copies in (1, 3):
        found = density_coverage(reference, np.repeat(reference, copies, axis=0))
        assert (found.density, found.coverage) == (1, 1)


def test_samples_far_away_have_density_0_coverage_0_and_no_error() -> None:
    found = density_coverage(normal(0, 50, 3), normal(1, 20, 3) + np.float32(100))
    assert (found.density, found.coverage, found.coverage_error()) == (0, 0, 0)


def inside_balls(reference: np.ndarray, samples: np.ndarray, k: int) -> np.ndarray:
    """Whether each ball contains each sample, (N, M), by the definition in float64."""

    def squared_distances(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        u, v = u.astype(np.float64), v.astype(np.float64)
        return (u * u).sum(axis=1)[:, None] + (v * v).sum(axis=1) - 2 * u @ v.T

    radii = np.sort(squared_distances(reference, reference), axis=1)[:, k]
    return squared_distances(reference, samples) < radii[:, None]


@pytest.mark.parametrize(("n", "m", "k"), [(60, 40, 5), (2100, 2050, 3)])
def test_counts_in_balls_are_those_of_the_definition(n: int, m: int, k: int) -> None:
    reference, samples = integers(0, n, 3), integers(1, m, 3)
    inside, found = inside_balls(reference, samples, k), density_coverage(reference, samples, k)
    np.testing.assert_array_equal(found.balls, inside.sum(axis=0))
    np.testing.assert_array_equal(found.samples, inside.sum(axis=1))
    np.testing.assert_array_equal(found.alone, inside[inside.sum(axis=1) == 1].sum(axis=0))
    assert found.density == pytest.approx(inside.sum() / (m * k))


def test_the_influence_on_coverage_is_what_it_loses_without_the_sample() -> None:
    reference, samples = integers(0, 80, 3), integers(1, 30, 3)
    found = density_coverage(reference, samples)
    left_out = [density_coverage(reference, np.delete(samples, i, axis=0)).coverage for i in range(30)]
    losses = 29 * (found.coverage - np.array(left_out))
    np.testing.assert_allclose(found.coverage_influence(), losses - losses.mean(), atol=1e-12)


@pytest.mark.parametrize(("mean", "shape"), [(5.0, 5.0), (0.7, 0.4), (3.0, None)])
def test_the_error_of_coverage_replaces_the_part_of_single_balls(mean: float, shape: float | None) -> None:
    """Balls around which λ is gamma distributed with this shape, or the same for all."""
    if shape is None:
        ratio = (1 - np.exp(-mean)) / mean
        counts = np.array([2, 4] * 50)  # vary less than a Poisson distribution
    else:
        scale = mean / shape
        parts = [
            quad(lambda x, f=f: f(x) * gamma.pdf(x, shape, scale=scale), 0, np.inf)[0]
            for f in (lambda x: np.exp(-x) * (1 - np.exp(-x)), lambda x: x * np.exp(-x))
        ]
        ratio = parts[0] / parts[1]
        deviation = np.sqrt(mean + mean**2 / shape)
        counts = mean + deviation * np.array([-1, 1] * 50)  # mean and variance are those of the counts
    alone = np.array([1, 0, 2, 0, 0, 3, 0, 0, 1, 0] * 5)
    found = DensityCoverage(np.zeros(50), alone, counts, k=5)
    jackknife = 49 / 50 * ((alone - alone.mean()) ** 2).sum() / 100**2
    expected = jackknife - (1 - ratio) * alone.sum() / 100**2
    assert found.coverage_error() == pytest.approx(np.sqrt(expected), rel=1e-5)


def test_density_and_coverage_of_too_few_images_are_refused() -> None:
    with pytest.raises(StatisticsError, match="at least 6 reference images"):
        density_coverage(normal(0, 5, 2), normal(1, 9, 2))


# MIND


def directions(dimension: int) -> np.ndarray:
    """Those for sets of equal size, from which nothing is drawn before them."""
    u = torch.randn(1000, dimension, generator=torch.Generator().manual_seed(2020)).double().numpy()
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def test_mind_of_a_set_and_itself_in_another_order_is_0() -> None:
    samples = integers(0, 100, 4)
    assert monge_distance(samples, samples).value == 0
    assert monge_distance(samples, samples[::-1].copy()).value == pytest.approx(0, abs=1e-6)


def test_mind_of_a_shifted_set_is_three_times_the_squared_shift() -> None:
    """Exactly so in the mean over all directions; those that are drawn give the mean of theirs."""
    samples, shift = integers(0, 60, 16) / 64, np.arange(16, dtype=np.float32) / 8
    found = monge_distance(samples, samples + shift).value
    assert found == pytest.approx(48 * ((directions(16) @ shift) ** 2).mean(), rel=1e-5)
    assert found == pytest.approx(3 * (shift @ shift), rel=0.15)  # 3.3 deviations of 1,000 directions


def test_mind_of_a_stretched_set_is_a_mean_of_squared_projections() -> None:
    samples = normal(0, 80, 5)
    expected = 15 * 0.25 * ((samples @ directions(5).T) ** 2).mean()
    assert monge_distance(samples, np.float32(1.5) * samples).value == pytest.approx(expected, rel=1e-5)


def weighted_mind(reference: np.ndarray, samples: np.ndarray, weights: np.ndarray, u: np.ndarray) -> float:
    """MIND in the directions u where sample i has a weight of its own, by quantile functions."""
    total = 0.0
    levels_reference = np.arange(1, len(reference) + 1) / len(reference)
    for x, y in zip(u @ samples.T, u @ reference.T, strict=True):
        order = np.argsort(x)
        levels = np.cumsum(weights[order])
        ends = np.sort(np.concatenate([[0], levels, levels_reference]))
        middles = (ends[1:] + ends[:-1]) / 2
        at = [
            values[np.minimum(np.searchsorted(steps, middles), len(values) - 1)]
            for values, steps in ((x[order], levels), (np.sort(y), levels_reference))
        ]
        total += np.diff(ends) @ (at[0] - at[1]) ** 2
    return 3 * samples.shape[1] * total / len(u)


def derivative_of_mind(reference: np.ndarray, samples: np.ndarray, image: int, u: np.ndarray) -> float:
    """That by the weight of a sample: the mean of both one-sided ones, which differ for a finite set."""
    n, step = len(samples), 1e-5
    above, below = (
        weighted_mind(reference, samples, (1 - h) * np.full(n, 1 / n) + h * np.eye(n)[image], u)
        for h in (step, -step)
    )
    return (above - below) / (2 * step)


def test_the_influence_on_mind_is_the_derivative_by_a_samples_weight() -> None:
    reference, samples = normal(0, 12, 3), 1.4 * normal(1, 12, 3)
    influence = monge_distance(reference, samples).influence
    for image in (0, 7):
        expected = derivative_of_mind(reference, samples, image, directions(3))
        assert influence[image] == pytest.approx(expected, rel=1e-3)
    assert influence.mean() == pytest.approx(0, abs=1e-12)


def test_of_more_samples_than_reference_images_as_many_are_used_and_weigh_more() -> None:
    reference, samples = normal(0, 12, 3), 1.4 * normal(1, 30, 3)
    found = monge_distance(reference, samples)
    random = torch.Generator().manual_seed(2020)
    used = torch.randperm(30, generator=random)[:12].numpy()
    assert found.n == 12
    assert set(np.flatnonzero(found.influence)) == set(used.tolist())
    u = torch.randn(1000, 3, generator=random).double().numpy()
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    expected = derivative_of_mind(reference, samples[used], 5, u)
    assert found.influence[used[5]] == pytest.approx(expected * 30 / 12, rel=1e-3)


def test_mind_of_one_image_is_refused() -> None:
    with pytest.raises(StatisticsError, match="at least 2 images"):
        monge_distance(normal(0, 1, 3), normal(1, 5, 3))


# FDr


def gaussian(features: np.ndarray) -> Gaussian:
    moments = Moments(features.shape[1])
    moments.update(features)
    return moments.gaussian()


def test_the_ratio_of_the_validation_images_is_1() -> None:
    train, validation = gaussian(normal(0, 300, 4)), normal(1, 200, 4)
    own = gaussian(validation)
    distance = frechet_distance(own, train)
    influence = frechet_influence(validation, own, train)
    found = frechet_ratio(distance, influence, Normaliser(distance))
    assert (found.value, found.rounding) == (1, 0)
    assert found.standard_error() == pytest.approx(standard_error(influence) / distance)


def test_the_digits_of_a_printed_normaliser_limit_what_is_known_of_the_ratio() -> None:
    """0.04 is between 0.035 and 0.045, with the deviation of a uniform distribution."""
    found = frechet_ratio(0.12, np.zeros(9), PUBLISHED["mae"])
    assert found.value == pytest.approx(3)
    assert found.standard_error() == pytest.approx(3 * 0.125 / np.sqrt(3))
    assert {normaliser.half_unit for normaliser in PUBLISHED.values()} == {0.005}
    assert Normaliser.printed("12") == Normaliser(12.0, 0.5)


def test_influences_add_up_over_spaces_and_digits_do_not() -> None:
    influence = np.array([1.0, -1.0, 2.0, -2.0])
    same = FrechetRatio(2.0, influence, 0.3)
    opposite = FrechetRatio(4.0, -influence, 0.4)
    mean = mean_ratio([same, opposite])
    assert (mean.value, mean.standard_error()) == pytest.approx((3.0, 0.25))
    assert mean_ratio([same, same]).standard_error() == pytest.approx(
        np.hypot(standard_error(influence), 0.3 / np.sqrt(2))
    )


def test_spaces_that_a_model_was_trained_on_are_told_from_the_others() -> None:
    ratios = {space: FrechetRatio(i, np.zeros(2), 0.0) for i, space in enumerate(PUBLISHED)}
    trained, held_out = split_by_training(ratios, {"dinov2", "mae"})
    assert list(trained) == ["dinov2", "mae"]
    assert list(held_out) == ["inception", "convnext", "siglip2", "clip"]
    assert mean_ratio(trained.values()).value == 2.5
    with pytest.raises(StatisticsError, match="in the space vgg"):
        split_by_training(ratios, ["vgg"])


def test_a_ratio_without_a_usable_normaliser_is_refused() -> None:
    with pytest.raises(StatisticsError, match=r"0 ± 0.005 may be 0"):
        frechet_ratio(1.0, np.zeros(2), Normaliser.printed("0.00"))
    with pytest.raises(StatisticsError, match="at least one space"):
        mean_ratio([])


# All of them


FUNCTIONS: dict[str, Any] = {
    "kernel_distance": kernel_distance,
    "subset_kernel_distances": subset_kernel_distances,
    "density_coverage": density_coverage,
    "monge_distance": monge_distance,
}
functions = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@functions
@pytest.mark.parametrize("side", [0, 1])
def test_features_that_are_not_finite_are_refused(function: Any, side: int) -> None:
    sets = normal(0, 1000, 2), normal(1, 1000, 2)
    sets[side][7] = np.nan
    with pytest.raises(StatisticsError, match="NaN"):
        function(*sets)


@pytest.mark.parametrize("name", ["kernel_distance", "density_coverage"])
def test_the_host_waits_a_few_times_however_many_blocks_there_are(name: str) -> None:
    def waits(n: int) -> int:
        reference, samples = normal(0, n, 2), normal(1, n, 2)
        with fake_cuda() as calls:
            FUNCTIONS[name](reference, samples, device="cuda")
        return len(calls.synchronising)

    assert waits(4100) == waits(100) <= 12


def test_mind_is_computed_on_the_device_without_waiting_between_blocks() -> None:
    reference, samples = normal(0, 100, 2), normal(1, 90, 2)
    with fake_cuda() as calls:
        monge_distance(reference, samples, device="cuda")
    assert calls.operators.count("sort") == 2 * 20
    assert len(calls.synchronising) <= 5
