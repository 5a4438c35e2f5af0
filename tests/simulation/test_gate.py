"""The whole gate, from images to the verdict: silent on equal models, and red on degraded ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dit_eval.dit import DiTConfig
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.features.extractor import NETWORKS
from dit_eval.features.network import Activations
from dit_eval.features.protocols import PROTOCOLS
from dit_eval.generation.pipeline import generate
from dit_eval.io import assets
from dit_eval.io.npz import write_npz
from dit_eval.results.check import Check, Verdict, check
from dit_eval.results.check_settings import Amount
from dit_eval.results.result import Result
from tests.simulation.conftest import Record

pytestmark = pytest.mark.simulation
RUNS, FIRST = 200, 1000  # the seed of the first run; the reference has one of its own
WIDTH, REFERENCE_N, N = 12, 500, 400
DIGITS = 256
PLAN = {
    **{"model": "pixels", "sampler": "ddpm", "cfg": 1.0, "image_size": WIDTH},
    **{"seed": 0, "labels": "uniform", "num": N},
}


class ReadsPixels(nn.Module):
    """Images of one row whose channels are the pool feature, the spatial one and the logits."""

    dimensions = (WIDTH, WIDTH, WIDTH)

    def __init__(self, _: Path) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Activations:
        pool, spatial, logits = (4 * x[:, :, 0]).unbind(dim=1)
        return Activations(pool, spatial, torch.softmax(2 * logits, dim=1))


@pytest.fixture
def pixels(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a protocol that takes features from the pixels themselves."""
    monkeypatch.setitem(NETWORKS, "pixels", ReadsPixels)
    monkeypatch.setitem(PROTOCOLS, "pixels", replace(PROTOCOLS["digits"], name="pixels", network="pixels"))
    return "pixels"


def images(z: np.ndarray) -> np.ndarray:
    """Normal numbers (n, 1, WIDTH, 3) as grey levels."""
    return np.clip(128 + 32 * z, 0, 255).astype(np.uint8)


def written(path: Path, result: Result) -> Path:
    return result.save(path)


def gate(folder: Path, protocol: str, samples: np.ndarray, baseline: np.ndarray, **options: Any) -> Check:
    """The check of two models' images, drawn from the same noise and labels."""
    results = []
    for name, z in (("samples", samples), ("baseline", baseline)):
        result = evaluate([images(z)], folder / "ref.npz", protocol=protocol, device="cpu")
        assert result is not None
        planned = replace(result, samples={**result.samples, "plan": PLAN})
        results.append(written(folder / f"{name}.json", planned))
    return check(*results, **options)


def write_reference(folder: Path) -> np.ndarray:
    """Write the reference of all runs; returns the mean of its pool features before rounding, (WIDTH,)."""
    z = np.random.default_rng(7).normal(size=(REFERENCE_N, 1, WIDTH, 3))
    write_npz(folder / "ref.npz", {"arr_0": images(z)})
    return z[:, 0, :, 0].mean(axis=0)


def checks(
    folder: Path, protocol: str, closeness: float, shift: float = 0.0, **options: Any
) -> Iterator[Check]:
    """Checks of a model against one whose pool features have a mean that is lower by `shift`.

    closeness: correlation of image i of the one with image i of the other.
    """
    for seed in range(RUNS):
        rng = np.random.default_rng(FIRST + seed)
        baseline, other = rng.normal(size=(2, N, 1, WIDTH, 3))
        samples = 0.1 + 0.9 * (closeness * baseline + np.sqrt(1 - closeness**2) * other)
        samples[..., 0] += shift
        yield gate(folder, protocol, samples, 0.1 + 0.9 * baseline, **options)


def shift_of(loss: float, reference_mean: np.ndarray) -> float:
    """The shift of all pool features that raises the true FID by `loss`: Σ (0.1 + s - m)² - (0.1 - m)²."""
    half = (0.1 - reference_mean).sum()
    return float((-half + np.sqrt(half**2 + WIDTH * loss)) / WIDTH)


def share(found: list[Check], verdict: Verdict, metric: str = "fid") -> float:
    return float(np.mean([metric in run.named(verdict) for run in found]))


@pytest.mark.parametrize("closeness", [0.99, 0.5])
def test_two_equal_models_are_rarely_called_worse_or_better_in_any_metric(
    closeness: float, pixels: str, tmp_path: Path, record_property: Record
) -> None:
    write_reference(tmp_path)
    found = list(checks(tmp_path, pixels, closeness))
    assert {len(run.comparisons) for run in found} == {5}
    assert all(comparison.paired for run in found for comparison in run.comparisons)
    differ = np.mean([bool(run.named("worse") or run.named("better")) for run in found])
    failed = np.mean([not run.passed for run in found])
    record_property("differ", differ)
    record_property("worse", failed)
    assert differ <= 0.08
    assert failed <= 0.05


def test_a_loss_of_the_detectable_size_is_seen_in_75_to_90_percent(
    pixels: str, tmp_path: Path, record_property: Record
) -> None:
    mean = write_reference(tmp_path)
    equal = list(checks(tmp_path, pixels, 0.9))
    detectable = float(np.median([run.comparisons[0].detectable for run in equal]))
    seen = 0.0
    for _ in range(2):  # the error grows with the loss; once more with the size that is stated there
        worse = list(checks(tmp_path, pixels, 0.9, shift_of(detectable, mean)))
        stated = float(np.median([run.comparisons[0].detectable for run in worse]))
        seen, detectable = share(worse, "worse"), stated
    record_property("detectable FID", detectable)
    record_property("seen", seen)
    assert 0.75 <= seen <= 0.9


def test_equivalent_is_wrong_in_at_most_5_percent(
    pixels: str, tmp_path: Path, record_property: Record
) -> None:
    """The true loss is a little more than the tolerance."""
    mean = write_reference(tmp_path)
    tolerance = 0.3
    options: dict[str, Any] = {"tolerances": {"fid": Amount(tolerance)}}
    beyond = list(checks(tmp_path, pixels, 0.99, shift_of(1.001 * tolerance, mean), **options))
    record_property("called equivalent beyond the tolerance", share(beyond, "equivalent"))
    assert share(beyond, "equivalent") <= 0.05
    equal = list(checks(tmp_path, pixels, 0.99, **options))
    record_property("equal models called equivalent", share(equal, "equivalent"))
    assert share(equal, "equivalent") >= 0.9


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits' weights at 4 bits: each tensor in 15 steps, from minus to plus its largest value."""
    weights = load_file(assets.fetch(assets.lookup("models", "digits")))
    steps = {name: max(float(tensor.abs().max()) / 7, 1e-12) for name, tensor in weights.items()}
    path = tmp_path_factory.mktemp("rounded") / "rounded.safetensors"
    save_file({name: (tensor / steps[name]).round() * steps[name] for name, tensor in weights.items()}, path)
    return path


def digits(folder: Path, name: str, seed: int, steps: int, ckpt: Path | None = None) -> Path:
    """The written result of DIGITS digits."""
    config = DiTConfig(**assets.lookup("models", "digits").config)
    batch = generate(
        config if ckpt else "digits",
        ckpt=ckpt,
        steps=steps,
        seed=seed,
        num=DIGITS,
        cfg=1.0,
        out=folder / f"{name}.npz",
        batch_size=DIGITS,
        device="cpu",
    )
    result = evaluate(batch, "digits", device="cpu")
    assert result is not None
    return written(folder / f"{name}.result.json", result)


@pytest.mark.parametrize("seed", range(5))
def test_weights_of_4_bits_and_8_steps_instead_of_250_are_red(
    seed: int, rounded: Path, tmp_path: Path, record_property: Record
) -> None:
    baseline = digits(tmp_path, "baseline", seed, steps=250)
    degraded = {
        "8 steps": digits(tmp_path, "few", seed, steps=8),
        "4 bits": digits(tmp_path, "rounded", seed, steps=250, ckpt=rounded),
    }
    for name, path in degraded.items():
        found = check(path, baseline)
        assert all(comparison.paired for comparison in found.comparisons)
        record_property(name, {metric.name: metric.verdict for metric in found.comparisons})
        fid = found.comparisons[0]
        record_property(f"{name}, FID", f"{fid.baseline:.2f} to {fid.value:.2f}, ± {fid.half_width:.2f}")
        assert not found.passed, name
