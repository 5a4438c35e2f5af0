"""FID∞ of Gaussian features whose distance is known, and its row in a result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dit_eval.cli import main
from dit_eval.errors import StatisticsError
from dit_eval.evaluation.metric_table import with_optional
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.io import assets
from dit_eval.io.npz import members, write_npz
from dit_eval.metrics.fid_infinity import extrapolated_distance, subset_sizes
from dit_eval.metrics.frechet import frechet_distance, frechet_influence
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.results.result import Result, read_result

D = 48
ROOT = np.random.default_rng(7).normal(size=(D, D)) / np.sqrt(D) + 0.5 * np.eye(D)
REFERENCE = Gaussian(np.zeros(D), ROOT @ ROOT.T)
TRUTH = frechet_distance(Gaussian(np.full(D, 0.1), 1.1**2 * REFERENCE.covariance), REFERENCE)


def features(n: int, seed: int) -> np.ndarray:
    return 0.1 + 1.1 * np.random.default_rng(seed).normal(size=(n, D)) @ ROOT.T


def distance(x: np.ndarray) -> float:
    moments = Moments(D)
    moments.update(x)
    return frechet_distance(moments.gaussian(), REFERENCE)


def extrapolated(x: np.ndarray) -> float:
    return extrapolated_distance(x, REFERENCE, np.zeros(len(x)))[0]


def test_the_intercept_has_a_tenth_of_the_bias_of_the_distance_at_n() -> None:
    runs = [(distance(x), extrapolated(x)) for x in (features(480, seed) for seed in range(60))]
    at_n, at_infinity = np.mean(runs, axis=0) - TRUTH
    assert at_n > 0.2 * TRUTH
    assert abs(at_infinity) < at_n / 10


def test_the_bias_of_the_distance_falls_as_1_over_n() -> None:
    small, large = (np.mean([distance(features(n, seed)) for seed in range(40)]) for n in (480, 1920))
    assert (small - TRUTH) / (large - TRUTH) == pytest.approx(4, rel=0.15)


def test_the_same_features_have_the_same_intercept_and_influences_of_mean_0() -> None:
    x = features(300, 0)
    moments = Moments(D)
    moments.update(x)
    phi = frechet_influence(x, moments.gaussian(), REFERENCE)
    (first, influence), (second, repeated) = (extrapolated_distance(x, REFERENCE, phi) for _ in range(2))
    assert first == second
    assert (influence == repeated).all()
    assert influence.mean() == pytest.approx(0, abs=1e-9)
    assert influence.var() > phi.var()  # extrapolation adds noise


def test_fifteen_subsets_start_at_a_tenth_or_at_twice_the_dimension() -> None:
    sizes = subset_sizes(50_000, 2048)
    assert (len(sizes), sizes[0], sizes[-1]) == (15, 5000, 50_000)
    assert subset_sizes(10_000, 2048)[0] == 4096
    assert subset_sizes(8192, 2048)[-1] == 8192
    with pytest.raises(StatisticsError, match="at least 8,192 images for 2,048 features; found 8,191"):
        subset_sizes(8191, 2048)


def digits(path: Path, n: int) -> Path:
    real = members(assets.folder("reference_stats") / "digits.npz")["arr_0"].read()
    write_npz(path, {"arr_0": real[np.random.default_rng(0).permutation(len(real))[:n]]})
    return path


def measured(samples: Path, reference: str | Path = "digits", *, fid_infinity: bool) -> Result:
    metrics = with_optional(["fid_infinity"]) if fid_infinity else None
    result = evaluate(samples, reference, protocol="digits", device="cpu", metrics=metrics)
    assert result is not None
    return result


def test_a_result_has_it_beside_fid_when_asked_and_every_other_number_as_without(tmp_path: Path) -> None:
    samples = digits(tmp_path / "b.npz", 300)
    without, extended = (measured(samples, fid_infinity=flag) for flag in (False, True))
    assert "fid_infinity" not in {*without.metrics, *without.missing}
    assert {
        name: value for name, value in extended.metrics.items() if name != "fid_infinity"
    } == without.metrics
    assert extended.fingerprint == without.fingerprint
    assert extended.metrics["fid_infinity"] < extended.metrics["fid"]
    assert extended.intervals["fid_infinity"]["se"] > extended.intervals["fid"]["se"]
    assert "FID∞" in extended.table()
    assert max(map(len, extended.table(width=80).splitlines())) <= 80


def test_too_few_images_and_a_reference_without_statistics_have_none_for_a_reason(tmp_path: Path) -> None:
    few = measured(digits(tmp_path / "few.npz", 255), fid_infinity=True)
    assert few.missing["fid_infinity"] == "FID∞ needs at least 256 images for 64 features; found 255"
    arrays = members(assets.folder("reference_stats") / "digits.npz")
    write_npz(tmp_path / "bare.npz", {name: arrays[name].read() for name in ("mu_s", "sigma_s")})
    bare = measured(digits(tmp_path / "b.npz", 300), tmp_path / "bare.npz", fid_infinity=True)
    assert bare.missing["fid_infinity"] == bare.missing["fid"]


def test_the_command_writes_it_on_request(tmp_path: Path) -> None:
    samples, out = digits(tmp_path / "b.npz", 300), tmp_path / "result.json"
    arguments = ["fid", str(samples), "digits", "--json", str(out), "--metric", "fid_infinity"]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert "FID∞" in done.stdout
    assert "fid_infinity" in read_result(out).metrics
