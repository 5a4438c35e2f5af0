"""The recorded runs of the original DiT and SiT (case D) and the weights that they used."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType

import numpy as np
import torch

from dit_eval.dit import DiT, DiTConfig, build_dit
from tests.shared import shared


@cache
def recipe() -> ModuleType:
    """../shared/golden/make_dit_weights.py as a module."""
    spec = importlib.util.spec_from_file_location("make_dit_weights", shared("golden", "make_dit_weights.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def recorded(name: str) -> dict[str, np.ndarray]:
    """The arrays of golden/`name`.npz."""
    with np.load(shared("golden", f"{name}.npz")) as arrays:
        return dict(arrays)


def recorded_tensor(name: str, key: str) -> torch.Tensor:
    """One of those arrays as a tensor."""
    return torch.from_numpy(recorded(name)[key])


@cache
def golden_model(name: str) -> DiT:
    """The model of case D called `name` ("small" or "S8"), with its frozen weights."""
    facts = recipe().CONFIGS[name]
    config = DiTConfig(
        depth=facts["depth"],
        hidden_size=facts["hidden_size"],
        num_heads=facts["num_heads"],
        patch_size=facts["patch_size"],
    )
    model = build_dit(
        config,
        input_size=facts["input_size"],
        in_channels=facts["in_channels"],
        num_classes=facts["num_classes"],
    )
    weights = {key: torch.from_numpy(value) for key, value in recipe().build(facts).items()}
    model.load_state_dict(weights | {"pos_embed": model.pos_embed})
    return model.eval()
