"""The four ways in which a DiT block is told the time and the class (Peebles & Xie 2023, figure 3).

Every block has the same two methods:

    condition(t, y) → what the block takes from the embeddings t, y (N, D); no image needed
    forward(x, condition) → the tokens x (N, T, D) after the block

so that the first can be computed once and shared by all images of the same time and class.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dit_eval.linear import Linear

MLP_RATIO = 4


def layer_norm(width: int, *, affine: bool) -> nn.LayerNorm:
    """LayerNorm over one token, with DiT's epsilon."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=affine)


def modulation(width: int, parts: int) -> nn.Sequential:
    """(N, D) → (N, parts · D): the regression of shifts, scales and gates from the conditioning."""
    return nn.Sequential(nn.SiLU(), Linear(width, parts * width))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x · (1 + scale) + shift, for x (N, T, D) and shift, scale (N, 1, D)."""
    return torch.addcmul(shift, x, 1 + scale)


class Attention(nn.Module):
    """Multi-head self-attention; `qkv` holds query, key and value one after the other, as in timm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) → (N, T, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)  # (N, heads, T, D / heads)
        return self.proj(x.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention from the image's tokens to another sequence."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = Linear(width, width)
        self.kv = Linear(width, 2 * width)
        self.proj = Linear(width, width)

    def condition(self, sequence: Tensor) -> Tensor:
        """(N, S, D) → keys and values (N, 2, heads, S, D / heads)."""
        return self.kv(sequence).unflatten(-1, (2, self.heads, -1)).permute(0, 2, 3, 1, 4)

    def forward(self, x: Tensor, kv: Tensor) -> Tensor:
        """(N, T, D), keys and values → (N, T, D)."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = kv.unbind(1)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with the tanh form of GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, MLP_RATIO * width, gelu=True)
        self.fc2 = Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) → (N, T, D)."""
        return self.fc2(self.fc1(x))


class AdaLNZeroBlock(nn.Module):
    """adaLN with a gate on either branch; gates start at zero, so the block starts as the identity."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = layer_norm(width, affine=False)
        self.attn = Attention(width, heads)
        self.norm2 = layer_norm(width, affine=False)
        self.mlp = MLP(width)
        self.adaLN_modulation = modulation(width, 6)

    def condition(self, t: Tensor, y: Tensor) -> Tensor:
        """Shift, scale and gate of attention, then of the MLP: (N, 6, 1, D)."""
        return self.adaLN_modulation(t + y).unflatten(-1, (6, 1, -1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, T, D), (N, 6, 1, D) → (N, T, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = condition.unbind(1)
        x = torch.addcmul(x, gate1, self.attn(modulate(self.norm1(x), shift1, scale1)))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


class AdaLNBlock(nn.Module):
    """Shift and scale of each LayerNorm are regressed from t + y."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = layer_norm(width, affine=False)
        self.attn = Attention(width, heads)
        self.norm2 = layer_norm(width, affine=False)
        self.mlp = MLP(width)
        self.adaLN_modulation = modulation(width, 4)

    def condition(self, t: Tensor, y: Tensor) -> Tensor:
        """Shift and scale before attention, then before the MLP: (N, 4, 1, D)."""
        return self.adaLN_modulation(t + y).unflatten(-1, (4, 1, -1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, T, D), (N, 4, 1, D) → (N, T, D)."""
        shift1, scale1, shift2, scale2 = condition.unbind(1)
        x = x + self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + self.mlp(modulate(self.norm2(x), shift2, scale2))


class CrossAttentionBlock(nn.Module):
    """A cross-attention to the sequence (t, y) follows self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = layer_norm(width, affine=True)
        self.attn = Attention(width, heads)
        self.norm_cross = layer_norm(width, affine=True)
        self.cross_attn = CrossAttention(width, heads)
        self.norm2 = layer_norm(width, affine=True)
        self.mlp = MLP(width)

    def condition(self, t: Tensor, y: Tensor) -> Tensor:
        """Keys and values of the two embeddings: (N, 2, heads, 2, D / heads)."""
        return self.cross_attn.condition(torch.stack(torch.broadcast_tensors(t, y), dim=1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, T, D), keys and values → (N, T, D)."""
        x = x + self.attn(self.norm1(x))
        x = x + self.cross_attn(self.norm_cross(x), condition)
        return x + self.mlp(self.norm2(x))


class InContextBlock(nn.Module):
    """A plain ViT block; the model puts t and y into the sequence as two more tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = layer_norm(width, affine=True)
        self.attn = Attention(width, heads)
        self.norm2 = layer_norm(width, affine=True)
        self.mlp = MLP(width)

    def condition(self, t: Tensor, y: Tensor) -> None:
        """Nothing: the tokens carry it."""

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
