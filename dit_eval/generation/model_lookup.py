"""Which weights a name of a model means, and what its manifest entry says about their use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dit_eval.dit import DiTConfig, model_name
from dit_eval.errors import UsageError
from dit_eval.io import assets


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model to draw from."""

    name: str
    config: str | DiTConfig
    family: str | None  # DiT or SiT, where that is known
    place: Path | assets.Asset
    defaults: Mapping[str, Any] = field(default_factory=dict)  # cfg, steps, vae …, where the entry has them

    @property
    def sampler(self) -> str:
        """The one to use if nobody asks for another."""
        return self.defaults.get("sampler", "sde" if self.family == "SiT" else "ddpm")

    @cached_property
    def weights(self) -> Path:
        """Its weights on this disk. Raises AssetError if they cannot be had."""
        return self.place if isinstance(self.place, Path) else assets.fetch(self.place)


def find_model(model: str | DiTConfig, ckpt: str | Path | None, image_size: int | None) -> ModelSpec:
    """The model in the file or of the name `ckpt`, else the one registered for `model` and that size.

    Raises UsageError if there is none.
    """
    if ckpt is None:
        return _source(_registered(model, image_size))
    if not Path(ckpt).exists() and str(ckpt) in assets.manifest("models"):
        if str(ckpt) not in _generative_models():
            raise UsageError(
                f"{ckpt} is no DiT or SiT (those registered are {', '.join(_generative_models())})."
            )
        return _source(_generative_models()[str(ckpt)])
    if isinstance(model, str) and model in _generative_models():
        return replace(_source(_generative_models()[model]), place=Path(ckpt))
    family = _family(model) if isinstance(model, str) else None
    return ModelSpec(name=_name(model), config=model, family=family, place=Path(ckpt))


def _source(entry: assets.Asset) -> ModelSpec:
    config = DiTConfig(**entry.about["config"]) if "config" in entry.about else entry.about["model"]
    family = entry.about.get("family", "DiT")
    return ModelSpec(name=entry.name, config=config, family=family, place=entry, defaults=entry.about)


def _registered(model: str | DiTConfig, image_size: int | None) -> assets.Asset:
    if isinstance(model, str) and model in _generative_models():
        return _generative_models()[model]
    known = ", ".join(_generative_models())
    try:
        meant = (_family(model), model_name(model)) if isinstance(model, str) else None
    except UsageError as error:
        raise UsageError(f"{error} Registered with their weights: {known}.") from None
    for entry in _generative_models().values():
        found = (entry.about.get("family", "DiT"), entry.about.get("model"))
        if found == meant and image_size in (None, entry.about["image_size"]):
            return entry
    size = f" at {image_size} pixels" if image_size else ""
    raise UsageError(
        f"no weights of {_name(model)}{size} are registered (there are: {known}); give --ckpt FILE."
    )


def _generative_models() -> dict[str, assets.Asset]:
    """The registered networks that draw, by name."""
    return {name: each for name, each in assets.manifest("models").items() if each.about["role"] == "dit"}


def _name(model: str | DiTConfig) -> str:
    return f"{_family(model)}-{model_name(model)}" if isinstance(model, str) else str(model)


def _family(model: str) -> str:
    """DiT or SiT: the same networks, trained to go from noise to images in two ways."""
    return "SiT" if model.strip().upper().startswith("SIT-") else "DiT"
