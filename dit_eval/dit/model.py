"""DiT, the diffusion transformer of Peebles & Xie 2023 (arXiv 2212.09748).

An independent implementation. Parameter names and shapes are those of the public checkpoints; `tests/oracle`
compares the outputs with recorded outputs of the original code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dit_eval.dit.blocks import (
    BLOCKS,
    MLP,
    AdaLNZeroBlock,
    Attention,
    CrossAttention,
    layer_norm,
    modulate,
    modulation,
)
from dit_eval.dit.configs import DIT, DiTConfig, model_name
from dit_eval.errors import UsageError
from dit_eval.runtime.onednn import Linear, linear

MAX_PERIOD = 10_000
FREQUENCY_EMBEDDING_SIZE = 256  # of the timestep, before the MLP


def sinusoids(t: Tensor, frequencies: Tensor) -> Tensor:
    """Embedding of t (N,): F cosines, then as many sines, (N, 2 F)."""
    args = t[:, None] * frequencies
    return torch.cat([args.cos(), args.sin()], dim=-1)


def embedding_frequencies(n: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """n angular frequencies from 1 down towards 1 / MAX_PERIOD, (n,).

    The exponential of the exponents, which are rounded to the dtype as in DiT's code, is computed in float64:
    in float32 it differs between processors in the last bit, which t = 999 magnifies to 2e-5 radians.
    """
    exponents = torch.arange(n, dtype=dtype, device=device) * (-math.log(MAX_PERIOD) / n)
    return exponents.double().exp().to(dtype)


def sincos_pos_embed(hidden_size: int, grid_size: int) -> Tensor:
    """Fixed sine-cosine embedding of a square grid in row-major order: (1, grid_size², hidden_size) float32.

    The first half of the channels encodes the column and the second half the row, sines before cosines.
    """
    positions = torch.arange(grid_size, dtype=torch.float64, device="cpu")
    frequencies = embedding_frequencies(hidden_size // 4, torch.float64, "cpu")
    cos, sin = sinusoids(positions, frequencies).chunk(2, dim=-1)
    pos_embed_1d = torch.cat([sin, cos], dim=-1)  # (grid_size, hidden_size / 2)
    columns, rows = pos_embed_1d.repeat(grid_size, 1), pos_embed_1d.repeat_interleave(grid_size, dim=0)
    return torch.cat([columns, rows], dim=-1).float().unsqueeze(0)


class PatchEmbed(nn.Module):
    """Latents to tokens, one per patch: a convolution with non-overlapping kernels, run as a linear layer."""

    def __init__(self, in_channels: int, hidden_size: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, T, D)."""
        x = x.unflatten(3, (-1, self.patch_size)).unflatten(2, (-1, self.patch_size))  # (N, C, h, p, w, p)
        patches = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (N, T, C · p · p)
        return linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class TimestepEmbedder(nn.Module):
    """Embeds integer or fractional timesteps: sinusoids, then an MLP."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            Linear(FREQUENCY_EMBEDDING_SIZE, hidden_size), nn.SiLU(), Linear(hidden_size, hidden_size)
        )

    def forward(self, t: Tensor) -> Tensor:
        """(N,) → (N, D)."""
        t_freq = sinusoids(t.float(), self.frequencies(t.device))
        return self.mlp(t_freq.to(next(self.mlp.parameters()).dtype))

    def frequencies(self, device: torch.device) -> Tensor:
        """Those of the sinusoids, (FREQUENCY_EMBEDDING_SIZE / 2,) float32."""
        return embedding_frequencies(FREQUENCY_EMBEDDING_SIZE // 2, torch.float32, device)


class LabelEmbedder(nn.Module):
    """Embeds class labels; the last row of the table is the null class of unconditional passes."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, y: Tensor) -> Tensor:
        """(N,) → (N, D)."""
        return self.embedding_table(y)


class FinalLayer(nn.Module):
    """LayerNorm, with adaLN if the blocks use it, and a linear layer from tokens to patches."""

    def __init__(self, hidden_size: int, out_size: int, *, adaptive: bool) -> None:
        super().__init__()
        self.norm_final = layer_norm(hidden_size, affine=not adaptive)
        self.linear = Linear(hidden_size, out_size)
        self.adaLN_modulation = modulation(hidden_size, 2) if adaptive else None

    def condition(self, t: Tensor, y: Tensor) -> Tensor | None:
        """Shift and 1 + scale (N, 2, 1, D); None without adaLN."""
        if self.adaLN_modulation is None:
            return None
        condition = self.adaLN_modulation(t + y).unflatten(-1, (2, 1, -1))
        condition[:, 1:].add_(1)
        return condition

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """(N, T, D) → (N, T, out_size)."""
        x = self.norm_final(x)
        if condition is not None:
            x = modulate(x, *condition.unbind(1), dtype=x.dtype)
        return self.linear(x)


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of a DiT, one row per pair of t and y."""

    tokens: Tensor | None  # (N, 2, D), the in-context tokens
    blocks: tuple[Tensor | None, ...]  # (N, …) for each block
    final: Tensor | None  # (N, 2, 1, D)

    def take(self, rows: Tensor) -> Conditioning:
        """The conditioning of images of which the i-th uses row rows[i]; rows is (N,) int64."""

        def select(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[rows]

        return Conditioning(select(self.tokens), tuple(map(select, self.blocks)), select(self.final))


class DiT(nn.Module):
    """A diffusion transformer: (noised latents, timestep, class) → noise and, if learned, variance.

    `model(x, t, y)` is `model.denoise(x, model.condition(t, y))`. Calling the two separately lets images with
    the same t and y share their conditioning.
    """

    def __init__(
        self,
        config: DiTConfig,
        input_size: int,
        in_channels: int,
        num_classes: int,
        block: str,
        learn_sigma: bool,
    ) -> None:
        super().__init__()
        _require_buildable(config, input_size, block)
        hidden_size, patch_size = config.hidden_size, config.patch_size
        adaptive = block.startswith("adaln")
        self.config, self.block, self.learn_sigma = config, block, learn_sigma
        self.input_size, self.in_channels, self.num_classes = input_size, in_channels, num_classes
        self.out_channels = 2 * in_channels if learn_sigma else in_channels

        self.x_embedder = PatchEmbed(in_channels, hidden_size, patch_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.pos_embed: Tensor
        self.register_buffer("pos_embed", sincos_pos_embed(hidden_size, input_size // patch_size))
        self.blocks = nn.ModuleList(BLOCKS[block](hidden_size, config.num_heads) for _ in range(config.depth))
        self.final_layer = FinalLayer(
            hidden_size, patch_size * patch_size * self.out_channels, adaptive=adaptive
        )
        if not self.final_layer.linear.weight.is_meta:
            self._initialise()

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Latents (N, C, H, W), times (N,), classes (N,) → (N, 2C, H, W), or (N, C, H, W) without variance.

        t may be fractional; y is int64 in 0 … num_classes, where num_classes is the null class.
        """
        return self.denoise(x, self.condition(t, y))

    def condition(self, t: Tensor, y: Tensor) -> Conditioning:
        """The part that depends only on time and class: t (N,), or (1,) if shared by all; y (N,)."""
        t, y = self.t_embedder(t), self.y_embedder(y)  # (N, D) each
        return Conditioning(
            tokens=torch.stack(torch.broadcast_tensors(t, y), dim=1) if self.block == "in-context" else None,
            blocks=tuple(block.condition(t, y) for block in self.blocks),  # type: ignore[operator]
            final=self.final_layer.condition(t, y),
        )

    def denoise(self, x: Tensor, condition: Conditioning) -> Tensor:
        """The part that depends on the image: latents (N, C, H, W) and conditioning → as `forward`."""
        x = self.x_embedder(x) + self.pos_embed  # (N, T, D)
        num_patches = x.shape[1]
        if condition.tokens is not None:
            x = torch.cat([x, condition.tokens], dim=1)  # (N, T + 2, D)
        for block, block_condition in zip(self.blocks, condition.blocks, strict=True):
            x = block(x, block_condition)
        x = self.final_layer(x[:, :num_patches], condition.final)  # (N, T, p · p · C_out)
        return self._unpatchify(x)

    def prepare(self, *, precision: str, compiled: bool = False) -> DiT:
        """This network, converted in place for inference.

        precision: "bf16" computes attention and MLPs in bfloat16; "fp32" and "tf32" differ only by the
        setting of `runtime.precision.computation`. compiled: compile the blocks.
        """
        if precision == "bf16":
            self.cast_blocks(torch.bfloat16)
        if compiled:
            self.compile_blocks()
        return self

    def cast_blocks(self, dtype: torch.dtype) -> None:
        """Cast the weights of attention and MLPs, once and in place; they then compute in `dtype`.

        The residual stream, LayerNorm, embeddings, modulations and the final layer stay in float32. For
        inference only.
        """
        for module in self.blocks.modules():
            if isinstance(module, (Attention, CrossAttention, MLP)):
                weights = {name: weight.to(dtype) for name, weight in module.state_dict().items()}
                module.load_state_dict(weights, assign=True)

    def compile_blocks(self) -> None:
        """Compile the blocks, in place. They share one graph per shape of their input, whatever the depth.

        Kernels are chosen without measuring, because a choice by speed would change rounding between runs.
        """
        for block in self.blocks:
            block.compile(fullgraph=True, dynamic=False, options={"deterministic": True})

    def _unpatchify(self, x: Tensor) -> Tensor:
        """(N, T, p · p · C_out) → (N, C_out, H, W)."""
        p, h = self.config.patch_size, self.input_size // self.config.patch_size
        x = x.unflatten(1, (h, h)).unflatten(-1, (p, p, -1))  # (N, h, h, p, p, C_out)
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def _initialise(self) -> None:
        """Xavier for linear layers, N(0, 0.02²) for the embeddings of t and y, zero for gates and output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        projection = self.x_embedder.proj  # initialised as the linear layer that it is
        nn.init.xavier_uniform_(projection.weight.view(projection.out_channels, -1))
        for weight in (*self.t_embedder.parameters(), self.y_embedder.embedding_table.weight):
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.02)
        for layer in (*self.blocks, self.final_layer):
            if isinstance(layer, (AdaLNZeroBlock, FinalLayer)) and layer.adaLN_modulation is not None:
                zero_(layer.adaLN_modulation)
        zero_(self.final_layer.linear)


def zero_(module: nn.Module) -> None:
    """Set every parameter of the module to zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def build_dit(
    model: str | DiTConfig,
    *,
    input_size: int = 32,
    in_channels: int = 4,
    num_classes: int = 1000,
    block: str = "adaln-zero",
    learn_sigma: bool = True,
) -> DiT:
    """A freshly initialised DiT.

    model: a name such as "XL/2" or "DiT-XL/2", or a configuration; input_size: latent pixels per side; block:
    one of `BLOCKS`; learn_sigma: predict the variance too, in as many additional channels.
    Raises UsageError for unknown names, with the nearest ones, and for sizes that do not divide.
    """
    config = DIT[model_name(model)] if isinstance(model, str) else model
    return DiT(config, input_size, in_channels, num_classes, block, learn_sigma)


def _require_buildable(config: DiTConfig, input_size: int, block: str) -> None:
    if block not in BLOCKS:
        raise UsageError(f"there is no block {block!r}; the blocks are {', '.join(BLOCKS)}.")
    if input_size % config.patch_size:
        raise UsageError(
            f"latents of {input_size}×{input_size} cannot be cut into patches of {config.patch_size} pixels. "
            f"Choose an input size (an eighth of the image's) that {config.patch_size} divides."
        )
    if config.hidden_size % config.num_heads or config.hidden_size % 4:
        raise UsageError(
            f"a hidden size of {config.hidden_size} must be divisible by {config.num_heads} heads and by 4."
        )
