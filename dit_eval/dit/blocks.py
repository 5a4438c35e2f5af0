"""The DiT block in its four variants of conditioning on time and class (Peebles & Xie 2023, figure 3).

Every block has two methods:

    condition(t, y) → the block's conditioning from the embeddings t, y (N, D), independent of the image
    forward(x, condition) → the tokens x (N, T, D) after the block

so that conditioning is computed once and shared by all images with the same time and class.

Attention and MLP compute in the dtype of their weights, float32 or bfloat16; everything else is float32: the
residual stream, LayerNorm, and conditioning.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dit_eval.runtime.onednn import Linear

MLP_RATIO = 4


def layer_norm(hidden_size: int, *, affine: bool) -> nn.LayerNorm:
    """LayerNorm over one token, with DiT's epsilon."""
    return nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=affine)


def modulation(hidden_size: int, parts: int) -> nn.Sequential:
    """The layer that regresses shifts, scales and gates from the conditioning: (N, D) → (N, parts · D)."""
    return nn.Sequential(nn.SiLU(), Linear(hidden_size, parts * hidden_size))


def modulate(x: Tensor, shift: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """x · factor + shift in `dtype`, for x (N, T, D) and shift, factor (N, 1, D), factor = 1 + scale."""
    if x.dtype == dtype:
        return torch.addcmul(shift, x, factor)
    return torch.addcmul(shift, x, factor, out=x.new_empty(x.shape, dtype=dtype))  # one kernel casts too


class Attention(nn.Module):
    """Multi-head self-attention; `qkv` is the concatenation of query, key and value, as in timm."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.proj = Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) → (N, T, D)."""
        qkv = self.qkv(x.to(self.qkv.weight.dtype)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)  # (N, num_heads, T, D / num_heads)
        return self.proj(x.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention from the image tokens to the conditioning sequence."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(hidden_size, hidden_size)
        self.kv = Linear(hidden_size, 2 * hidden_size)
        self.proj = Linear(hidden_size, hidden_size)

    def condition(self, sequence: Tensor) -> Tensor:
        """(N, S, D) → keys and values (N, 2, num_heads, S, D / num_heads)."""
        kv = self.kv(sequence.to(self.kv.weight.dtype)).unflatten(-1, (2, self.num_heads, -1))
        return kv.permute(0, 2, 3, 1, 4)

    def forward(self, x: Tensor, kv: Tensor) -> Tensor:
        """(N, T, D), keys and values → (N, T, D)."""
        q = self.q(x.to(self.q.weight.dtype)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = kv.unbind(1)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with the tanh approximation of GELU between them."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = Linear(hidden_size, MLP_RATIO * hidden_size, gelu=True)
        self.fc2 = Linear(MLP_RATIO * hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) → (N, T, D)."""
        return self.fc2(self.fc1(x.to(self.fc1.weight.dtype)))


class _Block(nn.Module):
    """The layers common to all variants: attention and MLP, each after a LayerNorm."""

    def __init__(self, hidden_size: int, num_heads: int, *, affine: bool = True) -> None:
        super().__init__()
        self.norm1 = layer_norm(hidden_size, affine=affine)
        self.attn = Attention(hidden_size, num_heads)
        self.norm2 = layer_norm(hidden_size, affine=affine)
        self.mlp = MLP(hidden_size)


class AdaLNZeroBlock(_Block):
    """adaLN with a gate on each branch, initialised to zero, so that a new block is the identity."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__(hidden_size, num_heads, affine=False)
        self.adaLN_modulation = modulation(hidden_size, 6)

    def condition(self, t: Tensor, y: Tensor) -> Tensor:
        """Shift, 1 + scale and gate for attention, then for the MLP: (N, 6, 1, D)."""
        condition = self.adaLN_modulation(t + y).unflatten(-1, (6, 1, -1))
        condition[:, 1::3].add_(1)
        return condition

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, T, D), (N, 6, 1, D) → (N, T, D)."""
        shift_msa, factor_msa, gate_msa, shift_mlp, factor_mlp, gate_mlp = condition.unbind(1)
        dtype = self.mlp.fc1.weight.dtype
        x = torch.addcmul(x, gate_msa, self.attn(modulate(self.norm1(x), shift_msa, factor_msa, dtype)))
        return torch.addcmul(x, gate_mlp, self.mlp(modulate(self.norm2(x), shift_mlp, factor_mlp, dtype)))


class AdaLNBlock(_Block):
    """Shift and scale of each LayerNorm are regressed from t + y."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__(hidden_size, num_heads, affine=False)
        self.adaLN_modulation = modulation(hidden_size, 4)

    def condition(self, t: Tensor, y: Tensor) -> Tensor:
        """Shift and 1 + scale before attention, then before the MLP: (N, 4, 1, D)."""
        condition = self.adaLN_modulation(t + y).unflatten(-1, (4, 1, -1))
        condition[:, 1::2].add_(1)
        return condition

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, T, D), (N, 4, 1, D) → (N, T, D)."""
        shift_msa, factor_msa, shift_mlp, factor_mlp = condition.unbind(1)
        dtype = self.mlp.fc1.weight.dtype
        x = x + self.attn(modulate(self.norm1(x), shift_msa, factor_msa, dtype))
        return x + self.mlp(modulate(self.norm2(x), shift_mlp, factor_mlp, dtype))


class CrossAttentionBlock(_Block):
    """Cross-attention to the sequence (t, y) after self-attention."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__(hidden_size, num_heads)
        self.norm_cross = layer_norm(hidden_size, affine=True)
        self.cross_attn = CrossAttention(hidden_size, num_heads)

    def condition(self, t: Tensor, y: Tensor) -> Tensor:
        """Keys and values of the two embeddings: (N, 2, num_heads, 2, D / num_heads)."""
        return self.cross_attn.condition(torch.stack(torch.broadcast_tensors(t, y), dim=1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, T, D), keys and values → (N, T, D)."""
        x = x + self.attn(self.norm1(x))
        x = x + self.cross_attn(self.norm_cross(x), condition)
        return x + self.mlp(self.norm2(x))


class InContextBlock(_Block):
    """A plain ViT block; the model appends t and y to the sequence as two tokens."""

    def condition(self, t: Tensor, y: Tensor) -> None:
        """None: the conditioning is in the tokens."""

    def forward(self, x: Tensor, condition: None) -> Tensor:
        """(N, T, D) → (N, T, D)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


BLOCKS = {
    "adaln-zero": AdaLNZeroBlock,
    "adaln": AdaLNBlock,
    "cross-attention": CrossAttentionBlock,
    "in-context": InContextBlock,
}
