"""Synthetic weights of DiT and SiT with the key names of the public checkpoints, and the noise of the chains.

No tensor is zero, unlike in an untrained DiT, and outputs are of order one. Every tensor has a random
stream of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dit_eval.diagnostics.recorded.streams import named_stream


@dataclass(frozen=True, kw_only=True)
class Config:
    """The arguments of DiT's and SiT's constructors."""

    input_size: int
    patch_size: int
    in_channels: int = 4
    hidden_size: int
    depth: int
    num_heads: int
    num_classes: int


CONFIGS = {
    "small": Config(input_size=8, patch_size=2, hidden_size=96, depth=2, num_heads=4, num_classes=10),
    "S8": Config(input_size=32, patch_size=8, hidden_size=384, depth=12, num_heads=6, num_classes=1000),
}


def build(config: Config) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a checkpoint but `pos_embed`, which is not random but a table of sines and cosines."""
    weights = {}
    for name, shape in shapes(config).items():
        tensor = named_stream(name).standard_normal(shape)
        if name.endswith(".bias"):
            tensor *= 0.1
        elif name.startswith("y_embedder"):
            tensor *= 0.7
        else:
            tensor *= 1.0 / math.sqrt(np.prod(shape[1:]))
            if "adaLN" in name:
                tensor *= 0.7
        weights[name] = tensor.astype(np.float32)
    return weights


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The shapes of these tensors, by name."""
    hidden, patch, channels = config.hidden_size, config.patch_size, config.in_channels
    linear = {  # name → (outputs, inputs)
        "t_embedder.mlp.0": (hidden, 256),
        "t_embedder.mlp.2": (hidden, hidden),
        "final_layer.linear": (2 * channels * patch * patch, hidden),  # noise or velocity, and the variance
        "final_layer.adaLN_modulation.1": (2 * hidden, hidden),
    }
    for i in range(config.depth):
        linear |= {
            f"blocks.{i}.attn.qkv": (3 * hidden, hidden),
            f"blocks.{i}.attn.proj": (hidden, hidden),
            f"blocks.{i}.mlp.fc1": (4 * hidden, hidden),
            f"blocks.{i}.mlp.fc2": (hidden, 4 * hidden),
            f"blocks.{i}.adaLN_modulation.1": (6 * hidden, hidden),
        }
    tensors: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.weight": (hidden, channels, patch, patch),
        "x_embedder.proj.bias": (hidden,),
        "y_embedder.embedding_table.weight": (config.num_classes + 1, hidden),  # the last row: no class
    }
    for name, (outputs, inputs) in linear.items():
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = (outputs, inputs), (outputs,)
    return tensors


def noise(tag: str, step: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The standard normal noise of a step of the chain called `tag`."""
    return named_stream(f"{tag}/{step}").standard_normal(shape).astype(np.float32)
