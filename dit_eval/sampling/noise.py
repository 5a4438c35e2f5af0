"""Random numbers that depend only on (seed, image, step): bit-identical on every device, batch and rank.

Bits come from the counter-based generator Philox 4×32-10 (Salmon et al. 2011) with the seed as key and
(word, step, image) as counter. Normals come from the Box–Muller transform, with logarithm, sine and cosine
computed from float64 additions, multiplications, divisions and square roots. IEEE 754 specifies the rounding
of these, so no bit depends on the math library. Do not compile this module: a fused multiply-add rounds once
where two roundings are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

Noise = Callable[[int, tuple[int, ...]], Tensor]  # (sampling step, shape) → standard normal noise

# The step word of the counter: 0 for the initial latents, k + 1 for sampling step k, the maximum for labels
_LATENT = 0
_LABEL = 2**32 - 1

_MASK = 2**32 - 1
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

# Taylor coefficients; truncation error 1e-17 for |s| ≤ 0.172 (arctanh, in s²) and |φ| ≤ π/4 (cos, sin, in φ²)
_ARCTANH = [float(Fraction(1, 2 * k + 1)) for k in range(11)]
_COS = [float(Fraction((-1) ** k, math.factorial(2 * k))) for k in range(9)]
_SIN = [float(Fraction((-1) ** k, math.factorial(2 * k + 1))) for k in range(9)]


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Philox 4×32-10: a counter of four int64 tensors of 32-bit words, a key of two words → four tensors."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]  # wraps modulo 2⁶⁴, which keeps all 64 bits
        a, b, c, d = (
            ((right >> 32) & _MASK) ^ b ^ k0,
            right & _MASK,
            ((left >> 32) & _MASK) ^ d ^ k1,
            left & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [a, b, c, d]


def random_words(seed: int, indices: Tensor, step: int, count: int, *, steps: int = 1) -> Tensor:
    """Image indices (N,) int64 → (N, count) int64 words, uniform in 0 … 2³² − 1.

    steps: the number of steps from `step` on, one after another: (N · steps, count), step by step.
    """
    device = indices.device
    first_step = torch.full((), step, dtype=torch.int64, device=device)
    images = indices[:, None]
    blocks = torch.arange(-(-count // 4), dtype=torch.int64, device=device)
    counter = (
        blocks,
        first_step + torch.arange(steps, device=device)[:, None, None],
        images & _MASK,
        (images >> 32) & _MASK,
    )
    words = philox(counter, (seed & _MASK, (seed >> 32) & _MASK))  # (steps, N, ⌈count / 4⌉) each
    return torch.stack(torch.broadcast_tensors(*words), dim=-1).flatten(2).flatten(0, 1)[:, :count]


def normals(seed: int, indices: Tensor, step: int, count: int, *, steps: int = 1) -> Tensor:
    """Image indices (N,) int64 → (N, count) standard normal float32, bit-identical everywhere.

    steps: as for `random_words`.
    """
    words = random_words(seed, indices, step, 2 * (-(-count // 2)), steps=steps)
    radius = _sqrt_minus_2_log(words[:, 0::2])
    cos, sin = _circle(words[:, 1::2])
    return torch.stack([(radius * cos).float(), (radius * sin).float()], dim=-1).flatten(1)[:, :count]


class ImageNoise:
    """The noise of a batch of images: the initial `latents`, then one draw per sampling step.

    A draw takes about 200 small kernels, whatever its size. On a CUDA device, where launching them takes
    longer than running them, the noise of several steps is drawn at once.
    """

    def __init__(self, seed: int, indices: Tensor) -> None:
        """indices: (N,) int64, on the device on which to generate the noise."""
        self.seed, self.indices = seed, indices
        self._steps, self._drawn = range(0), torch.empty(0)  # the steps drawn last, and their noise

    def latents(self, shape: tuple[int, ...]) -> Tensor:
        """The noise from which sampling starts: (N, C, H, W) float32."""
        assert shape[0] == len(self.indices)
        return normals(self.seed, self.indices, _LATENT, math.prod(shape[1:])).view(shape)

    def __call__(self, step: int, shape: tuple[int, ...]) -> Tensor:
        """The noise (N, …) float32 that sampling step `step` adds; steps are counted from 0."""
        assert shape[0] == len(self.indices)
        if step not in self._steps or self._drawn.shape[1:] != shape:
            steps = _steps_at_once(math.prod(shape), self.indices.device)
            drawn = normals(self.seed, self.indices, 1 + step, math.prod(shape[1:]), steps=steps)
            self._steps, self._drawn = range(step, step + steps), drawn.view(steps, *shape)
        return self._drawn[step - self._steps.start]


def _steps_at_once(numbers: int, device: torch.device) -> int:
    """How many steps of so many numbers are drawn at once.

    On a CUDA device at most two million numbers, which take 130 MB, and 32 steps, because the last ones of a
    chain may be drawn in vain. On a CPU one step, which takes as long per number.
    """
    return max(1, min(32, 2**21 // numbers)) if device.type == "cuda" else 1


def label_words(seed: int, indices: Tensor) -> Tensor:
    """One 32-bit word per image, (N,) int64, from a stream that is independent of the images' noise."""
    return random_words(seed, indices, _LABEL, 1)[:, 0]


def _sqrt_minus_2_log(words: Tensor) -> Tensor:
    """√(−2 log u) for u = (word + ½)/2³²."""
    fraction, exponent = torch.frexp((words.double() + 0.5) * 2.0**-32)  # u = fraction · 2^exponent
    middle = math.sqrt(0.5)
    s = (fraction - middle) / (fraction + middle)
    log = _horner(_ARCTANH, s * s).mul_(s).mul_(2.0).add_(exponent.double().sub_(0.5).mul_(math.log(2.0)))
    return log.mul_(-2.0).clamp_(min=0.0).sqrt_()


def _circle(words: Tensor) -> tuple[Tensor, Tensor]:
    """cos θ and sin θ for θ = 2π (word + ½)/2³² − π: Taylor series at θ/4, then two angle doublings."""
    angle = (words.double() + (0.5 - 2.0**31)) * (math.pi / 2 * 2.0**-32)
    square = angle * angle
    cos, sin = _horner(_COS, square), _horner(_SIN, square).mul_(angle)
    for _ in range(2):
        cos, sin = (cos - sin) * (cos + sin), (cos * sin).mul_(2.0)
    return cos, sin


def _horner(coefficients: list[float], x: Tensor) -> Tensor:
    """Σ coefficients[k] xᵏ with a rounding after every multiplication and every addition."""
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total.mul_(x).add_(coefficient)
    return total
