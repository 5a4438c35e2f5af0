"""KID, MIND, density and coverage of frozen features, against torch-fidelity and prdc."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from dit_eval.diagnostics.recorded.features import features
from dit_eval.metrics.density_coverage import density_coverage
from dit_eval.metrics.kid import kernel_distance, subset_kernel_distances
from dit_eval.metrics.mind import monge_distance
from tests.recorded import GOLDEN


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    return json.loads((GOLDEN / "further_metrics.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def sets(numbers: dict[str, Any]) -> dict[str, np.ndarray]:
    inputs = numbers["inputs"]
    found = {which: features(n, inputs["dimension"], which) for which, n in inputs["n"].items()}
    digests = {
        which: hashlib.sha256(rows.astype("<f4").tobytes()).hexdigest() for which, rows in found.items()
    }
    assert digests == inputs["sha256"]
    return found


def test_kid_of_subsets_is_torch_fidelitys(numbers: dict[str, Any], sets: dict[str, np.ndarray]) -> None:
    found, recorded = subset_kernel_distances(sets["ref"], sets["samples"]), numbers["kid_subsets"]
    assert found.mean() == pytest.approx(recorded["float64"]["mean"], rel=1e-10)
    assert found.std() == pytest.approx(recorded["float64"]["std"], rel=1e-10)
    assert found.mean() == pytest.approx(recorded["float32"]["mean"], rel=1e-6)
    assert found.std() == pytest.approx(recorded["float32"]["std"], rel=2e-4)


def test_kid_over_all_pairs_is_torch_fidelitys_of_one_subset_that_is_everything(
    numbers: dict[str, Any], sets: dict[str, np.ndarray]
) -> None:
    reference = sets["ref"]
    found, recorded = kernel_distance(reference, sets["samples"][:1200]), numbers["kid_all_pairs_of_1200"]
    assert found.value == pytest.approx(recorded["float64"]["mean"], rel=1e-6)
    assert found.value == pytest.approx(recorded["float32"]["mean"], rel=5e-5)


@pytest.mark.parametrize("n", [1500, 1200, 1000], ids=["more samples", "as many", "fewer samples"])
def test_mind_is_torch_fidelitys(n: int, numbers: dict[str, Any], sets: dict[str, np.ndarray]) -> None:
    found = monge_distance(sets["ref"], sets["samples"][:n])
    assert found.value == pytest.approx(numbers["mind"][f"{n} samples"], rel=1e-6)


def test_density_and_coverage_are_prdcs(numbers: dict[str, Any], sets: dict[str, np.ndarray]) -> None:
    recorded = numbers["prdc"]
    found = density_coverage(sets["ref"], sets["samples"], recorded["k"])
    assert found.density == pytest.approx(recorded["density"], abs=1e-12)
    assert found.coverage == pytest.approx(recorded["coverage"], abs=1e-12)
