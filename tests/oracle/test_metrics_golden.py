"""The five numbers of frozen features, against the evaluator and against float64."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from dit_eval.diagnostics.recorded import features, inception_weights
from dit_eval.diagnostics.recorded.numbers import expected
from dit_eval.metrics.distances import Float16Points, Points, nearest_neighbours
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.metrics.inception_score import InceptionScore
from dit_eval.metrics.precision_recall import precision_recall
from tests.recorded import recorded

Case = tuple[dict[str, np.ndarray], dict[str, Any]]  # features, recorded numbers


@pytest.fixture(scope="module", params=expected()["evaluator_on_features"])
def case(request: pytest.FixtureRequest) -> Case:
    arrays, numbers = features.case(request.param), expected()["evaluator_on_features"][request.param]
    for name, sha256 in numbers["sha256"].items():
        assert hashlib.sha256(arrays[name].astype("<f4").tobytes()).hexdigest() == sha256
    return arrays, numbers | {"name": request.param}


def gaussian(rows: np.ndarray) -> Gaussian:
    moments = Moments(rows.shape[1])
    moments.update(rows)
    return moments.gaussian()


@pytest.mark.parametrize(("name", "kind"), [("fid", "pool"), ("sfid", "spatial")])
def test_frechet_distance_is_the_evaluators_and_exact_in_float64(case: Case, name: str, kind: str) -> None:
    arrays, numbers = case
    found = frechet_distance(gaussian(arrays[f"samples_{kind}"]), gaussian(arrays[f"ref_{kind}"]))
    rank_deficient = min(len(arrays["ref_pool"]), len(arrays["samples_pool"])) <= 2048
    assert found == pytest.approx(numbers["exact_float64"][name], rel=1e-10)
    assert found == pytest.approx(numbers["adm_evaluator"][name], rel=5e-6 if rank_deficient else 1e-6)


def test_precision_and_recall_are_exact_to_one_item(case: Case) -> None:
    arrays, numbers = case
    found = precision_recall(arrays["ref_pool"], arrays["samples_pool"])
    for kind in ("f32", "f64"):
        assert_within_one_item(found, numbers["precision_recall"][kind], arrays)


def test_float16_model_is_that_of_a_gpu_to_one_item(case: Case) -> None:
    arrays, numbers = case
    found = precision_recall(arrays["ref_pool"], arrays["samples_pool"], float16=True)
    assert_within_one_item(found, numbers["precision_recall"]["f16_f32acc"], arrays)


@pytest.mark.parametrize("side", ["ref", "samples"])
def test_radii_are_exact_and_in_float16_those_of_the_model(case: Case, side: str) -> None:
    """Also in blocks that fall back to float32. A hundredth may be one rounding step off in float16."""
    arrays, numbers = case
    rows, radii = torch.from_numpy(arrays[f"{side}_pool"]), recorded("knn_radii")
    exact = nearest_neighbours(Points(side, rows), 4).distances[:, 3].numpy()
    np.testing.assert_allclose(exact, radii[f"{numbers['name']}_{side}_f64"], rtol=2e-5)
    float16 = nearest_neighbours(Float16Points(side, rows), 4).distances[:, 3].numpy()
    near = np.isclose(float16, radii[f"{numbers['name']}_{side}_f16_f32acc"], rtol=2e-5, atol=0)
    assert near.mean() >= 0.99


def assert_within_one_item(found: Any, numbers: dict[str, float], arrays: dict[str, np.ndarray]) -> None:
    rounding = 1e-9
    assert abs(found.precision - numbers["precision"]) <= 1 / len(arrays["samples_pool"]) + rounding
    assert abs(found.recall - numbers["recall"]) <= 1 / len(arrays["ref_pool"]) + rounding


def test_inception_score_is_the_evaluators_where_it_has_one(case: Case) -> None:
    arrays, numbers = case
    logits = arrays["samples_pool"] @ inception_weights.build()["fc.weight"].T
    logits -= logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    score = InceptionScore(5000)
    score.update(probabilities, 0)
    assert score.in_file_order() == pytest.approx(numbers["exact_float64"]["inception_score"], rel=2e-6)
    evaluators = numbers["adm_evaluator"]["inception_score"]
    assert (evaluators == "nan") == bool((probabilities == 0).any())
    if evaluators != "nan":
        assert score.in_file_order() == pytest.approx(evaluators, rel=1e-6)
