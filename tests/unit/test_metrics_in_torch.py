"""What the metrics compute with torch on a CUDA device, on a CPU: the numbers of NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dit_eval.metrics import fid_infinity, frechet, gaussian, inception_score
from dit_eval.metrics.frechet import frechet_distance, frechet_influence
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.metrics.gaussian_cuda import DeviceMoments
from dit_eval.metrics.inception_score import score_influence, score_sums
from dit_eval.metrics.linalg import linalg_on
from dit_eval.metrics.linalg_cuda import linalg_on_cuda

RNG = np.random.default_rng(5)
D = 60


@pytest.fixture
def on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "torch" as a device name: torch's functions, on the CPU."""
    for module in (frechet, gaussian, inception_score):
        monkeypatch.setattr(
            module, "linalg_on", lambda name: linalg_on_cuda("cpu") if name == "torch" else linalg_on(name)
        )
    monkeypatch.setattr(
        fid_infinity,
        "moments_on",
        lambda name, d: DeviceMoments(d, "cpu") if name == "torch" else gaussian.moments_on(name, d),
    )


def features(n: int, shift: float = 0.0) -> np.ndarray:
    """Correlated, with a spectrum of four decades."""
    spread = np.logspace(-2, 0, D)
    mixing = np.linalg.qr(np.random.default_rng(1).standard_normal((D, D)))[0]
    return ((RNG.standard_normal((n, D)) * spread) @ mixing + shift).astype(np.float32)


def moments_of(rows: np.ndarray) -> Gaussian:
    moments = Moments(rows.shape[1])
    moments.update(rows)
    return moments.gaussian()


SIZES = pytest.mark.parametrize(
    ("m", "n"),
    [(500, 700), (30, 700), (700, 30), (30, 40)],
    ids=["full rank", "samples", "reference", "both"],
)


@SIZES
@pytest.mark.usefixtures("on_torch")
def test_distances_agree_to_1e_10_also_where_the_rank_is_not_full(m: int, n: int) -> None:
    a, b = moments_of(features(m)), moments_of(features(n, 0.05))
    assert frechet_distance(a, b, "torch") == pytest.approx(frechet_distance(a, b), rel=1e-10)
    assert frechet_distance(a, a, "torch") == pytest.approx(0, abs=1e-9)


@SIZES
@pytest.mark.usefixtures("on_torch")
def test_influences_on_the_distance_agree(m: int, n: int) -> None:
    """Roots of eigenvalues that would be 0 are the roots of rounding errors, about 1e-8 each."""
    rows = features(m)
    a, b = moments_of(rows), moments_of(features(n, 0.05))
    expected = frechet_influence(rows, a, b)
    scale = np.abs(expected).max() * (1e-9 if n > D else 1e-6)
    np.testing.assert_allclose(frechet_influence(rows, a, b, "torch"), expected, rtol=0, atol=scale)


@pytest.mark.usefixtures("on_torch")
def test_a_constant_side_has_no_null_space_to_factor() -> None:
    a, constant = moments_of(features(500)), Gaussian(np.zeros(D), np.zeros((D, D)))
    assert frechet_distance(a, constant, "torch") == pytest.approx(frechet_distance(a, constant), rel=1e-12)
    assert frechet_distance(constant, a, "torch") == pytest.approx(frechet_distance(a, constant), rel=1e-12)


@pytest.mark.usefixtures("on_torch")
def test_the_extrapolated_distance_agrees() -> None:
    rows, reference = features(600), moments_of(features(700, 0.05))
    phi = frechet_influence(rows, moments_of(rows), reference)
    (found, influence), (value, expected) = (
        fid_infinity.extrapolated_distance(rows, reference, phi, device) for device in ("torch", "cpu")
    )
    assert found == pytest.approx(value, rel=1e-9)
    np.testing.assert_array_equal(influence, expected)


@pytest.mark.parametrize("batch", [1, 64, 1024, 3000])
def test_moments_on_a_device_are_those_of_the_cpu(batch: int) -> None:
    rows, moments = features(3000), DeviceMoments(D, "cpu")
    for start in range(0, 3000, batch):
        moments.update(torch.from_numpy(rows[start : start + batch]))
    found, expected = moments.gaussian(), moments_of(rows)
    assert moments.n == 3000
    np.testing.assert_allclose(found.mean, expected.mean, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=0, atol=1e-14)


@pytest.mark.usefixtures("on_torch")
def test_sums_and_influences_of_the_inception_score_agree() -> None:
    logits = 30 * RNG.standard_normal((700, 10)).astype(np.float32)
    probabilities = torch.softmax(torch.from_numpy(logits), dim=1)
    assert (probabilities == 0).any()
    array = probabilities.numpy()
    np.testing.assert_allclose(score_sums(probabilities).numpy(), score_sums(array), rtol=1e-12)
    expected = score_influence(array, 300)
    np.testing.assert_allclose(score_influence(array, 300, "torch"), expected, rtol=1e-10, atol=1e-10)
