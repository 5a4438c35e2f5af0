"""Model lookup: from a name, a checkpoint or an object to a model, its identity and its defaults."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dit_eval.dit import DIT, DiTConfig, load_dit, model_name
from dit_eval.errors import ModelError, UsageError, did_you_mean
from dit_eval.generation.decode import decode_in_chunks, load_vae
from dit_eval.generation.models import DiffusionModel, FlowModel, ImageModel, Model
from dit_eval.generation.network import in_precision
from dit_eval.generation.plugins import is_plugin, load_plugin, model_errors
from dit_eval.io import assets
from dit_eval.io.addresses import asset_at, is_address, named_by_address
from dit_eval.sampling.samplers import SAMPLERS

if TYPE_CHECKING:
    from dit_eval.cost.counter import FlopCount

_LATENT_CHANNELS = 4  # of Stable Diffusion's VAE; models of 1 or 3 channels generate pixels
_FAMILIES = {
    "DiT": "diffusion",
    "SiT": "flow",
    "REPA": "flow",
}  # of the names, to those of `generation.models`


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model on a device, and what plans and records say about it.

    identity: `weights`, the SHA-256 of a checkpoint, or `source`, the provenance of a plug-in; decoder:
    "pixels", or "vae" and the SHA-256 of its weights, or "plug-in"; image_size: pixels along a side;
    count_flops: the cost of one image's pass through the network.
    """

    model: Model
    identity: Mapping[str, Any]
    decoder: str
    image_size: int
    device: torch.device
    count_flops: Callable[[], FlopCount]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A bundled architecture, its weights and its default settings.

    name: as it is recorded; config: the architecture's name, such as "XL/2", or its numbers; family:
    "diffusion", "flow", or None if unknown; weights_source: a file, or an asset to download; defaults: cfg,
    steps, … of its manifest entry; noise_at: the network's time t of pure noise, 0 or 1.
    """

    name: str
    config: str | DiTConfig
    family: str | None
    weights_source: Path | assets.Asset
    defaults: Mapping[str, Any] = field(default_factory=dict)
    noise_at: int = 0

    @property
    def sampler(self) -> str:
        """The default sampler."""
        return self.defaults.get("sampler", "sde" if self.family == "flow" else "ddpm")

    @cached_property
    def weights(self) -> Path:
        """The checkpoint, downloaded if necessary. Raises AssetError if that fails."""
        return (
            self.weights_source
            if isinstance(self.weights_source, Path)
            else assets.fetch(self.weights_source)
        )

    def load(
        self,
        device: torch.device,
        settings: Mapping[str, Any],
        *,
        vae: str | Path | None = None,
        image_size: int | None = None,
    ) -> LoadedModel:
        """The network and the decoder of its samples, on a device.

        settings: `sampler`, which decides the family of weights whose own is unknown, `precision` and
        `compile`, see `choose_settings`; vae: as for `load_vae`, None for the default; image_size: the
        expected size in pixels, None for any.
        Raises UsageError if the model has another size or needs no VAE, AssetError and CheckpointError for
        weights that cannot be loaded.
        """
        address = getattr(self.weights_source, "title", None)
        with named_by_address(address, self.weights):
            network = load_dit(self.weights, self.config, device=device, projectors=self.noise_at == 1)
        network.prepare(precision=settings["precision"], compiled=settings["compile"])
        decode, decoder, factor = None, "pixels", 1
        if network.in_channels == _LATENT_CHANNELS:
            loaded_vae = load_vae(str(vae or self.defaults.get("vae", "ema")), device)
            decode = partial(decode_in_chunks, loaded_vae.decode)
            decoder, factor = loaded_vae.name, loaded_vae.factor
        elif vae is not None:
            raise UsageError(f"{self.name} generates pixels, which need no VAE; leave out --vae.")
        size = network.input_size * factor
        if image_size not in (None, size):
            raise UsageError(f"{self.name} generates images of {size} pixels, not {image_size}.")
        shape = (network.in_channels, network.input_size, network.input_size)
        common = {"predict": network, "shape": shape, "decode": decode, "num_classes": network.num_classes}
        model = (
            FlowModel(**common, noise_at=self.noise_at)  # type: ignore[arg-type]
            if SAMPLERS[settings["sampler"]].family == "flow"
            else DiffusionModel(**common, learned_variance=network.learn_sigma)
        )

        def count_flops() -> FlopCount:
            from dit_eval.cost.counter import count_flops  # fvcore takes a second to load

            return count_flops(
                network.config,
                input_size=network.input_size,
                in_channels=network.in_channels,
                num_classes=network.num_classes,
                block=network.block,
                learn_sigma=network.learn_sigma,
            )

        return LoadedModel(
            model=model,
            identity={"weights": assets.sha256(self.weights)},
            decoder=decoder,
            image_size=size,
            device=device,
            count_flops=count_flops,
        )


@dataclass(frozen=True, kw_only=True)
class ObjectSpec:
    """A model of a plug-in, or one that a Python program passes.

    source: its provenance.
    """

    name: str
    model: Model
    source: Mapping[str, Any]

    @property
    def family(self) -> str:
        """ "diffusion", "flow" or "images"."""
        return self.model.family

    @property
    def sampler(self) -> str:
        """The default sampler."""
        if isinstance(self.model, FlowModel):
            return "meanflow" if self.model.prediction == "average-velocity" else "ode"
        return "ddpm"

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The sampler options that the model determines."""
        given: dict[str, Any] = {"cfg_channels": "all"}
        if isinstance(self.model, FlowModel):
            own = ("path", "prediction", "t_eps", "noise_scale")
            given |= {name: getattr(self.model, name) for name in own}
            if self.model.prediction == "average-velocity":
                given["steps"] = 1
        return given

    def load(
        self,
        device: torch.device,
        settings: Mapping[str, Any],
        *,
        vae: str | Path | None = None,
        image_size: int | None = None,
    ) -> LoadedModel:
        """The model in the precision of the settings, after its decoder has been tried on one image.

        See `ModelSpec.load`. Raises UsageError, or ModelError for a decoder that cannot be used.
        """
        from dit_eval.cost.model import count_model

        model = in_precision(self.model, settings)
        if vae is not None:
            raise UsageError(f"{self.name} brings its own decoder; leave out --vae.")
        size = model.image_size if isinstance(model, ImageModel) else _decoded_size(model, self.name, device)
        if image_size not in (None, size):
            raise UsageError(f"{self.name} generates images of {size} pixels, not {image_size}.")
        return LoadedModel(
            model=model,
            identity={"source": self.source},
            decoder="pixels" if getattr(model, "decode", None) is None else "plug-in",
            image_size=size,
            device=device,
            count_flops=partial(count_model, model, device),
        )


Spec = ModelSpec | ObjectSpec


def find_model(
    model: str | DiTConfig | Model,
    ckpt: str | Path | None = None,
    image_size: int | None = None,
    model_args: Mapping[str, Any] | None = None,
    device: torch.device | None = None,
) -> Spec:
    """The model of a request.

    model: a registered name, an architecture such as "XL/2", "SiT-XL/2" or "REPA-XL/2", a configuration, the
    name of a plug-in (see `generation.plugins`), "diffusers:" and a folder or repository, or a model itself;
    ckpt: its weights, a registered name or a file; image_size: selects among the registered weights of an
    architecture; model_args: of a plug-in; device: where a plug-in loads its weights.
    Raises UsageError if there is no such model, ModelError for a plug-in that cannot be loaded.
    """
    device = torch.device("cpu") if device is None else device
    if isinstance(model, (ImageModel, FlowModel, DiffusionModel)):
        if ckpt is not None or model_args:
            raise UsageError("ckpt and model_args belong to models given by name; this one is an object.")
        return ObjectSpec(name=type(model).__name__, model=model, source=_object_source(model))
    if not isinstance(model, (str, DiTConfig)):
        raise UsageError(
            f"model is of type {type(model).__name__}; expected a name, a DiTConfig, or a "
            "dit_eval.FlowModel, DiffusionModel or ImageModel. Wrap a network in one of these, e.g. "
            "FlowModel(predict=network, shape=(4, 32, 32))."
        )
    if isinstance(model, str) and (model.startswith("diffusers:") or is_plugin(model)):
        if ckpt is not None:
            raise UsageError(f"{model} loads its own weights; pass them with --model-arg instead of --ckpt.")
        return _plugin_spec(model, model_args or {}, device)
    if model_args:
        raise UsageError(f"--model-arg is for plug-ins, and {model} is not one (module:function).")
    return _registered_model(model, ckpt, image_size)


def _registered_model(model: str | DiTConfig, ckpt: str | Path | None, image_size: int | None) -> ModelSpec:
    registered = _generative_models()
    if ckpt is None:
        return _from_manifest(_registered_entry(model, image_size))
    weights = asset_at(ckpt, "models") if is_address(ckpt) else Path(ckpt)
    if not Path(ckpt).exists() and str(ckpt) in assets.manifest("models"):
        if str(ckpt) not in registered:
            raise UsageError(f"{ckpt} is not a DiT or SiT (registered: {', '.join(registered)}).")
        return _from_manifest(registered[str(ckpt)])
    if isinstance(model, str) and model in registered:
        return replace(_from_manifest(registered[model]), weights_source=weights)
    family = _family(model) if isinstance(model, str) else None
    return ModelSpec(
        name=_display_name(model),
        config=model,
        family=_FAMILIES[family] if family else None,
        weights_source=weights,
        **_conventions(family),
    )


def _plugin_spec(name: str, arguments: Mapping[str, Any], device: torch.device) -> ObjectSpec:
    if name.startswith("diffusers:"):
        from dit_eval.generation.diffusers_pipeline import load_pipeline

        model, source = load_pipeline(name.removeprefix("diffusers:"), arguments, device)
    else:
        model, source = load_plugin(name, arguments, device)
    return ObjectSpec(name=name, model=model, source=source)


def _object_source(model: Model) -> dict[str, Any]:
    """What is known of a model that a program passes: its type, and the digest of its parameters, if any."""
    network = model.images if isinstance(model, ImageModel) else model.predict
    source: dict[str, Any] = {"object": type(model).__name__}
    network = getattr(network, "__self__", network)  # of a bound method
    if isinstance(network, nn.Module):
        sha = hashlib.sha256()
        for key, value in network.state_dict().items():
            sha.update(key.encode())
            sha.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        source["parameters_sha256"] = sha.hexdigest()
    return source


def _decoded_size(model: FlowModel | DiffusionModel, name: str, device: torch.device) -> int:
    """Pixels along a side of the decoded images. Raises ModelError for images that are not square."""
    shape = tuple(model.shape)
    if model.decode is not None:
        with torch.inference_mode(), model_errors(f"the decoder of {name}"):
            decoded: object = model.decode(torch.zeros(1, *shape, device=device))
        if not isinstance(decoded, torch.Tensor):
            raise ModelError(
                f"the decoder of {name} returned an object of type {type(decoded).__name__}; "
                "expected a tensor."
            )
        shape = tuple(decoded.shape[1:])
    sizes = shape[:2] if len(shape) == 3 and shape[2] == 3 and shape[0] != 3 else shape[1:]
    if len(sizes) != 2 or sizes[0] != sizes[1]:
        raise ModelError(
            f"{name} gives images of shape {shape}; expected square ones, (3, H, H) or (H, H, 3)."
        )
    return sizes[0]


def _from_manifest(entry: assets.ModelEntry) -> ModelSpec:
    config = DiTConfig(**entry.config) if entry.config else entry.model
    return ModelSpec(
        name=entry.name,
        config=config,
        family=_FAMILIES[entry.family],
        weights_source=entry,
        **_conventions(entry.family, entry.defaults),
    )


def _conventions(family: str | None, defaults: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Where the noise is in a family's time, and its default settings."""
    if family == "REPA":
        return {"noise_at": 1, "defaults": {"cfg_channels": "all", **defaults}}
    return {"noise_at": 0, "defaults": defaults}


def _registered_entry(model: str | DiTConfig, image_size: int | None) -> assets.ModelEntry:
    registered = _generative_models()
    if isinstance(model, str) and model in registered:
        return registered[model]
    try:
        wanted = (_family(model), model_name(model)) if isinstance(model, str) else None
    except UsageError:
        names = [*registered, *DIT, *(f"{family}-{name}" for family in _FAMILIES for name in DIT)]
        raise UsageError(
            f"unknown model {model!r} (registered with their weights: {', '.join(registered)}; "
            f"architectures: {', '.join(DIT)}).{did_you_mean(str(model), names)} A model of your own is "
            "module:function."
        ) from None
    for entry in registered.values():
        if (entry.family, entry.model) == wanted and image_size in (None, entry.image_size):
            return entry
    size = f" at {image_size} pixels" if image_size else ""
    raise UsageError(
        f"no weights of {_display_name(model)}{size} are registered (registered: {', '.join(registered)}); "
        "pass a file of weights with --ckpt."
    )


def _generative_models() -> dict[str, assets.ModelEntry]:
    """The registered DiT, SiT and REPA checkpoints by name."""
    return {name: entry for name, entry in assets.manifest("models").items() if entry.role == "dit"}


def _display_name(model: str | DiTConfig) -> str:
    return f"{_family(model)}-{model_name(model)}" if isinstance(model, str) else str(model)


def _family(model: str) -> str:
    """DiT, SiT or REPA: the same architecture, trained as a diffusion model or as a flow."""
    prefix = model.strip().upper().partition("-")[0]
    return {"SIT": "SiT", "REPA": "REPA"}.get(prefix, "DiT")
