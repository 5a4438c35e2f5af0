"""Decoding latents to images with Stable Diffusion's VAE, while sampling goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dit_eval.errors import AssetError, CheckpointError
from dit_eval.io import assets

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

_CHUNK = 8  # images

_OLD_ATTENTION_NAMES = {  # of diffusers before 0.17, in which the public VAEs are stored
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


@dataclass(frozen=True)
class VAE:
    """A decoder of latents.

    decode: latents (N, C, h, w) float32 → images (N, 3, H, W) in -1 … 1; name: as plans record it, with the
    SHA-256 of the weights; factor: image pixels per latent pixel, along a side.
    """

    decode: Callable[[Tensor], Tensor]
    name: str
    factor: int


def wrap_vae(vae: AutoencoderKL, *, scale: float, name: str) -> VAE:
    """The decoder half of a VAE. scale: the factor by which latents were multiplied in training."""

    def decode(latents: Tensor) -> Tensor:
        return vae.decode(latents / scale).sample  # type: ignore[arg-type, union-attr]

    return VAE(decode, name, 2 ** (len(vae.config["block_out_channels"]) - 1))


Decode = Callable[[Tensor], Tensor]  # samples on their device → uint8 images (N, H, W, 3) on the same device


def decode_in_chunks(decode: Decode, samples: Tensor) -> Tensor:
    """`decode` of a few samples at a time, because its activations are hundreds of times larger."""
    return torch.cat([decode(chunk) for chunk in samples.split(_CHUNK)])


def require_finite(samples: Tensor) -> None:
    """Raise CheckpointError if one of the samples (N, …) holds NaN or infinity."""
    finite = samples.isfinite().flatten(1).all(1)
    if not finite.all():
        raise CheckpointError(
            f"{int((~finite).sum())} of the {len(samples)} samples of a batch are not finite: the network "
            "returns NaN or infinity, or values that grow from step to step. Look for damaged weights or a "
            "training run that has diverged; else try --precision fp32, and the sampler and the prediction "
            "for which the model was trained."
        )


StoreImages = Callable[[NDArray[np.uint8], "float | None"], None]  # (images, seconds that they took or None)


class AsyncDecoder:
    """Decodes and stores samples; on a GPU in a separate thread and stream, while sampling goes on.

    Because the two overlap, the time of a batch is the time since the previous batch was decoded. The first
    batch of a process is not timed, because it includes warming up and compiling.
    """

    def __init__(self, decode: Decode, device: torch.device) -> None:
        self._decode = decode
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._last_decoded: float | None = None  # when the previous batch was decoded

    def submit(self, samples: Tensor, store: StoreImages) -> None:
        """Decode samples (N, C, h, w) and pass the images to `store`. Raises errors of the previous call."""
        self._wait()
        if self._stream is None:
            return self._decode_and_store(samples, store)
        self._stream.wait_stream(torch.cuda.current_stream(samples.device))
        samples.record_stream(self._stream)
        self._pending = self._thread.submit(self._decode_and_store, samples, store)
        return None

    def restart_clock(self) -> None:
        """Leave the next batch without a time, because a batch that is not submitted took part of it."""
        self._wait()
        self._last_decoded = None

    def _decode_and_store(self, samples: Tensor, store: StoreImages) -> None:
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            require_finite(samples)
            images = self._decode(samples).cpu().numpy()
        previous, self._last_decoded = self._last_decoded, monotonic()
        store(images, None if previous is None else self._last_decoded - previous)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def __enter__(self) -> AsyncDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._wait()
        finally:
            self._thread.shutdown()


def load_vae(vae: str, device: torch.device) -> VAE:
    """The VAE "ema" or "mse" (stabilityai/sd-vae-ft-…), or one that diffusers has saved in a folder.

    Raises AssetError if it cannot be downloaded or is not an AutoencoderKL.
    """
    if vae in ("ema", "mse"):
        asset = assets.lookup("models", f"sd-vae-ft-{vae}")
        weights = assets.fetch(asset)
        network = _build_vae(asset.config, weights)
        scale = asset.scale
        assert scale is not None, f"the manifest entry of {asset.name} lacks the scale of its latents"
    else:
        network, weights = _load_folder(Path(vae))
        scale = network.config["scaling_factor"]
    network.to(device)  # type: ignore[arg-type]
    network.eval().requires_grad_(False)
    return wrap_vae(network, scale=scale, name=f"vae {assets.sha256(weights)}")


def _build_vae(config: Mapping[str, Any], weights: Path) -> AutoencoderKL:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # slow, and not for pixels

    network = AutoencoderKL(**config)
    try:
        network.load_state_dict({_new_name(key): value for key, value in load_file(weights).items()})
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise AssetError(f"{weights} is not the VAE that its manifest entry describes ({reason}).") from None
    return network


def _load_folder(folder: Path) -> tuple[AutoencoderKL, Path]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    weights = folder / "diffusion_pytorch_model.safetensors"
    if not weights.is_file() or not (folder / "config.json").is_file():
        raise AssetError(
            f"--vae {folder} is neither ema nor mse nor a folder with config.json and {weights.name}, "
            "as diffusers' save_pretrained writes it."
        )
    try:
        return AutoencoderKL.from_pretrained(folder, local_files_only=True), weights
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise AssetError(f"{folder} does not hold a VAE that diffusers can load ({reason}).") from None


def _new_name(key: str) -> str:
    for old, new in _OLD_ATTENTION_NAMES.items():
        key = key.replace(old, new)
    return key
