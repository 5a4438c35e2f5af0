"""KID, MIND, density and coverage on a CUDA device: the recorded numbers, also where TF32 is on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dit_eval.metrics.density_coverage import density_coverage
from dit_eval.metrics.kid import kernel_distance, subset_kernel_distances
from dit_eval.metrics.mind import monge_distance
from tests.cuda.test_evaluation import ambient_precision
from tests.oracle.test_further_metrics_golden import numbers, sets

__all__ = ["numbers", "sets"]  # fixtures


def test_kid_is_torch_fidelitys(numbers: dict[str, Any], sets: dict[str, np.ndarray]) -> None:
    reference, samples, recorded = sets["ref"], sets["samples"], numbers["kid_all_pairs_of_1200"]
    with ambient_precision():
        found = kernel_distance(reference, samples[:1200], "cuda")
        subsets = subset_kernel_distances(reference, samples, "cuda")
    on_cpu = kernel_distance(reference, samples[:1200])
    assert found.value == pytest.approx(recorded["float64"]["mean"], rel=1e-6)
    assert found.standard_error == pytest.approx(on_cpu.standard_error, rel=1e-4)
    np.testing.assert_allclose(found.influence, on_cpu.influence, rtol=1e-4, atol=1e-6)
    assert subsets.mean() == pytest.approx(numbers["kid_subsets"]["float64"]["mean"], rel=1e-9)
    assert subsets.std() == pytest.approx(numbers["kid_subsets"]["float64"]["std"], rel=1e-9)


@pytest.mark.parametrize("n", [1500, 1200, 1000])
def test_mind_is_torch_fidelitys(n: int, numbers: dict[str, Any], sets: dict[str, np.ndarray]) -> None:
    with ambient_precision():
        found = monge_distance(sets["ref"], sets["samples"][:n], "cuda")
    on_cpu = monge_distance(sets["ref"], sets["samples"][:n])
    assert found.value == pytest.approx(numbers["mind"][f"{n} samples"], rel=1e-6)
    np.testing.assert_allclose(found.influence, on_cpu.influence, rtol=1e-4, atol=1e-4)


def test_density_and_coverage_are_prdcs_to_one_image(
    numbers: dict[str, Any], sets: dict[str, np.ndarray]
) -> None:
    recorded = numbers["prdc"]
    with ambient_precision():
        found = density_coverage(sets["ref"], sets["samples"], recorded["k"], "cuda")
    assert found.coverage == pytest.approx(recorded["coverage"], abs=1.001 / 1200)
    assert found.density == pytest.approx(recorded["density"], abs=1.001 / (1500 * recorded["k"]))
