"""The numbers recorded from the original programs, and the inputs on which they ran; see tests/golden."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from dit_eval.dit import DiT, DiTConfig, build_dit
from dit_eval.io.npz import write_npz
from tests.golden import dit_weights, images, inception_weights

GOLDEN = Path(__file__).with_name("golden")


@cache
def expected() -> dict[str, Any]:
    """The contents of expected.json: numbers of the evaluator, checksums of the inputs, versions."""
    return json.loads((GOLDEN / "expected.json").read_text("utf-8"))


@cache
def recorded(name: str) -> dict[str, np.ndarray]:
    """The arrays of `name`.npz."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def recorded_tensor(name: str, key: str) -> torch.Tensor:
    """One of those arrays as a tensor."""
    return torch.from_numpy(recorded(name)[key])


def save_images(path: Path, name: str, n: int, size: int) -> Path:
    """Write n procedural images of the set `name` as the batch `path`, an .npz."""
    write_npz(path, {"arr_0": images.build(name, n, size)})
    return path


def save_inception(path: Path) -> Path:
    """Write the synthetic Inception weights as `path`, a .safetensors file."""
    save_file({name: torch.from_numpy(value) for name, value in inception_weights.build().items()}, path)
    return path


@cache
def golden_model(name: str) -> DiT:
    """The model "small" or "S8" with its synthetic weights."""
    facts = dit_weights.CONFIGS[name]
    config = DiTConfig(
        depth=facts.depth,
        hidden_size=facts.hidden_size,
        num_heads=facts.num_heads,
        patch_size=facts.patch_size,
    )
    model = build_dit(
        config, input_size=facts.input_size, in_channels=facts.in_channels, num_classes=facts.num_classes
    )
    weights = {name: torch.from_numpy(value) for name, value in dit_weights.build(facts).items()}
    model.load_state_dict(weights | {"pos_embed": model.pos_embed})
    return model.eval()
