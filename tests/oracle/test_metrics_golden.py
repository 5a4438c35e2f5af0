"""Case B: the five numbers on frozen features, against the evaluator and against float64."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.metrics.inception_score import InceptionScore
from dit_eval.metrics.precision_recall import precision_recall
from tests.conftest import golden_script
from tests.shared import shared

CASES = ("full_rank", "rank_deficient", "over_10000", "fp16_overflow", "fp16_outlier")


def gaussian(features: np.ndarray) -> Gaussian:
    moments = Moments(features.shape[1])
    moments.update(features)
    return moments.gaussian()


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    expected = json.loads(shared("golden", "expected.json").read_text())["case_B"][request.param]
    script = golden_script("make_features")
    features = script.case(request.param)
    for name, sha in expected["feature_sha256"].items():
        assert script.sha256(features[name]) == sha
    return features, expected


@pytest.mark.parametrize(("name", "kind"), [("fid", "pool"), ("sfid", "spatial")])
def test_frechet_distance_is_the_evaluators_and_exact_in_float64(case: Any, name: str, kind: str) -> None:
    features, expected = case
    found = frechet_distance(gaussian(features[f"samples_{kind}"]), gaussian(features[f"ref_{kind}"]))
    rank_deficient = min(len(features["ref_pool"]), len(features["samples_pool"])) <= 2048
    assert found == pytest.approx(expected["exact_float64"][name], rel=1e-10)
    assert found == pytest.approx(expected["adm_evaluator"][name], rel=5e-6 if rank_deficient else 1e-6)


def test_precision_and_recall_are_exact_to_one_item(case: Any) -> None:
    features, expected = case
    found = precision_recall(features["ref_pool"], features["samples_pool"])
    for kind in ("pr_f32", "pr_f64"):
        assert_within_one_item(found, expected[kind], features)


def test_float16_model_is_that_of_a_gpu_to_one_item(case: Any) -> None:
    features, expected = case
    found = precision_recall(features["ref_pool"], features["samples_pool"], float16=True)
    assert_within_one_item(found, expected["pr_f16_f32acc"], features)


def assert_within_one_item(found: Any, expected: dict[str, float], features: dict[str, np.ndarray]) -> None:
    rounding = 1e-9
    assert abs(found.precision - expected["precision"]) <= 1 / len(features["samples_pool"]) + rounding
    assert abs(found.recall - expected["recall"]) <= 1 / len(features["ref_pool"]) + rounding


def test_inception_score_is_the_evaluators_where_it_has_one(case: Any) -> None:
    features, expected = case
    weights = golden_script("make_inception_weights").build(0, str(shared("golden", "calib_seed0.npz")))
    logits = features["samples_pool"] @ weights["fc.weight"].T
    logits -= logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    score = InceptionScore(5000)
    score.update(probabilities, 0)
    assert score.in_file_order() == pytest.approx(expected["exact_float64"]["inception_score"], rel=2e-6)
    evaluators = expected["adm_evaluator"]["inception_score"]
    assert (evaluators == "nan") == bool((probabilities == 0).any())
    if evaluators != "nan":
        assert score.in_file_order() == pytest.approx(evaluators, rel=1e-6)
