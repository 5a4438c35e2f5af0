"""From latents to images: Stable Diffusion's VAE, or nothing where a model draws pixels itself.

A decoder takes samples (N, C, h, w) float32 and gives images (N, H, W, 3) uint8 on the same device.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dit_eval.errors import AssetError

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

Decoder = Callable[[Tensor], Tensor]

_CHUNK = 8  # images decoded at once: a decoder's activations are hundreds of times its latents


def dit_uint8(x: Tensor) -> Tensor:
    """DiT's rounding rule: ±1 floats → 0 … 255, as 127.5 x + 128 clamped, then truncated."""
    return (127.5 * x + 128.0).clamp(0, 255).to(torch.uint8)


def pixel_decoder(x: Tensor) -> Tensor:
    """The decoder of models that draw pixels: (N, 1 or 3, H, W) in ±1; grey is repeated into RGB."""
    return dit_uint8(x.expand(-1, 3, -1, -1)).permute(0, 2, 3, 1).contiguous()


def vae_decoder(vae: AutoencoderKL, scale: float) -> Decoder:
    """The decoder of latent models. scale: the factor by which latents were multiplied in training."""

    def decode(latents: Tensor) -> Tensor:
        chunks = [vae.decode(piece / scale).sample for piece in latents.split(_CHUNK)]  # type: ignore[union-attr]
        return torch.cat([dit_uint8(chunk) for chunk in chunks]).permute(0, 2, 3, 1).contiguous()

    return decode


def load_vae(folder: Path, device: torch.device) -> AutoencoderKL:
    """The AutoencoderKL of a folder in diffusers' layout. Raises AssetError if there is none."""
    from diffusers.models.autoencoders.autoencoder_kl import (
        AutoencoderKL,
    )  # half a second that pixel models need not wait

    try:
        vae = AutoencoderKL.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise AssetError(
            f"{folder} holds no VAE that diffusers can load ({str(error).splitlines()[0]}). "
            "Expected a folder with config.json and diffusion_pytorch_model.safetensors."
        ) from None
    vae.to(device)  # type: ignore[arg-type]
    return vae.eval().requires_grad_(False)
