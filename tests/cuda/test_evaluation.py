"""The evaluation on a CUDA device: recorded numbers, batch sizes, ambient precision, no waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dit_eval.diagnostics.recorded import features as golden_features
from dit_eval.diagnostics.recorded.images import build
from dit_eval.diagnostics.recorded.numbers import expected
from dit_eval.evaluation.feature_stats import FeatureStats
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.features.extractor import FeatureExtractor, Features
from dit_eval.features.protocols import PROTOCOLS
from dit_eval.io import assets
from dit_eval.metrics.fid_infinity import extrapolated_distance
from dit_eval.metrics.frechet import frechet_distance, frechet_influence
from dit_eval.metrics.gaussian import Gaussian, moments_on
from dit_eval.metrics.inception_score import score_influence, score_sums
from dit_eval.metrics.precision_recall import precision_recall
from tests.oracle.test_evaluator_golden import assert_golden, save_pair
from tests.oracle.test_features_golden import SIZES, N, relative
from tests.oracle.test_metrics_golden import assert_within_one_item
from tests.recorded import recorded

CUDA = torch.device("cuda")
CASES = list(expected()["evaluator_on_features"])


@pytest.fixture(scope="module")
def extractor(golden_inception: Path) -> FeatureExtractor:
    return FeatureExtractor(PROTOCOLS["adm"], golden_inception, CUDA)


@contextmanager
def ambient_precision() -> Iterator[None]:
    """Autocast to bfloat16, and TF32 wherever torch has a switch for it."""
    backends: Any = torch.backends
    matmul, cudnn = backends.cuda.matmul, backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = True
    try:
        with torch.autocast("cuda", torch.bfloat16):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


# Features


@pytest.mark.parametrize("size", SIZES)
def test_features_are_those_of_the_tensorflow_evaluator(extractor: FeatureExtractor, size: int) -> None:
    found, arrays = extractor(build("reference", N, size)), recorded("tensorflow_features")
    for name in ("pool", "spatial"):
        feature = getattr(found, name)
        assert relative(feature, arrays[f"{name}_{size}"]) <= 2e-5
        assert np.abs(feature - arrays[f"{name}_{size}"]).max() <= 2e-4
    assert np.abs(found.probabilities - arrays[f"softmax_{size}"]).max() <= 1e-4


@pytest.mark.parametrize("protocol", ["clean", "digits"])
def test_features_of_the_other_protocols_are_those_of_the_cpu(protocol: str, golden_inception: Path) -> None:
    weights = golden_inception
    if protocol == "digits":
        weights = assets.fetch(assets.lookup("models", "digits-features"), offline=True)
    images = build("reference", N, 8 if protocol == "digits" else 64)
    found, on_cpu = (
        FeatureExtractor(PROTOCOLS[protocol], weights, device)(images)
        for device in (CUDA, torch.device("cpu"))
    )
    for name in Features._fields:
        assert relative(getattr(found, name), getattr(on_cpu, name)) <= 2e-5, name


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_features_depend_on_the_batch_size_by_rounding_only(
    extractor: FeatureExtractor, batch_size: int
) -> None:
    images = build("reference", N, 64)
    together = extractor(images)
    blocks = extractor.stream(iter(np.split(images, range(batch_size, N, batch_size))))
    apart = [torch.cat(part).cpu().numpy() for part in zip(*blocks, strict=True)]
    for found, whole in zip(apart, together, strict=True):
        assert relative(found, whole) <= 1e-5


def test_features_are_the_same_to_the_bit_in_every_run_and_ambient_precision(
    extractor: FeatureExtractor,
) -> None:
    images = build("reference", N, 64)
    first = extractor(images)
    with ambient_precision():
        second = extractor(images)
    for name in Features._fields:
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_the_loop_never_waits_for_the_device(extractor: FeatureExtractor) -> None:
    """torch raises at every call that synchronises."""
    images = build("reference", N, 64)
    blocks = (images for _ in range(30))
    stats = FeatureStats(100, *extractor.dimensions, capacity=0, device="cuda")
    stream = extractor.stream(blocks)
    stats.update(next(stream), 0)  # cuDNN may wait once
    torch.cuda.set_sync_debug_mode("error")
    try:
        for outputs in stream:
            stats.update(outputs, stats.n)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stats.finish()
    assert len(stats.features) == 30 * N
    repeated = np.tile(extractor(images).pool, (30, 1))
    np.testing.assert_array_equal(stats.features, repeated)
    on_cpu = moments_of(repeated)
    np.testing.assert_allclose(stats.pool.mean, on_cpu.mean, rtol=1e-12)
    np.testing.assert_allclose(stats.pool.covariance, on_cpu.covariance, rtol=1e-9, atol=1e-12)


# Metrics


def moments_of(rows: np.ndarray, device: str = "cpu") -> Gaussian:
    moments = moments_on(device, rows.shape[1])
    moments.update(rows)
    return moments.gaussian()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "kind"), [("fid", "pool"), ("sfid", "spatial")])
def test_the_distance_is_exact_in_float64(case: str, name: str, kind: str) -> None:
    arrays = golden_features.case(case)
    a, b = (moments_of(arrays[f"{side}_{kind}"], "cuda") for side in ("samples", "ref"))
    exact = expected()["evaluator_on_features"][case]["exact_float64"][name]
    assert frechet_distance(a, b, "cuda") == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_influences_are_those_of_the_cpu(case: str) -> None:
    arrays = golden_features.case(case)
    rows = arrays["samples_pool"]
    sides = moments_of(rows), moments_of(arrays["ref_pool"])
    on_cpu = frechet_influence(rows, *sides)
    np.testing.assert_allclose(
        frechet_influence(rows, *sides, "cuda"), on_cpu, rtol=0, atol=1e-6 * np.abs(on_cpu).max()
    )


def test_the_extrapolated_distance_is_that_of_the_cpu() -> None:
    rows, reference = np.random.default_rng(0).standard_normal((2, 2000, 64)).astype(np.float32)
    target = moments_of(reference)
    phi = frechet_influence(rows, moments_of(rows), target)
    found, _ = extrapolated_distance(rows, target, phi, "cuda")
    assert found == pytest.approx(extrapolated_distance(rows, target, phi)[0], rel=1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("float16", "kind"), [(False, "f32"), (False, "f64"), (True, "f16_f32acc")])
def test_precision_and_recall_are_the_recorded_ones_to_one_item(case: str, float16: bool, kind: str) -> None:
    arrays = golden_features.case(case)
    sets = arrays["ref_pool"], arrays["samples_pool"]
    found = precision_recall(*sets, device="cuda", float16=float16)
    numbers = expected()["evaluator_on_features"][case]["precision_recall"][kind]
    assert_within_one_item(found, numbers, arrays)
    with ambient_precision():
        again = precision_recall(*sets, device="cuda", float16=float16)
    np.testing.assert_array_equal(again.samples_inside, found.samples_inside)
    np.testing.assert_array_equal(again.reference_inside, found.reference_inside)


def test_sums_and_influences_of_the_inception_score_are_those_of_the_cpu() -> None:
    logits = 30 * torch.from_numpy(np.random.default_rng(0).standard_normal((1500, 100), np.float32))
    probabilities = torch.softmax(logits, dim=1)
    assert (probabilities == 0).any()
    array = probabilities.numpy()
    np.testing.assert_allclose(
        score_sums(probabilities.to(CUDA)).cpu().numpy(), score_sums(array), rtol=1e-12
    )
    np.testing.assert_allclose(
        score_influence(array, 500, "cuda"), score_influence(array, 500), rtol=1e-9, atol=1e-9
    )


# From images to the result


def test_the_five_numbers_are_those_of_the_evaluators_main(golden_inception: Path, tmp_path: Path) -> None:
    files = save_pair(tmp_path, 300)
    first = evaluate(*files, inception=golden_inception, device="cuda")
    assert first is not None
    assert_golden(first.metrics, 300, rel=2e-5)
    assert first.environment["device"] == torch.cuda.get_device_name()
    with ambient_precision():
        cached = evaluate(*files, inception=golden_inception, device="cuda")
    assert cached is not None
    assert cached.samples["cached"]
    assert cached.metrics == pytest.approx(dict(first.metrics), rel=1e-9)
