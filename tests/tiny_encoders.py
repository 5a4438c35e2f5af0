"""Tiny networks of timm in place of the encoders of the protocols, also on the fake CUDA device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from dit_eval.features.encoders import Encoder
from dit_eval.features.protocols import PROTOCOLS, EncoderProtocol
from dit_eval.io import assets
from tests.fake_cuda import CUDA
from tests.golden import encoder_weights

ENCODERS = {name: p for name, p in PROTOCOLS.items() if isinstance(p, EncoderProtocol)}
TINY = {
    "cls": "test_vit.r160_in1k",
    "attention-pool": "test_vit3.r160_in1k",
    "spatial-mean": "test_convnext2",
}


def tiny(name: str, **changes: str) -> EncoderProtocol:
    """The protocol with the tiny network that has the same feature."""
    protocol = ENCODERS[name]
    return replace(protocol, **{"network": TINY[protocol.feature], **changes})


def weights_of(network: str) -> dict[str, Tensor]:
    """Synthetic weights of a model of timm, with a classifier as in published files."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in timm.create_model(network).state_dict().items()}
    return {key: torch.from_numpy(value) for key, value in encoder_weights.build(shapes).items()}


def add_tiny_protocols(patch: pytest.MonkeyPatch, folder: Path, **originals: str) -> None:
    """Add protocols of these names, like the originals but with a tiny network of 96 features."""
    feature, fetch, weights = "attention-pool", assets.fetch, folder / "tiny.safetensors"
    save_file(weights_of(TINY[feature]), weights)
    names = [ENCODERS[original].weights for original in originals.values()]

    def fetch_tiny(asset: assets.Asset, **options: Any) -> Path:
        return weights if asset.name in names else fetch(asset, **options)

    patch.setattr("dit_eval.evaluation.extraction.assets.fetch", fetch_tiny)
    for name, original in originals.items():
        changes = {"name": name, "network": TINY[feature], "feature": feature}
        patch.setitem(PROTOCOLS, name, replace(ENCODERS[original], **changes))


class EncoderOnCuda(Encoder):
    """The tiny encoder of a protocol, made of fake tensors, which torch cannot move; a `load_encoder`."""

    def __init__(self, protocol: EncoderProtocol, *_: object) -> None:
        options: dict[str, Any] = {} if protocol.feature == "spatial-mean" else {"dynamic_img_size": True}
        with CUDA:
            network: Any = timm.create_model(TINY[protocol.feature], num_classes=0, **options)
            super().__init__(network, protocol.normalisation, protocol.feature, protocol.precision)
        self.requires_grad_(False).eval()

    def to(self, *_: Any, **__: Any) -> EncoderOnCuda:
        return self
