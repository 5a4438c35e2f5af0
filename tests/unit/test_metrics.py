"""The metrics against closed forms, float64 and direct definitions."""

from __future__ import annotations

import numpy as np
import pytest

from dit_eval.errors import StatisticsError
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.metrics.inception_score import InceptionScore
from dit_eval.metrics.precision_recall import precision_recall

RNG = np.random.default_rng(3)


def moments_of(features: np.ndarray) -> Moments:
    moments = Moments(features.shape[1])
    moments.update(features)
    return moments


def random_gaussian(dimension: int, rank: int) -> Gaussian:
    factor = RNG.standard_normal((dimension, rank))
    return Gaussian(RNG.standard_normal(dimension), factor @ factor.T)


# Moments


def test_moments_are_numpys_mean_and_covariance() -> None:
    features = RNG.standard_normal((2500, 20)).astype(np.float32) + 3
    gaussian = moments_of(features).gaussian()
    assert np.allclose(gaussian.mean, features.astype(np.float64).mean(0), rtol=1e-13)
    assert np.allclose(gaussian.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-11)


def test_moments_are_the_same_to_the_bit_for_every_batch_size() -> None:
    features = RNG.standard_normal((3000, 8)).astype(np.float32)
    whole = moments_of(features).gaussian()
    for rows in (1, 7, 1024, 2999):
        pieces = Moments(8)
        for start in range(0, 3000, rows):
            pieces.update(features[start : start + rows])
        assert (pieces.gaussian().covariance == whole.covariance).all()


def test_moments_of_two_parts_add_up() -> None:
    features = RNG.standard_normal((3000, 8)).astype(np.float32)
    first, second = moments_of(features[:1111]), moments_of(features[1111:])
    sums = [a + b for a, b in zip(first.sums(), second.sums(), strict=True)]
    found, whole = Moments.from_sums(3000, *sums).gaussian(), moments_of(features).gaussian()
    assert np.allclose(found.mean, whole.mean, rtol=1e-13)
    assert np.allclose(found.covariance, whole.covariance, rtol=1e-12)


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(StatisticsError, match="at least 2 images, found 1"):
        moments_of(np.zeros((1, 4), np.float32)).gaussian()


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (np.zeros(3), np.eye(4), "do not match"),
        (np.zeros((3, 1)), np.eye(3), "do not match"),
        (np.full(3, np.nan), np.eye(3), "NaN or infinity"),
        (np.zeros(3), np.full((3, 3), np.inf), "NaN or infinity"),
    ],
)
def test_statistics_of_wrong_shape_or_not_finite_are_refused(
    mean: np.ndarray, covariance: np.ndarray, message: str
) -> None:
    with pytest.raises(StatisticsError, match=message), np.errstate(invalid="ignore"):
        Gaussian(mean, covariance)


# Fréchet distance


def test_frechet_distance_of_shifted_twins_is_the_squared_shift() -> None:
    a = random_gaussian(30, 40)
    b = Gaussian(a.mean + 0.5, a.covariance)
    assert frechet_distance(a, b) == pytest.approx(30 * 0.25, rel=1e-10)


def test_frechet_distance_of_commuting_gaussians_is_the_closed_form() -> None:
    rotation = np.linalg.qr(RNG.standard_normal((25, 25)))[0]
    x, y = RNG.random(25) + 0.1, RNG.random(25) + 0.1
    a = Gaussian(np.zeros(25), rotation * x @ rotation.T)
    b = Gaussian(np.zeros(25), rotation * y @ rotation.T)
    assert frechet_distance(a, b) == pytest.approx(((np.sqrt(x) - np.sqrt(y)) ** 2).sum(), rel=1e-10)


@pytest.mark.parametrize(("rank_a", "rank_b"), [(40, 40), (10, 40), (40, 10), (10, 12)])
def test_frechet_distance_is_symmetric_and_the_nuclear_norm(rank_a: int, rank_b: int) -> None:
    x, y = RNG.standard_normal((30, rank_a)), RNG.standard_normal((30, rank_b))
    a, b = Gaussian(np.zeros(30), x @ x.T), Gaussian(np.zeros(30), y @ y.T)
    nuclear = np.linalg.svd(x.T @ y, compute_uv=False).sum()
    expected = (x**2).sum() + (y**2).sum() - 2 * nuclear
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-7)


def test_frechet_distance_to_a_constant_batch_is_finite() -> None:
    a = random_gaussian(10, 20)
    constant = Gaussian(a.mean, np.zeros((10, 10)))
    assert frechet_distance(a, constant) == pytest.approx(np.trace(a.covariance))
    assert frechet_distance(constant, a) == pytest.approx(np.trace(a.covariance))


def test_frechet_distance_of_different_networks_is_refused() -> None:
    with pytest.raises(StatisticsError, match="10 and 12 dimensions"):
        frechet_distance(random_gaussian(10, 20), random_gaussian(12, 20))


# Inception score


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return (p / p.sum(1, keepdims=True)).astype(np.float32)


def test_inception_score_is_1_for_equal_and_k_for_certain_and_balanced_predictions() -> None:
    equal, certain = InceptionScore(100), InceptionScore(100)
    equal.update(np.full((50, 8), 1 / 8, np.float32), 0)
    certain.update(np.eye(8, dtype=np.float32)[np.arange(80) % 8], 0)
    assert equal.in_file_order() == pytest.approx(1)
    assert certain.in_file_order() == pytest.approx(8)


def test_inception_score_takes_chunks_in_file_order_and_a_short_last_one_weighs_the_same() -> None:
    p = softmax(3 * RNG.standard_normal((23, 6)))
    expected = []
    for chunk in (p[:10], p[10:20], p[20:]):
        q = chunk.astype(np.float64)
        expected.append(np.exp((q * np.log(q / q.mean(0))).sum(1).mean()))
    for rows in (1, 4, 23):
        score = InceptionScore(10)
        for start in range(0, 23, rows):
            score.update(p[start : start + rows], start)
        assert score.in_file_order() == pytest.approx(np.mean(expected), rel=1e-12)


def test_the_order_free_score_ignores_the_order_that_moves_the_score_in_file_order() -> None:
    p = softmax(20 * np.eye(4)[np.arange(40) // 10] + RNG.standard_normal((40, 4)))
    scores = []
    for order in (np.arange(40), RNG.permutation(40)):
        score = InceptionScore(10)
        score.update(p[order], 0)
        scores.append(score)
    assert scores[0].order_free() == pytest.approx(scores[1].order_free(), rel=1e-12)
    assert scores[0].in_file_order() < 1.1 < 2 < scores[1].in_file_order()


# Precision and recall


def by_definition(reference: np.ndarray, samples: np.ndarray, k: int) -> tuple[float, float]:
    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return ((a[:, None].astype(np.float64) - b[None].astype(np.float64)) ** 2).sum(-1)

    def share_inside(points: np.ndarray, balls: np.ndarray) -> float:
        radii = np.sort(distances(balls, balls), axis=1)[:, k]
        return float((distances(points, balls) <= radii).any(1).mean())

    return share_inside(samples, reference), share_inside(reference, samples)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (50, 40), (2100, 700)])
def test_precision_and_recall_are_those_of_the_definition(n: int, m: int) -> None:
    reference = RNG.standard_normal((n, 6)).astype(np.float32)
    samples = (0.8 * RNG.standard_normal((m, 6)) + 0.3).astype(np.float32)
    found = precision_recall(reference, samples)
    assert (found.precision, found.recall) == pytest.approx(by_definition(reference, samples, 3), abs=1e-9)


def test_precision_and_recall_of_a_set_with_itself_are_1() -> None:
    points = RNG.standard_normal((300, 16)).astype(np.float32)
    for float16 in (False, True):
        found = precision_recall(points, points, float16=float16)
        assert (found.precision, found.recall) == (1, 1)


def test_swapping_the_sides_swaps_precision_and_recall() -> None:
    a = RNG.standard_normal((200, 6)).astype(np.float32)
    b = (0.5 * RNG.standard_normal((150, 6))).astype(np.float32)
    found, swapped = precision_recall(a, b), precision_recall(b, a)
    assert (found.precision, found.recall) == (swapped.recall, swapped.precision)


def test_three_images_are_too_few_for_k_3() -> None:
    with pytest.raises(StatisticsError, match=r"at least 4 images on each side.*samples: 3"):
        precision_recall(np.zeros((9, 2), np.float32), np.zeros((3, 2), np.float32))


def test_features_that_are_not_finite_are_refused() -> None:
    bad = np.full((5, 2), np.nan, np.float32)
    with pytest.raises(StatisticsError, match="features of the reference contain NaN"):
        precision_recall(bad, np.zeros((5, 2), np.float32))
