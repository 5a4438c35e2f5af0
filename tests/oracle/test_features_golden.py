"""The features of the TensorFlow evaluator on procedural images, and how far float32 is from float64."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as torch_fidelity_inception

from dit_eval.diagnostics.recorded.images import build
from dit_eval.features.extractor import FeatureExtractor, Features
from dit_eval.features.network import read_weights
from dit_eval.features.protocols import PROTOCOLS
from dit_eval.features.resize import tf1_bilinear
from dit_eval.runtime import onednn
from tests.recorded import recorded

SIZES = (64, 256, 512)
N = 8


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def features(golden_inception: Path) -> dict[int, Features]:
    extractor = FeatureExtractor(PROTOCOLS["adm"], golden_inception, torch.device("cpu"))
    return {size: extractor(build("reference", N, size)) for size in SIZES}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["pool", "spatial"])
def test_features_are_those_of_the_tensorflow_evaluator(
    features: dict[int, Features], size: int, name: str
) -> None:
    expected = recorded("tensorflow_features")[f"{name}_{size}"]
    found = getattr(features[size], name)
    assert relative(found, expected) <= 2e-5
    assert np.abs(found - expected).max() <= 2e-4


@pytest.mark.parametrize("size", SIZES)
def test_probabilities_are_those_of_the_tensorflow_evaluator(
    features: dict[int, Features], size: int
) -> None:
    expected = recorded("tensorflow_features")[f"softmax_{size}"]
    assert np.abs(features[size].probabilities - expected).max() <= 1e-4
    assert (features[size].probabilities.argmax(1) == expected.argmax(1)).all()


def test_features_stay_within_1e_5_of_torch_fidelitys_network_in_float64(
    features: dict[int, Features], golden_inception: Path, tmp_path: Path
) -> None:
    """On the same resized images; torch-fidelity's layers are not folded, fused or rearranged."""
    images = torch.from_numpy(build("reference", N, 256))
    resized = tf1_bilinear(images).double() * 128 + 128  # in pixels, exactly
    torch.save(read_weights(golden_inception), tmp_path / "weights.pth")
    network = torch_fidelity_inception.FeatureExtractorInceptionV3(
        "", ["2048"], str(tmp_path / "weights.pth")
    ).double()
    network.feature_extractor_internal_dtype = torch.float64  # its argument "float64" means float32
    spatial = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda _, __, y: spatial.append(y[:, :7]))
    with patch.object(
        torch_fidelity_inception, "interpolate_bilinear_2d_like_tensorflow1x", lambda *_, **__: resized
    ):
        (pool,) = network(images.permute(0, 3, 1, 2))
    assert relative(features[256].pool, pool.numpy()) <= 1e-5
    assert relative(features[256].spatial, spatial[0].permute(0, 2, 3, 1).flatten(1).numpy()) <= 1e-5


def test_features_without_onednns_private_operators_stay_within_1e_5(
    features: dict[int, Features], golden_inception: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = build("reference", 4, 64)
    monkeypatch.setattr(onednn, "private_operator", lambda name: None)
    found = FeatureExtractor(PROTOCOLS["adm"], golden_inception, torch.device("cpu"))(images)
    expected = Features(*(part[: len(images)] for part in features[64]))
    assert relative(found.pool, expected.pool) <= 1e-5
    assert relative(found.spatial, expected.spatial) <= 1e-5
    assert np.abs(found.probabilities - expected.probabilities).max() <= 1e-5
