"""Evaluation on a CUDA device, without one: devices match, and the host does not wait in the loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from dit_eval.evaluation.evaluator import Evaluator
from dit_eval.evaluation.feature_stats import _IN_FLIGHT, FeatureStats
from dit_eval.evaluation.metric_table import with_optional
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.features.digits import DigitsNetwork
from dit_eval.features.extractor import NETWORKS, FeatureExtractor, stream
from dit_eval.features.inception import Inception
from dit_eval.features.network import Activations
from dit_eval.features.protocols import INCEPTION, PROTOCOLS
from dit_eval.generation.models import FlowModel
from dit_eval.generation.pipeline import generate
from dit_eval.io import assets
from dit_eval.io.npz import write_npz
from dit_eval.metrics.fid_infinity import extrapolated_distance
from dit_eval.metrics.frechet import frechet_distance, frechet_influence
from dit_eval.metrics.gaussian import Gaussian, moments_on
from dit_eval.metrics.inception_score import score_influence
from dit_eval.metrics.precision_recall import precision_recall
from tests.fake_cuda import CUDA, fake_cuda
from tests.tiny_encoders import EncoderOnCuda

RNG = np.random.default_rng(0)
BATCHES = 40


def on_cuda(network: nn.Module) -> nn.Module:
    """A network on the device "meta" with fake parameters on CUDA instead, which torch itself cannot move."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype, device=CUDA)
            setattr(module, name, nn.Parameter(fake, requires_grad=False))
    network.to = lambda *_, **__: network  # type: ignore[method-assign]
    return network.eval()


@pytest.fixture(scope="module")
def inception() -> nn.Module:
    """The Inception without weights."""
    with (
        patch.object(torch, "load"),
        patch.object(FeatureExtractorInceptionV3, "load_state_dict"),
        torch.device("meta"),
    ):
        return Inception({})


@pytest.fixture(autouse=True)
def networks_on_cuda(monkeypatch: pytest.MonkeyPatch, inception: nn.Module) -> None:
    with torch.device("meta"):
        digits = DigitsNetwork()
    monkeypatch.setitem(NETWORKS, INCEPTION, lambda _: on_cuda(inception))
    monkeypatch.setitem(NETWORKS, "digits", lambda _: on_cuda(digits))
    monkeypatch.setattr("dit_eval.features.extractor.load_encoder", EncoderOnCuda)


def images(n: int, size: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (n, size, size, 3), dtype=np.uint8)


# The loop


@pytest.mark.parametrize(("protocol", "size", "batch", "batches"), [
    ("digits", 8, 16, BATCHES), ("adm", 32, 2, 12), ("clean", 32, 2, 12),
    ("dinov2", 32, 2, 12), ("dinov2-pil", 32, 2, 12),
    ("fdr-mae", 32, 2, 12), ("fdr-siglip2", 32, 2, 12), ("fdr-convnext", 32, 2, 12),
])  # fmt: skip
def test_the_loop_never_waits_for_the_device(protocol: str, size: int, batch: int, batches: int) -> None:
    def blocks() -> Iterator[np.ndarray]:
        for _ in range(batches):
            yield images(batch, size)

    with fake_cuda() as calls:
        extractor = FeatureExtractor(PROTOCOLS[protocol], Path("none"), CUDA)
        stats = FeatureStats(10 * batch + 3, *extractor.dimensions, capacity=0, device="cuda")
        calls.synchronising.clear()
        for outputs in extractor.stream(blocks()):
            assert all(output.device == CUDA for output in outputs)
            stats.update(outputs, stats.n)
        assert calls.synchronising == []
        assert 0 < len(stats._arriving) <= _IN_FLIGHT  # features on their way
        stats.finish()
        assert calls.synchronising == []
        assert stats.features.shape == (batch * batches, extractor.dimensions[0])
        assert len(stats.spatial_features) == len(stats.probabilities) == batch * batches
        assert sum(chunk.n for chunk in stats.score.sums.values()) == batch * batches


def test_several_networks_share_a_loop_that_never_waits() -> None:
    names, done = ("digits", "dinov2-pil", "fdr-siglip2"), 0
    with fake_cuda() as calls:
        extractors = [FeatureExtractor(PROTOCOLS[name], Path("none"), CUDA) for name in names]
        all_stats = [FeatureStats(50, *each.dimensions, capacity=0, device="cuda") for each in extractors]
        calls.synchronising.clear()
        for outputs in stream(extractors, iter(np.split(images(24), 12))):
            for stats, activations in zip(all_stats, outputs, strict=True):
                stats.update(activations, done)
            done += 2
        for stats in all_stats:
            stats.finish()
    assert calls.synchronising == []
    assert [stats.features.shape for stats in all_stats] == [(24, each.dimensions[0]) for each in extractors]


def test_a_copy_that_waits_in_the_loop_is_found() -> None:
    """Otherwise the test above would prove nothing."""
    with fake_cuda() as calls:
        extractor = FeatureExtractor(PROTOCOLS["digits"], Path("none"), CUDA)
        calls.synchronising.clear()
        extractor(images(4))  # returns arrays, and so it waits
    assert len(calls.synchronising) == 3


def test_features_of_a_busy_device_are_kept_in_order_and_checked() -> None:
    with fake_cuda():
        stats = FeatureStats(5, 4, 3, 2, capacity=0, device="cuda")
        for start in range(0, 40, 4):
            stats.update(_outputs(4), start)
        assert stats.n == 40
        assert len(stats.features) < 40
        stats.finish()
        assert len(stats.features) == 40
        assert sorted(stats.score.sums) == list(range(8))
        assert {chunk.n for chunk in stats.score.sums.values()} == {5}


def _outputs(n: int) -> Activations:
    return Activations(*(torch.zeros(n, size, device=CUDA) for size in (4, 3, 2)))


# Metrics


def test_moments_are_summed_on_the_device_without_waiting() -> None:
    with fake_cuda() as calls:
        moments = moments_on("cuda", 8)
        for _ in range(5):
            moments.update(torch.zeros(700, 8, device=CUDA))
        assert calls.synchronising == []
        gaussian = moments.gaussian()
        assert "addmm_" in calls.operators
    assert moments.n == 3500
    assert gaussian.covariance.shape == (8, 8)


def gaussian(n: int = 40, dimension: int = 8) -> Gaussian:
    rows = RNG.standard_normal((n, dimension))
    return Gaussian(rows.mean(axis=0), np.cov(rows, rowvar=False))


def test_the_distance_and_its_influences_are_computed_on_the_device() -> None:
    features = RNG.standard_normal((4500, 8)).astype(np.float32)
    with fake_cuda() as calls:
        frechet_distance(gaussian(), gaussian(), "cuda")
        assert frechet_influence(features, gaussian(), gaussian(), "cuda").shape == (4500,)
        extrapolated_distance(features, gaussian(), np.zeros(4500), "cuda")
    assert {"linalg_cholesky_ex", "_linalg_eigh"} <= set(calls.operators)


def test_influences_of_the_inception_score_are_computed_on_the_device() -> None:
    with fake_cuda() as calls:
        assert score_influence(np.zeros((70, 10), np.float16), 30, "cuda").shape == (70,)
    assert calls.operators.count("xlogy") == 6


@pytest.mark.parametrize("float16", [False, True])
def test_precision_and_recall_wait_a_few_times_however_many_blocks_there_are(float16: bool) -> None:
    def waits(n: int) -> int:
        with fake_cuda() as calls:
            reference, samples = np.zeros((2, n, 8), np.float32)
            precision_recall(reference, samples, device="cuda", float16=float16)
        return len(calls.synchronising)

    assert waits(2100) == waits(6100) == (8 if float16 else 11)


# From images to the result


@pytest.mark.parametrize("cache", [False, True])
def test_an_evaluation_runs_on_the_device_from_beginning_to_end(tmp_path: Path, cache: bool) -> None:
    for name in ("samples", "reference"):
        write_npz(tmp_path / f"{name}.npz", {"arr_0": images(300)})
    for cached in (False, cache):
        with fake_cuda() as calls:
            result = evaluate(
                tmp_path / "samples.npz", tmp_path / "reference.npz", protocol="digits", device="cuda",
                batch_size=16, cache=cache, metrics=with_optional(["fid_infinity"]),
            )  # fmt: skip
        assert result is not None
        assert result.samples["cached"] == cached
        assert result.environment["device"] == "fake CUDA device"
        assert len(result.metrics) == 9
        assert "_linalg_eigh" in calls.operators
        assert "digits" in result.protocol["name"]


def test_an_evaluation_by_several_protocols_runs_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("samples", "reference"):
        write_npz(tmp_path / f"{name}.npz", {"arr_0": images(60)})
    weights = assets.folder("models") / "digits" / "features.safetensors"  # of all networks, which are fake
    monkeypatch.setattr("dit_eval.evaluation.extraction.assets.fetch", lambda *_, **__: weights)
    names = ("digits", "fdr-siglip2", "fdr-convnext")
    with fake_cuda() as calls:
        results = evaluate(
            tmp_path / "samples.npz", tmp_path / "reference.npz", protocol=names, device="cuda",
            batch_size=16, cache=False, metrics=with_optional(["kid", "density", "coverage", "mind"]),
        )  # fmt: skip
    assert results is not None
    assert [result.protocol["name"] for result in results] == list(names)
    for result in results:
        assert result.environment["device"] == "fake CUDA device"
        assert {"fid", "precision", "recall", "kid", "density", "coverage", "mind"} <= result.metrics.keys()
    assert "_linalg_eigh" in calls.operators


def test_an_evaluator_takes_tensors_of_the_device_to_the_result(tmp_path: Path) -> None:
    write_npz(tmp_path / "reference.npz", {"arr_0": images(60)})
    with fake_cuda() as calls:
        metrics = with_optional(["kid", "density", "coverage", "mind"])
        evaluator = Evaluator(
            tmp_path / "reference.npz", protocol="digits", device="cuda", batch_size=16, metrics=metrics
        )
        for _ in range(2):
            evaluator.update(torch.zeros(32, 3, 8, 8, device=CUDA), value_range=(-1, 1))
        result = evaluator.compute()
        evaluator.close()
    assert result.samples["n"] == 64
    assert result.environment["device"] == "fake CUDA device"
    assert {"kid", "density", "coverage", "mind"} <= {*result.metrics}
    assert "_linalg_eigh" in calls.operators


def test_two_sizes_of_batch_wait_equally_often(tmp_path: Path) -> None:
    write_npz(tmp_path / "batch.npz", {"arr_0": images(320)})

    def waits(batch_size: int) -> int:
        with fake_cuda() as calls:
            evaluate(tmp_path / "batch.npz", tmp_path / "batch.npz", protocol="digits", device="cuda",
                     batch_size=batch_size, cache=False)  # fmt: skip
        return len(calls.synchronising)

    assert waits(4) == waits(160) > 0


@pytest.mark.filterwarnings("ignore:.*out of its value_range")  # every number read from the device is 1
@pytest.mark.parametrize("sampler", ["ode", "sde"])
def test_a_model_is_sampled_into_an_evaluator_on_the_device(tmp_path: Path, sampler: str) -> None:
    """Sampling steps do not wait, images go from the decoder to the feature network on the device."""
    write_npz(tmp_path / "reference.npz", {"arr_0": images(60)})
    devices: set[torch.device] = set()

    def predict(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        devices.update((x.device, t.device, y.device))
        return x * t.view(-1, 1, 1, 1) + y.view(-1, 1, 1, 1)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        devices.add(latents.device)
        return latents.repeat(1, 3, 2, 2)

    model = FlowModel(predict, (1, 4, 4), decode, num_classes=10)
    waits = {}
    for steps in (5, 25):
        with fake_cuda() as calls:
            evaluator = Evaluator(tmp_path / "reference.npz", protocol="digits", device="cuda", batch_size=16)
            before = len(calls.synchronising)
            generate(
                model,
                into=evaluator,
                device="cuda",
                num=72,
                batch_size=32,
                steps=steps,
                cfg=1.5,
                sampler=sampler,
            )
            waits[steps] = calls.synchronising[before:]
            result = evaluator.compute()
            evaluator.close()
        assert (result.samples["n"], result.samples["size"]) == (72, [8, 8])
        plan = result.samples["plan"]
        assert (plan["device"], plan["precision"], plan["sampler"]) == ("fake CUDA device", "tf32", sampler)
        assert {"fid", "sfid", "inception_score", "precision", "recall"} <= {*result.metrics}
    assert devices == {CUDA}
    # In each of three batches for labels, indices and whether samples are finite, then for the clipped share
    assert len(waits[5]) == 3 * 3 + 1
    assert waits[25] == waits[5]
