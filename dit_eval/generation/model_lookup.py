"""Model lookup: from a registered name or a checkpoint file to the network, its decoder and its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dit_eval.dit import DiT, DiTConfig, load_dit, model_name
from dit_eval.errors import UsageError
from dit_eval.generation.decode import PIXELS, Decoder, load_decoder
from dit_eval.io import assets

_LATENT_CHANNELS = 4  # of Stable Diffusion's VAE; models of 1 or 3 channels generate pixels


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model to sample from: its architecture, weights and default settings."""

    name: str
    config: str | DiTConfig
    family: str | None  # "DiT" or "SiT"; None if unknown
    weights_source: Path | assets.Asset
    defaults: Mapping[str, Any] = field(default_factory=dict)  # cfg, steps, … of its manifest entry

    @property
    def sampler(self) -> str:
        """The default sampler."""
        return self.defaults.get("sampler", "sde" if self.family == "SiT" else "ddpm")

    @cached_property
    def weights(self) -> Path:
        """The checkpoint, downloaded if necessary. Raises AssetError if that fails."""
        return (
            self.weights_source
            if isinstance(self.weights_source, Path)
            else assets.fetch(self.weights_source)
        )


def find_model(
    model: str | DiTConfig, ckpt: str | Path | None = None, image_size: int | None = None
) -> ModelSpec:
    """The model with the weights `ckpt`, a registered name or a file; without it, the registered `model`.

    model: a registered name, an architecture such as "XL/2" or "SiT-XL/2", or a configuration; image_size:
    selects among the registered weights of an architecture. Raises UsageError if there is no such model.
    """
    registered = _generative_models()
    if ckpt is None:
        return _from_manifest(_registered_entry(model, image_size))
    if not Path(ckpt).exists() and str(ckpt) in assets.manifest("models"):
        if str(ckpt) not in registered:
            raise UsageError(f"{ckpt} is not a DiT or SiT (registered: {', '.join(registered)}).")
        return _from_manifest(registered[str(ckpt)])
    if isinstance(model, str) and model in registered:
        return replace(_from_manifest(registered[model]), weights_source=Path(ckpt))
    family = _family(model) if isinstance(model, str) else None
    return ModelSpec(name=_display_name(model), config=model, family=family, weights_source=Path(ckpt))


def load_model(
    spec: ModelSpec, device: torch.device, *, vae: str | Path | None = None, image_size: int | None = None
) -> tuple[DiT, Decoder]:
    """The network and the decoder of its samples, on a device.

    vae: as for `load_decoder`, None for the default; image_size: the expected size in pixels, None for any.
    Raises UsageError if the model has another size or needs no VAE, AssetError and CheckpointError for
    weights that cannot be loaded.
    """
    network = load_dit(spec.weights, spec.config, device=device)
    if network.in_channels == _LATENT_CHANNELS:
        decoder = load_decoder(str(vae or spec.defaults.get("vae", "ema")), device)
    elif vae is None:
        decoder = PIXELS
    else:
        raise UsageError(f"{spec.name} generates pixels, which need no VAE; leave vae out.")
    size = network.input_size * decoder.factor
    if image_size not in (None, size):
        raise UsageError(f"{spec.name} generates images of {size} pixels, not {image_size}.")
    return network, decoder


def _from_manifest(entry: assets.ModelEntry) -> ModelSpec:
    config = DiTConfig(**entry.config) if entry.config else entry.model
    return ModelSpec(
        name=entry.name, config=config, family=entry.family, weights_source=entry, defaults=entry.defaults
    )


def _registered_entry(model: str | DiTConfig, image_size: int | None) -> assets.ModelEntry:
    registered = _generative_models()
    if isinstance(model, str) and model in registered:
        return registered[model]
    try:
        wanted = (_family(model), model_name(model)) if isinstance(model, str) else None
    except UsageError as error:
        raise UsageError(f"{error} Registered with their weights: {', '.join(registered)}.") from None
    for entry in registered.values():
        if (entry.family, entry.model) == wanted and image_size in (None, entry.image_size):
            return entry
    size = f" at {image_size} pixels" if image_size else ""
    raise UsageError(
        f"no weights of {_display_name(model)}{size} are registered (registered: {', '.join(registered)}); "
        "pass a file of weights as ckpt."
    )


def _generative_models() -> dict[str, assets.ModelEntry]:
    """The registered DiT and SiT checkpoints by name."""
    return {name: entry for name, entry in assets.manifest("models").items() if entry.role == "dit"}


def _display_name(model: str | DiTConfig) -> str:
    return f"{_family(model)}-{model_name(model)}" if isinstance(model, str) else str(model)


def _family(model: str) -> str:
    """DiT or SiT: the same architecture, trained as a diffusion model or as a flow."""
    return "SiT" if model.strip().upper().startswith("SIT-") else "DiT"
