"""Synthetic weights of image encoders, by name and shape; the published ones must not be redistributed.

Every tensor has a random stream of its own, whose bytes numpy guarantees; the values of large tensors are
repeated after `_PERIOD`, a prime number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dit_eval.diagnostics.recorded.streams import named_stream

_PERIOD = 65_521
_BLOCKS = 2  # that are left of a network which is cut short
EVERY = 8  # one of so many features of an image is recorded


def build(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """One float32 array for each name: features of ordinary size that depend on every layer."""
    return {name: _tensor(name, tuple(shape)) for name, shape in shapes.items()}


def cut_short(network: Any) -> Any:
    """The network, a vision transformer or a ConvNeXt, with its first blocks alone: of each stage, if any."""
    for stage in getattr(network, "stages", [network]):
        stage.blocks = stage.blocks[:_BLOCKS]
    return network


def _tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Matrices: uniform in ±1/16. Embeddings of positions and tokens: ±1/2. Vectors: ±1/4, gains around 1."""
    count = min(math.prod(shape), _PERIOD)
    uniform = np.frombuffer(named_stream(name).bytes(2 * count), "<i2").astype(np.float32) / 2**15
    if name in ("pos_embed", "cls_token", "attn_pool.latent"):
        values = uniform / 2
    elif len(shape) > 1:
        values = uniform / 16
    else:
        values = uniform / 4 + np.float32(not name.endswith("bias"))
    return np.resize(values, shape)
