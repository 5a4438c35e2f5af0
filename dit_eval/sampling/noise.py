"""Random numbers that depend on nothing but (seed, image, step): the same on every device, batch and rank.

Bits come from the counter-based generator Philox 4×32-10 (Salmon et al. 2011), keyed by the seed and counting
(word, step, image). Normals come from the Box–Muller transform, with logarithm, sine and cosine written
out in float64 additions, multiplications, divisions and square roots. IEEE 754 rounds these in one way only,
so no bit depends on whose mathematical library is at work. (Never compile this module: a fused
multiply-add would round once where it must round twice.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

Noise = Callable[[int, tuple[int, ...]], Tensor]  # (step of the chain, shape) → standard normal

_LATENT = 0  # the step number of the image's first latents; step k of the chain is k + 1
_LABEL = 2**32 - 1  # the step number of what the plan draws

_MASK = 2**32 - 1
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

_ARCTANH = [float(Fraction(1, 2 * k + 1)) for k in range(11)]  # in s², for |s| ≤ 0.172: 1e-17
_COS = [float(Fraction((-1) ** k, math.factorial(2 * k))) for k in range(9)]  # in φ², for |φ| ≤ π/4: 1e-17
_SIN = [float(Fraction((-1) ** k, math.factorial(2 * k + 1))) for k in range(9)]


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Philox 4×32-10: four int64 tensors of 32-bit words and the key's two words → four such tensors."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]  # wraps modulo 2⁶⁴: every bit is right
        a, b, c, d = (
            ((right >> 32) & _MASK) ^ b ^ k0,
            right & _MASK,
            ((left >> 32) & _MASK) ^ d ^ k1,
            left & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [a, b, c, d]


def random_words(seed: int, indices: Tensor, step: int, count: int) -> Tensor:
    """(N,) int64 indices of images → (N, count) int64 words, uniform in 0 … 2³² − 1."""
    images = indices[:, None]
    blocks = torch.arange(-(-count // 4), dtype=torch.int64, device=indices.device)[None]
    counter = (blocks, torch.full_like(blocks, step), images & _MASK, (images >> 32) & _MASK)
    words = philox(counter, (seed & _MASK, (seed >> 32) & _MASK))
    return torch.stack(torch.broadcast_tensors(*words), dim=-1).flatten(1)[:, :count]


def normals(seed: int, indices: Tensor, step: int, count: int) -> Tensor:
    """(N,) indices of images → (N, count) standard normal float32, to the last bit the same everywhere."""
    words = random_words(seed, indices, step, 2 * (-(-count // 2)))
    radius = _sqrt_minus_2_log(words[:, 0::2])
    cos, sin = _circle(words[:, 1::2])
    return torch.stack([(radius * cos).float(), (radius * sin).float()], dim=-1).flatten(1)[:, :count]


class ImageNoise:
    """The noise of a few images: `latents` to start from, then one draw for each step of a chain."""

    def __init__(self, seed: int, indices: Tensor) -> None:
        """indices: (N,) int64, on the device where the noise is wanted."""
        self.seed, self.indices = seed, indices

    def latents(self, shape: tuple[int, ...]) -> Tensor:
        """Where the chains start: (N, C, H, W) float32."""
        return self._draw(_LATENT, shape)

    def __call__(self, step: int, shape: tuple[int, ...]) -> Tensor:
        """The noise that step number `step` adds, counted from 0 in the order of the chain."""
        return self._draw(1 + step, shape)

    def _draw(self, step: int, shape: tuple[int, ...]) -> Tensor:
        assert shape[0] == len(self.indices)
        return normals(self.seed, self.indices, step, math.prod(shape[1:])).view(shape)


def label_words(seed: int, indices: Tensor) -> Tensor:
    """One 32-bit word for each index, from a stream that no image's noise touches: (N,) int64."""
    return random_words(seed, indices, _LABEL, 1)[:, 0]


def _sqrt_minus_2_log(words: Tensor) -> Tensor:
    """√(−2 log u) for u = (word + ½)/2³²."""
    fraction, exponent = torch.frexp((words.double() + 0.5) * 2.0**-32)  # u = fraction · 2^exponent
    middle = math.sqrt(0.5)
    s = (fraction - middle) / (fraction + middle)
    log = _horner(_ARCTANH, s * s).mul_(s).mul_(2.0).add_(exponent.double().sub_(0.5).mul_(math.log(2.0)))
    return log.mul_(-2.0).clamp_(min=0.0).sqrt_()


def _circle(words: Tensor) -> tuple[Tensor, Tensor]:
    """cos θ and sin θ for θ = 2π (word + ½)/2³² − π: the series at θ/4, then the angle doubled twice."""
    angle = (words.double() + (0.5 - 2.0**31)) * (math.pi / 2 * 2.0**-32)
    square = angle * angle
    cos, sin = _horner(_COS, square), _horner(_SIN, square).mul_(angle)
    for _ in range(2):
        cos, sin = (cos - sin) * (cos + sin), (cos * sin).mul_(2.0)
    return cos, sin


def _horner(coefficients: list[float], x: Tensor) -> Tensor:
    """Σ coefficients[k] xᵏ, rounded after every multiplication and every addition."""
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total.mul_(x).add_(coefficient)
    return total
