"""The cost of a model by operator, in multiply-adds (MACs).

The DiT paper's "Gflops" are the MACs of a forward pass of one image. Matrix products, convolutions and linear
layers are counted. Elementwise operators and data movement are listed below as free; any other operator is an
error, because leaving it out would give too small a total.
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

from dit_eval.dit import DIT, DiT, DiTConfig, model_name
from dit_eval.errors import CostError, UsageError, require_positive
from dit_eval.io import assets

with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch.jit.script is deprecated
    from fvcore.nn import FlopCountAnalysis

VAE_STRIDE = 8  # image pixels per latent pixel

CONDITIONING = ("t_embedder", "adaLN_modulation", "kv")  # modules that see t and y only

FREE = (  # elementwise operators, reductions and data movement, in addition to fvcore's own list
    *("add", "addcmul", "addcdiv", "sub", "rsub", "mul", "div", "neg", "reciprocal", "abs", "sign", "fmod"),
    *("exp", "log", "pow", "sqrt", "rsqrt", "square", "cos", "sin", "tanh", "sigmoid", "erf", "round"),
    *("silu", "gelu", "leaky_relu", "hardtanh", "softplus", "softmax", "log_softmax"),
    *("mean", "sum", "var", "std", "norm", "linalg_vector_norm", "amax", "min", "argmax", "argsort"),
    *("cumsum", "minimum", "maximum", "where", "eq", "ne", "lt", "le", "gt", "ge"),
    *("logical_not", "logical_and", "logical_or", "logical_xor"),
    *("bitwise_not", "bitwise_and", "bitwise_or", "bitwise_xor", "__and__", "__or__", "__xor__"),
    *("broadcast_tensors", "expand_as", "unflatten", "reshape_as", "view_as", "repeat", "repeat_interleave"),
    *("embedding", "index_select", "scatter", "clone", "movedim", "swapaxes", "flip", "tile", "ones_like"),
    *("linspace", "new_ones", "rand", "randn", "rand_like", "randn_like", "randperm", "lift_fresh"),
    *("mul_", "add_", "sub_", "div_", "masked_fill_", "fill_", "zero_", "silu_", "alias", "pad"),
    *("numpy_T", "meshgrid", "outer", "complex", "view_as_complex", "view_as_real", "feature_dropout"),
)
COUNTED = {"attention", "linear", "conv", "addmm", "matmul", "mm", "bmm", "einsum"}
PER_ELEMENT = {  # counted by fvcore, not part of the MACs
    *("layer_norm", "group_norm", "batch_norm", "instance_norm"),
    *("upsample_nearest2d", "upsample_bilinear2d", "adaptive_avg_pool2d"),
}

VAE = "sd-vae-ft-ema"  # decoder of the public models; sd-vae-ft-mse has the same architecture


@dataclass(frozen=True, kw_only=True)
class FlopCount:
    """The cost of a forward pass of one image.

    by_operator: MACs of "attention", "linear", "convolution" and "conditioning"; layer_norm: fvcore's count
    for LayerNorm, 4 or 5 per element, not included in `macs`.
    """

    by_operator: Mapping[str, int]
    layer_norm: int
    params: int

    @property
    def macs(self) -> int:
        """Total multiply-adds, the paper's "flops"."""
        return sum(self.by_operator.values())

    @property
    def flops(self) -> int:
        """Floating-point operations: two per multiply-add."""
        return 2 * self.macs


def count_flops(
    model: str | DiTConfig,
    *,
    image_size: int = 256,
    input_size: int | None = None,
    in_channels: int = 4,
    num_classes: int = 1000,
    block: str = "adaln-zero",
    learn_sigma: bool = True,
) -> FlopCount:
    """The cost of a forward pass of one image through a DiT, counted without running it.

    image_size: pixels per side of the images, an eighth of which is the network's input; input_size: pixels
    per side of that input, instead of `image_size`, for models of pixels or with another decoder; the other
    parameters: see `build_dit`.
    "conditioning": linear layers that see only t and y (in-context tokens are part of the sequence);
    "convolution": the patch embedding; "attention": its two matrix products; "linear": all other layers.
    Raises UsageError for an unknown model or block, or a size that the model cannot process.

    >>> round(dit_eval.count_flops("XL/2").macs / 1e9, 2)
    118.62
    """
    if input_size is None:
        input_size = _latent_size(image_size)
    require_positive(input_size=input_size, in_channels=in_channels, num_classes=num_classes)
    config = DIT[model_name(model)] if isinstance(model, str) else model
    depth_1, depth_2 = (
        _trace_dit(replace(config, depth=depth), input_size, in_channels, num_classes, block, learn_sigma)
        for depth in (1, 2)
    )  # all blocks have the same cost
    total = {key: count + (config.depth - 1) * (depth_2[key] - count) for key, count in depth_1.items()}
    return FlopCount(layer_norm=total.pop("layer_norm"), params=total.pop("params"), by_operator=total)


def _latent_size(image_size: int) -> int:
    require_positive(image_size=image_size)
    if image_size % VAE_STRIDE:
        raise UsageError(
            f"image size {image_size} is not divisible by the VAE's stride; use a multiple of {VAE_STRIDE}."
        )
    return image_size // VAE_STRIDE


@cache
def _trace_dit(
    config: DiTConfig, input_size: int, in_channels: int, num_classes: int, block: str, learn_sigma: bool
) -> dict[str, int]:
    """The counts of `FlopCount` by name, from tracing a DiT on meta tensors."""
    with torch.device("meta"):
        dit = DiT(config, input_size, in_channels, num_classes, block, learn_sigma).to("meta").eval()
        latents = torch.empty(1, in_channels, input_size, input_size)
        t, y = torch.empty(1), torch.empty(1, dtype=torch.int64)
    analysis = analyse(dit, (latents, t, y))
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
    """The cost of decoding an image of image_size × image_size pixels with the SD VAE.

    fvcore cannot trace convolutions on meta tensors, so the decoder is run on a latent of one pixel and its
    counts are scaled: layers by the number of pixels, attention by its square. Both are exact.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(**assets.lookup("models", VAE).config)
    assert vae.post_quant_conv is not None
    decoder = nn.Sequential(vae.post_quant_conv, vae.decoder).to_empty(device="cpu").eval()
    macs = analyse(decoder, (torch.zeros(1, 4, 1, 1),)).by_operator()
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


def analyse(model: nn.Module, inputs: tuple[Tensor, ...]) -> FlopCountAnalysis:
    """fvcore's analysis, with attention. Raises CostError for an operator without a registered cost."""
    analysis = FlopCountAnalysis(model, inputs)
    analysis.tracer_warnings("none").unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
    analysis.set_op_handle("dit_eval::linear", _linear_macs)
    analysis.set_op_handle(**{f"aten::{name}": None for name in FREE})
    with torch.no_grad():
        counted = set(analysis.by_operator())
    if unknown := {*analysis.unsupported_ops(), *(counted - COUNTED - PER_ELEMENT)}:
        raise CostError(
            f"the cost of {', '.join(sorted(unknown))} is unknown, so the total would be too small. "
            "Give it a handler, or list it as free in dit_eval/cost/counter.py."
        )
    return analysis


def _linear_macs(inputs: list[Any], outputs: list[Any]) -> dict[str, int]:
    """x (…, K) times weight (M, K)ᵀ, see `runtime.onednn.linear`."""
    x, weight = (tensor.type().sizes() for tensor in inputs[:2])
    return {"linear": math.prod(x) * weight[0]}


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> dict[str, int]:
    """q·kᵀ and its product with v, for q (…, L, E), k (…, S, E) and v (…, S, Ev)."""
    query, key, value = (tensor.type().sizes() for tensor in inputs[:3])
    return {"attention": math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])}
