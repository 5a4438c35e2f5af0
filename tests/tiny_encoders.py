"""Tiny networks of timm in place of the encoders of the protocols, also on the fake CUDA device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import timm

from dit_eval.features.encoders import Encoder
from dit_eval.features.protocols import PROTOCOLS, EncoderProtocol
from tests.fake_cuda import CUDA

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
