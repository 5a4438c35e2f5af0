"""KID, density, coverage and MIND in results, and networks without spatial features or classes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dit_eval
from dit_eval.errors import UsageError
from dit_eval.evaluation.metric_table import with_optional
from dit_eval.evaluation.pipeline import make_reference
from dit_eval.evaluation.references import open_reference
from dit_eval.features import extractor
from dit_eval.features.digits import DigitsNetwork
from dit_eval.features.network import Activations, read_weights
from dit_eval.metrics.density_coverage import density_coverage
from dit_eval.metrics.kid import kernel_distance, subset_kernel_distances
from dit_eval.metrics.mind import monge_distance
from dit_eval.results.metric_names import ADM, bounds
from dit_eval.results.result import Result
from tests.command import dit_eval as run_command

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)


def measured(samples: Any, *names: str, reference: str | Path = "digits") -> Result:
    result = dit_eval.evaluate(
        samples, reference, device="cpu", protocol="digits", metrics=with_optional(names), cache=False
    )
    assert result is not None
    return result


def features(images: np.ndarray) -> np.ndarray:
    from dit_eval.evaluation.extraction import load_extraction

    return load_extraction("digits", device="cpu").extractor(images).pool


def test_metrics_of_a_result_are_those_of_its_features(tmp_path: Path) -> None:
    reference = np.random.default_rng(1).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "ref.npz", reference)
    result = measured(IMAGES, "kid", "density", "coverage", "mind", reference=tmp_path / "ref.npz")
    sides = features(reference), features(IMAGES)
    counts = density_coverage(*sides)
    assert result.metrics["kid"] == pytest.approx(kernel_distance(*sides).value, rel=1e-6)
    assert result.metrics["mind"] == pytest.approx(monge_distance(*sides).value, rel=1e-6)
    assert (result.metrics["density"], result.metrics["coverage"]) == (counts.density, counts.coverage)
    assert {"kid", "density", "coverage", "mind"} <= result.intervals.keys() & result.influence.keys()
    for name, ends in result.intervals.items():
        low, high = bounds(name)
        assert low <= ends["low"] <= result.metrics[name] <= ends["high"] <= high
    assert "1,000" in result.missing["kid_subsets"]
    assert "KID" in result.table()


def test_subsets_of_torch_fidelity_stand_beside_kid() -> None:
    images = np.random.default_rng(2).integers(0, 256, (1000, 8, 8, 3), dtype=np.uint8)
    result = measured(images, "kid")
    stored = open_reference("digits").images
    assert stored is not None
    reference = features(np.concatenate(list(stored.blocks(2000))))
    expected = subset_kernel_distances(reference, features(images))
    assert result.metrics["kid_subsets"] == pytest.approx(float(expected.mean()), rel=1e-6)
    (deviation,) = re.findall(r"deviation is ([\d.]+)", result.measured_against["kid_subsets"])
    assert float(deviation) == pytest.approx(float(expected.std()), rel=1e-5)


def test_without_asking_there_are_adms_five_and_nothing_else_changes() -> None:
    plain, extended = measured(IMAGES), measured(IMAGES, "kid", "mind")
    assert {name for name in extended.metrics if name not in plain.metrics} == {"kid", "mind"}
    assert {name: extended.metrics[name] for name in plain.metrics} == dict(plain.metrics)
    assert list(plain.metrics) == [name for name in extended.metrics if name in plain.metrics]
    with pytest.raises(UsageError, match="unknown further metric 'fvd'"):
        measured(IMAGES, "fvd")


def test_statistics_alone_leave_them_missing_for_a_reason(tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", mu=np.zeros(64), sigma=np.eye(64))
    result = measured(IMAGES, "kid", "density", "coverage", "mind", reference=tmp_path / "ref.npz")
    for name in ("kid", "density", "coverage", "mind"):
        assert result.missing[name] == "the reference has statistics only; this metric needs reference images"


def test_check_gates_them_like_the_others(tmp_path: Path) -> None:
    np.savez(tmp_path / "batch.npz", IMAGES)
    np.savez(tmp_path / "dark.npz", IMAGES // 4)
    for name in ("batch", "dark"):
        arguments = ("fid", tmp_path / f"{name}.npz", "digits", "--protocol", "digits", "--metric", "kid")
        ran = run_command(*arguments, "--json", tmp_path / f"{name}.json")
        assert ran.returncode == 0, ran.stderr
    check = ("check", tmp_path / "dark.json", "--baseline", tmp_path / "batch.json")
    ran = run_command(*check)
    assert ran.returncode == 1, ran.stderr
    assert "KID" in ran.stdout


class PoolOnly(DigitsNetwork):
    """The digits' network as an encoder: pool features alone."""

    dimensions = (64, 0, 0)

    def forward(self, x: torch.Tensor) -> Activations:
        outputs = super().forward(x)
        nothing = outputs.pool[:, :0]
        return Activations(outputs.pool, nothing, nothing)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: Path) -> PoolOnly:
        network = PoolOnly()
        network.load_state_dict(read_weights(path))
        return network.eval()

    monkeypatch.setitem(extractor.NETWORKS, "digits", load)


@pytest.mark.usefixtures("encoder")
@pytest.mark.parametrize("cache", [False, True])
def test_a_network_of_pool_features_alone_has_no_sfid_and_no_inception_score(
    tmp_path: Path, cache: bool
) -> None:
    np.savez(tmp_path / "batch.npz", IMAGES)
    made = make_reference(tmp_path / "batch.npz", tmp_path / "ref.npz", protocol="digits", device="cpu")
    with np.load(made) as arrays:
        assert "mu_s" not in arrays.files
        assert arrays["mu"].shape == (64,)
    for _ in range(1 + cache):
        result = dit_eval.evaluate(tmp_path / "batch.npz", made, device="cpu", cache=cache)
        assert result is not None
        assert {*result.metrics} & {*ADM} == {"fid", "precision", "recall"}
        assert "has no spatial features" in result.missing["sfid"]
        assert "has no classes" in result.missing["inception_score"]
        assert result.metrics["fid"] == pytest.approx(0, abs=1e-6)


@pytest.mark.usefixtures("encoder")
def test_an_evaluator_takes_such_a_network_too(tmp_path: Path) -> None:
    with dit_eval.Evaluator("digits", device="cpu", protocol="digits", metrics=["fid"]) as evaluator:
        for start in (32, 0):
            evaluator.update_at(IMAGES[start : start + 28], start, None)
        assert evaluator.compute().metrics["fid"] > 0
