"""The diffusion transformer: configurations, blocks, model and checkpoints."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dit_eval.dit.configs import DIT, DiTConfig, model_name

if TYPE_CHECKING:
    from dit_eval.dit.blocks import BLOCKS
    from dit_eval.dit.checkpoints import load_dit
    from dit_eval.dit.model import Conditioning, DiT, build_dit

# Loaded on demand, with torch: a shell completes the names of models without it
_MODULES = {
    "BLOCKS": "blocks",
    "Conditioning": "model",
    "DiT": "model",
    "build_dit": "model",
    "load_dit": "checkpoints",
}

__all__ = ["BLOCKS", "DIT", "Conditioning", "DiT", "DiTConfig", "build_dit", "load_dit", "model_name"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"dit_eval.dit.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'dit_eval.dit' has no attribute {name!r}")
