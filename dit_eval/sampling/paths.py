"""The paths from noise to data along which flows are trained (Ma et al. 2024, arXiv 2401.08740).

x_t = α x₁ + σ ε. Time runs as in SiT's released code: pure noise at t = 0 and data x₁ at t = 1, the other way
round than in the paper. A network predicts the velocity E[α̇ x₁ + σ̇ ε | x], the score −E[ε | x]/σ or the
noise E[ε | x]; on a given path each of them follows from any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Point(NamedTuple):
    """A path at one time: how much there is of data and noise, and how fast that changes."""

    alpha: float
    sigma: float
    d_alpha: float  # dα/dt
    d_sigma: float

    @property
    def turn(self) -> float:
        """α̇σ − ασ̇, by which velocity and state differ in their shares of data and noise."""
        return self.d_alpha * self.sigma - self.alpha * self.d_sigma


def linear(t: float) -> Point:
    """A straight line from noise to data; that of the public SiT."""
    return Point(t, 1 - t, 1.0, -1.0)


def gvp(t: float) -> Point:
    """Variance preserving along a circle: α² + σ² = 1, at constant speed."""
    angle = math.pi / 2 * t
    alpha, sigma = math.sin(angle), math.cos(angle)
    return Point(alpha, sigma, math.pi / 2 * sigma, -math.pi / 2 * alpha)


def vp(t: float) -> Point:
    """Variance preserving with β linear in time, from 20 at the noise to 0.1 at the data (Song et al. 2021).

    α is 0.0066 and not 0 at t = 0; σ̇ is not finite at t = 1.
    """
    low, high = 0.1, 20.0
    left = 1 - t
    beta = low + left * (high - low)
    log_alpha = -0.5 * left * (low + beta) / 2
    alpha, sigma = math.exp(log_alpha), math.sqrt(-math.expm1(2 * log_alpha))
    d_alpha = alpha * beta / 2
    return Point(alpha, sigma, d_alpha, -alpha * d_alpha / sigma if sigma else -math.inf)


Path = Callable[[float], Point]
PATHS: dict[str, Path] = {"linear": linear, "gvp": gvp, "vp": vp}

# (prediction, x, point) → ε, and (ε, x, point) → prediction
_TO_NOISE: dict[str, Callable[[Tensor, Tensor, Point], Tensor]] = {
    "velocity": lambda velocity, x, at: (at.d_alpha * x - at.alpha * velocity) / at.turn,
    "score": lambda score, x, at: -at.sigma * score,
    "noise": lambda noise, x, at: noise,
}
_FROM_NOISE: dict[str, Callable[[Tensor, Tensor, Point], Tensor]] = {
    "velocity": lambda noise, x, at: (at.d_alpha * x - at.turn * noise) / at.alpha,
    "score": lambda noise, x, at: -noise / at.sigma,
    "noise": lambda noise, x, at: noise,
}
PREDICTIONS = tuple(_TO_NOISE)


def convert(prediction: Tensor, x: Tensor, at: Point, *, given: str, wanted: str) -> Tensor:
    """One prediction for the state x, as another: "velocity", "score" or "noise"; all (N, C, H, W).

    A velocity that was not given needs α > 0; a score that was not given, or a noise from one, needs σ > 0.
    """
    if given == wanted:
        return prediction
    return _FROM_NOISE[wanted](_TO_NOISE[given](prediction, x, at), x, at)
