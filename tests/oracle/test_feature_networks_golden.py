"""The encoders' features on the real architectures, as EDM2, dgm-eval and FD-Loss give them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from dit_eval.diagnostics.recorded.images import build
from dit_eval.features import encoders
from dit_eval.features.extractor import FeatureExtractor
from dit_eval.features.protocols import PROTOCOLS, EncoderProtocol
from tests.golden import encoder_weights
from tests.golden.encoder_weights import EVERY
from tests.recorded import recorded

CPU = torch.device("cpu")
SIZES = (64, 256, 512)
ENCODERS = [name for name, protocol in PROTOCOLS.items() if isinstance(protocol, EncoderProtocol)]
FP32, BF16 = 1e-5, 2e-2  # the largest relative L2 distances; see tests/golden/README.md
create_model = timm.create_model


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def encoder(
    name: str, precision: str, depth: str, monkeypatch: pytest.MonkeyPatch, network: str | None = None
) -> FeatureExtractor:
    """The protocol on the synthetic weights, at its full depth or cut "short"."""
    protocol = PROTOCOLS[name]
    assert isinstance(protocol, EncoderProtocol)
    model = encoders.HUB.get(protocol.network, protocol.network)

    def create(*arguments: Any, **options: Any) -> Any:
        built = create_model(*arguments, **options)
        return encoder_weights.cut_short(built) if depth == "short" else built

    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in create(model, num_classes=0).state_dict().items()}
    weights = {key: torch.from_numpy(value) for key, value in encoder_weights.build(shapes).items()}
    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setattr(encoders, "read_weights", lambda _: weights)
    changed = replace(protocol, precision=precision, network=network or protocol.network)
    return FeatureExtractor(changed, Path("synthetic"), CPU)


def require_the_recorded_features(
    name: str, depth: str, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features in float32 are the original's; in bf16 they are within its rounding, and rounded."""
    original = recorded("encoders")
    fp32 = encoder(name, "fp32", depth, monkeypatch)
    for size in sizes:
        found = fp32(build("reference", 1, size)).pool[:, ::EVERY]
        assert relative(found, original[f"{name}_{size}_fp32_{depth}"]) <= FP32, size
    if not name.startswith("fdr-"):
        return
    bf16 = encoder(name, "bf16", depth, monkeypatch)
    for size in sizes:
        rounded, exact = (original[f"{name}_{size}_{precision}_{depth}"] for precision in ("bf16", "fp32"))
        found = bf16(build("reference", 1, size)).pool[:, ::EVERY]
        assert relative(found, rounded) <= BF16, size
        assert 0.7 < relative(found, exact) / relative(rounded, exact) < 1.4, size


@pytest.mark.parametrize("name", ENCODERS)
def test_features_of_two_blocks_are_those_of_the_original(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_the_recorded_features(name, "short", (64, 256), monkeypatch)


def test_fd_dinov2s_features_are_edm2s_at_full_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    require_the_recorded_features("dinov2", "full", (256,), monkeypatch)


@pytest.mark.simulation
@pytest.mark.parametrize("name", ENCODERS)
def test_features_at_full_depth_are_those_of_the_original(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_the_recorded_features(name, "full", SIZES, monkeypatch)


def test_position_embeddings_are_torch_hubs() -> None:
    shape = (1, 1 + 37**2, 1024)
    positions = torch.from_numpy(encoder_weights.build({"pos_embed": shape})["pos_embed"])
    expected = recorded("encoders")["dinov2_positions"]
    found = encoders.resized_positions(positions, 16)[..., :: 16 * EVERY].numpy()
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def test_timms_own_position_embeddings_would_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    timms = encoder("dinov2", "fp32", "short", monkeypatch, network="vit_large_patch14_dinov2.lvd142m")
    expected = recorded("encoders")["dinov2_64_fp32_short"]
    assert relative(timms(build("reference", 1, 64)).pool[:, ::EVERY], expected) > 100 * FP32


@pytest.mark.parametrize("size", SIZES)
def test_features_of_the_inception_are_fd_losss(golden_inception: Path, size: int) -> None:
    found = FeatureExtractor(PROTOCOLS["fdr-inception"], golden_inception, CPU)(build("reference", 1, size))
    expected = recorded("encoders")[f"fdr-inception_{size}_fp32_full"]
    assert relative(found.pool[:, ::EVERY], expected) <= FP32
