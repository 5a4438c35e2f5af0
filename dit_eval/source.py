"""Which weights a name of a model means, and what its manifest entry says about their use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_eval import assets
from dit_eval.dit import DiTConfig, model_name
from dit_eval.errors import UsageError

_SAMPLERS = {"DiT": "ddpm", "SiT": "sde"}  # of the papers' tables


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model to draw from: its weights on this disk."""

    name: str
    weights: Path
    config: str | DiTConfig
    family: str | None  # DiT or SiT, where that is known
    defaults: Mapping[
        str, Any
    ]  # sampler and, where its entry has them, cfg, steps, vae and the sampler's options


def find_model(model: str | DiTConfig, ckpt: str | Path | None, image_size: int | None) -> Source:
    """The weights of `model`: a file or registered name in `ckpt`, else those registered for that size.

    Raises UsageError if there are none, AssetError if they cannot be had.
    """
    if ckpt is not None and (Path(ckpt).exists() or str(ckpt) not in assets.manifest("models")):
        family = _family(model) if isinstance(model, str) else None
        defaults = {"sampler": _SAMPLERS[family or "DiT"]}
        return Source(name=_name(model), weights=Path(ckpt), config=model, family=family, defaults=defaults)
    entry = assets.lookup("models", str(ckpt)) if ckpt is not None else _registered(model, image_size)
    config = DiTConfig(**entry.about["config"]) if "config" in entry.about else entry.about["model"]
    family = entry.about.get("family", "DiT")
    defaults = {"sampler": _SAMPLERS[family], **entry.about}
    weights = assets.fetch(entry)
    return Source(name=entry.name, weights=weights, config=config, family=family, defaults=defaults)


def _registered(model: str | DiTConfig, image_size: int | None) -> assets.Asset:
    models = [entry for entry in assets.manifest("models").values() if entry.about["role"] == "dit"]
    if any(entry.name == model for entry in models):
        return assets.lookup("models", str(model))
    for entry in models:
        if not isinstance(model, str) or image_size not in (None, entry.about["image_size"]):
            continue
        meant = (_family(model), model_name(model))
        if meant == (entry.about.get("family", "DiT"), entry.about.get("model")):
            return entry
    known = ", ".join(entry.name for entry in models)
    size = f" at {image_size} pixels" if image_size else ""
    raise UsageError(
        f"no weights of {_name(model)}{size} are registered (there are: {known}); give --ckpt FILE."
    )


def _name(model: str | DiTConfig) -> str:
    return f"{_family(model)}-{model_name(model)}" if isinstance(model, str) else str(model)


def _family(model: str) -> str:
    """DiT or SiT: the same networks, trained to go from noise to images in two ways."""
    return "SiT" if model.strip().upper().startswith("SIT-") else "DiT"
