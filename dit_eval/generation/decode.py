"""From latents to images: Stable Diffusion's VAE, or nothing where a model draws pixels itself."""

from __future__ import annotations

from collections.abc import Callable
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

_CHUNK = 8  # images decoded at once: a VAE's activations are hundreds of times its latents

_OLD_ATTENTION = {  # diffusers' names before 0.17, in which the public VAEs are stored
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


@dataclass(frozen=True)
class Decoder:
    """Samples (N, C, h, w) float32 → images (N, H, W, 3) uint8 on the same device."""

    name: str  # with the digest of its weights, where it has any
    factor: int  # pixels of the image to one of the latents, along a side
    decode: Callable[[Tensor], Tensor]
    rounding: str = "⌊127.5 x + 128⌋ in 0 … 255"  # of floats to uint8: `dit_uint8`


def dit_uint8(x: Tensor) -> Tensor:
    """DiT's rounding rule: ±1 floats → 0 … 255, as 127.5 x + 128 clamped, then truncated."""
    return (127.5 * x + 128.0).clamp(0, 255).to(torch.uint8)


def _decode_pixels(x: Tensor) -> Tensor:
    return dit_uint8(x.expand(-1, 3, -1, -1)).permute(0, 2, 3, 1).contiguous()


PIXELS = Decoder("pixels", 1, _decode_pixels)  # for models of 1 channel, repeated into RGB, or 3


def vae_decoder(vae: AutoencoderKL, *, scale: float, name: str) -> Decoder:
    """The decoder of latent models. scale: the factor by which latents were multiplied in training."""

    def decode(latents: Tensor) -> Tensor:
        pieces: list[Any] = [vae.decode(piece) for piece in (latents / scale).split(_CHUNK)]  # type: ignore[arg-type]
        return torch.cat([dit_uint8(piece.sample) for piece in pieces]).permute(0, 2, 3, 1).contiguous()

    return Decoder(name, 2 ** (len(vae.config["block_out_channels"]) - 1), decode)


Keep = Callable[[NDArray[np.uint8], "float | None"], None]  # the images, and in how many seconds they came


class AsyncDecoder:
    """Decodes and stores samples; on a GPU in a thread and stream of its own, beside the sampling.

    A batch's time is counted from the moment when the one before it was there, because sampling and decoding
    overlap. A process's first batch has none: it pays for warming up and compiling.
    """

    def __init__(self, decoder: Decoder, device: torch.device) -> None:
        self._decoder = decoder
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._ready: float | None = None  # when the images before were there

    def submit(self, samples: Tensor, keep: Keep) -> None:
        """Decode the samples and hand the images to `keep`. Raises what went wrong with those before."""
        self._wait()
        if self._stream is None:
            return self._decode_and_store(samples, keep)
        self._stream.wait_stream(torch.cuda.current_stream(samples.device))
        samples.record_stream(self._stream)
        self._pending = self._thread.submit(self._decode_and_store, samples, keep)
        return None

    def _decode_and_store(self, samples: Tensor, keep: Keep) -> None:
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            if not samples.isfinite().all():
                raise CheckpointError(
                    "the network's samples are not finite numbers. The checkpoint is damaged, or not the one "
                    "for this sampler, or needs --precision fp32."
                )
            images = self._decoder.decode(samples).cpu().numpy()
        before, self._ready = self._ready, monotonic()
        keep(images, None if before is None else self._ready - before)

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


def load_decoder(vae: str, device: torch.device) -> Decoder:
    """The decoder called "ema" or "mse" (stabilityai/sd-vae-ft-…), or that of a folder as diffusers saves it.

    Raises AssetError if it cannot be had or is no AutoencoderKL.
    """
    if vae in ("ema", "mse"):
        asset = assets.lookup("models", f"sd-vae-ft-{vae}")
        weights = assets.fetch(asset)
        network = _build_vae(asset.about["config"], weights)
        scale = asset.about["scale"]
    else:
        network, weights = _load_folder(Path(vae))
        scale = network.config["scaling_factor"]
    network.to(device)  # type: ignore[arg-type]
    network.eval().requires_grad_(False)
    return vae_decoder(network, scale=scale, name=f"vae {assets.sha256(weights)}")


def _build_vae(config: dict[str, Any], weights: Path) -> AutoencoderKL:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # models of pixels need not wait

    network = AutoencoderKL(**config)
    try:
        tensors = {_new_name(key): value for key, value in load_file(weights).items()}
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise AssetError(f"{weights} does not hold the VAE of its manifest entry ({reason}).") from None
    return network


def _load_folder(folder: Path) -> tuple[AutoencoderKL, Path]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    weights = folder / "diffusion_pytorch_model.safetensors"
    if not weights.is_file() or not (folder / "config.json").is_file():
        raise AssetError(
            f"--vae {folder} is neither ema, mse nor a folder with config.json and {weights.name}. "
            "Choose one of these, or save a VAE there with diffusers' save_pretrained."
        )
    try:
        return AutoencoderKL.from_pretrained(folder, local_files_only=True), weights
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise AssetError(f"{folder} holds no VAE that diffusers can load ({reason}).") from None


def _new_name(key: str) -> str:
    for old, new in _OLD_ATTENTION.items():
        key = key.replace(old, new)
    return key
