"""The whole gate, from images to the verdict: silent on equal models, and red on degraded ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

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
from dit_eval.results.check import Check, check
from dit_eval.results.influence import write_influence
from dit_eval.results.result import Result, write_result
from tests.simulation.conftest import Record

pytestmark = pytest.mark.simulation
RUNS, FIRST = 200, 1000  # the seed of the first run; the reference has one of its own
WIDTH, REFERENCE_N, N = 12, 500, 400
DIGITS = 256
PLAN = {"seed": 0, "labels": "uniform", "num": N, "image_size": WIDTH}


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
    write_result(path, result)
    write_influence(path, result, result.influence)
    return path


def gate(folder: Path, protocol: str, ours: np.ndarray, baseline: np.ndarray) -> Check:
    """The check of two models' images, drawn from the same noise and labels."""
    results = []
    for name, z in (("ours", ours), ("baseline", baseline)):
        result = evaluate([images(z)], folder / "ref.npz", protocol=protocol, device="cpu")
        assert result is not None
        planned = replace(result, samples={**result.samples, "plan": PLAN})
        results.append(written(folder / f"{name}.json", planned))
    return check(*results)


def checks_of_twins(folder: Path, protocol: str, closeness: float) -> Iterator[Check]:
    """Checks of a model against one that differs from it by chance only.

    closeness: correlation of image i of the one with image i of the other.
    """
    shape = (N, 1, WIDTH, 3)
    theirs = np.random.default_rng(7).normal(size=(REFERENCE_N, *shape[1:]))
    write_npz(folder / "ref.npz", {"arr_0": images(theirs)})
    for seed in range(RUNS):
        rng = np.random.default_rng(FIRST + seed)
        one, other = rng.normal(size=(2, *shape))
        twin = closeness * one + np.sqrt(1 - closeness**2) * other
        yield gate(folder, protocol, 0.1 + 0.9 * twin, 0.1 + 0.9 * one)


@pytest.mark.parametrize("closeness", [0.99, 0.5])
def test_two_equal_models_rarely_differ_in_any_of_the_five_numbers(
    closeness: float, pixels: str, tmp_path: Path, record_property: Record
) -> None:
    found = list(checks_of_twins(tmp_path, pixels, closeness))
    assert {len(each.comparisons) for each in found} == {5}
    assert all(comparison.paired for each in found for comparison in each.comparisons)
    differ = np.mean([any(one.verdict != "same" for one in each.comparisons) for each in found])
    record_property("differ", differ)
    record_property("red", np.mean([not each.passed for each in found]))
    assert differ <= 0.08


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
        assert all(each.paired for each in found.comparisons)
        record_property(name, {each.name: each.verdict for each in found.comparisons})
        fid = found.comparisons[0]
        record_property(f"{name}, FID", f"{fid.baseline:.2f} to {fid.value:.2f}, ± {fid.half_width:.2f}")
        assert not found.passed, name
