"""The cost of a model, by operator.

A multiply-add counts once, as in the DiT paper, whose "Gflops" are the MACs of one forward pass of one
image. Counted are matrix products, convolutions and linear layers. Elementwise work and data movement are
listed below as free; an operator on neither list is an error, because a zero would look like a result.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from dit_eval.dit import DIT, DiTConfig, build_dit, model_name
from dit_eval.errors import CostError, UsageError
from dit_eval.io import assets

with warnings.catch_warnings(action="ignore", category=FutureWarning):  # its torch.jit.script is deprecated
    from fvcore.nn import FlopCountAnalysis

VAE_STRIDE = 8  # image pixels per latent pixel

CONDITIONING = ("t_embedder", "adaLN_modulation", "kv")  # modules that see time and class, but no image

FREE = (  # elementwise or data movement; fvcore has a list of its own for reshaping
    *("add", "addcmul", "mul", "div", "broadcast_tensors", "unflatten"),
    *("exp", "cos", "sin", "silu", "gelu", "embedding"),
)
COUNTED = {"attention", "linear", "conv"}
COUNTED_APART = {"layer_norm", "group_norm", "upsample_nearest2d"}  # by fvcore, per element

VAE = "sd-vae-ft-ema"  # the registered decoder of the public models; -mse is alike


@dataclass(frozen=True, kw_only=True)
class FlopCount:
    """Multiply-adds of one forward pass of one image."""

    by_operator: Mapping[str, int]  # MACs of "attention", "linear", "convolution" and "conditioning"
    layer_norm: int  # what fvcore would add for LayerNorm, 4 or 5 per element; not in macs
    params: int

    @property
    def macs(self) -> int:
        """Multiply-adds, the paper's "flops"."""
        return sum(self.by_operator.values())

    @property
    def flops(self) -> int:
        """Multiplications and additions counted apart."""
        return 2 * self.macs


def count_flops(
    model: str | DiTConfig,
    *,
    image_size: int = 256,
    in_channels: int = 4,
    num_classes: int = 1000,
    block: str = "adaln-zero",
) -> FlopCount:
    """The cost of one forward pass of one image through a DiT, without running it.

    Conditioning counts the linear layers that see t and y but no image (in-context tokens are counted with
    the sequence); convolution, the embedding of the patches; attention, its two products; linear, the rest.
    Raises UsageError for an unknown model, block or an image size that does not divide.
    """
    if image_size % VAE_STRIDE:
        raise UsageError(
            f"an image of {image_size} pixels has no whole latent; choose a multiple of {VAE_STRIDE}."
        )
    config = DIT[model_name(model)] if isinstance(model, str) else model
    size = image_size // VAE_STRIDE
    one, two = (
        _count(replace(config, depth=depth), size, in_channels, num_classes, block) for depth in (1, 2)
    )
    total = {key: one[key] + (config.depth - 1) * (two[key] - one[key]) for key in one}  # blocks are alike
    return FlopCount(layer_norm=total.pop("layer_norm"), params=total.pop("params"), by_operator=total)


@cache
def _count(
    config: DiTConfig, input_size: int, in_channels: int, num_classes: int, block: str
) -> dict[str, int]:
    """What `FlopCount` holds, by name, for a DiT traced on meta tensors."""
    with torch.device("meta"):
        dit = build_dit(
            config, input_size=input_size, in_channels=in_channels, num_classes=num_classes, block=block
        )
        dit = dit.to("meta").eval()
        latents = torch.empty(1, in_channels, input_size, input_size)
        t, y = torch.empty(1), torch.empty(1, dtype=torch.int64)
    analysis = _analyse(dit, (latents, t, y))
    macs = analysis.by_operator()
    modules = [name for name, _ in dit.named_modules()]
    conditioning = sum(analysis.total(name) for name in modules if name.split(".")[-1] in CONDITIONING)
    patches = analysis.total("x_embedder")
    return {
        "attention": macs["attention"],
        "linear": macs["linear"] - conditioning - patches,
        "convolution": patches,
        "conditioning": conditioning,
        "layer_norm": macs["layer_norm"],
        "params": sum(parameter.numel() for parameter in dit.parameters()),
    }


@cache
def count_decoder(image_size: int) -> FlopCount:
    """The cost of decoding one image of image_size × image_size pixels from its latent, by the SD VAE.

    fvcore cannot trace a convolution on meta tensors, so the decoder is run on a latent of one pixel and
    its count scaled: layers by the number of pixels, attention's products by its square. Both are exact.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(**assets.lookup("models", VAE).about["config"])
    assert vae.post_quant_conv is not None
    decoder = nn.Sequential(vae.post_quant_conv, vae.decoder).to_empty(device="cpu").eval()
    macs = _analyse(decoder, (torch.zeros(1, 4, 1, 1),)).by_operator()
    pixels = (image_size // VAE_STRIDE) ** 2
    return FlopCount(
        by_operator={
            "attention": macs["attention"] * pixels**2,
            "linear": macs["linear"] * pixels,
            "convolution": macs["conv"] * pixels,
            "conditioning": 0,
        },
        layer_norm=0,
        params=sum(parameter.numel() for parameter in decoder.parameters()),
    )


def _analyse(model: nn.Module, inputs: tuple[Tensor, ...]) -> FlopCountAnalysis:
    """fvcore's count, with attention counted and every other operator accounted for."""
    analysis = FlopCountAnalysis(model, inputs)
    analysis.tracer_warnings("none").unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
    analysis.set_op_handle(**{f"aten::{name}": None for name in FREE})
    with torch.no_grad():
        counted = set(analysis.by_operator())
    if unknown := {*analysis.unsupported_ops(), *(counted - COUNTED - COUNTED_APART)}:
        raise CostError(
            f"the cost of {', '.join(sorted(unknown))} is unknown, so the total would be too small. "
            "Give it a handler or list it as free in dit_eval/flops.py."
        )
    return analysis


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> dict[str, int]:
    """q·kᵀ and its product with v, for q (…, L, E), k (…, S, E) and v (…, S, Ev)."""
    query, key, value = (each.type().sizes() for each in inputs[:3])
    return {"attention": math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])}
