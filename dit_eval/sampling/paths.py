"""The interpolation paths on which flow models are trained (Ma et al. 2024, arXiv 2401.08740).

x_t = α x₁ + σ ε. Time runs as in SiT's released code, from noise at t = 0 to data x₁ at t = 1; in the paper
it runs the other way. A network predicts the velocity E[α̇ x₁ + σ̇ ε | x], the data E[x₁ | x], the score
−E[ε | x]/σ or the noise E[ε | x]; on a given path any one of them determines the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class PathCoefficients(NamedTuple):
    """α, σ and their derivatives with respect to time: at one time, or tensors for the times of images."""

    alpha: Any
    sigma: Any
    d_alpha: Any
    d_sigma: Any

    @property
    def wronskian(self) -> Any:
        """α̇σ − ασ̇, the determinant of the linear map from (data, noise) to (velocity, state)."""
        return self.d_alpha * self.sigma - self.alpha * self.d_sigma


def _elementwise(name: str) -> Callable[[Any], Any]:
    """The function of this name, of a number or a tensor."""
    return lambda x: getattr(torch if isinstance(x, Tensor) else math, name)(x)


_sin, _cos, _exp, _expm1, _sqrt = map(_elementwise, ("sin", "cos", "exp", "expm1", "sqrt"))


def linear(t: Any) -> PathCoefficients:
    """The straight line from noise to data, on which the public SiT was trained."""
    return PathCoefficients(t, 1 - t, 1.0, -1.0)


def gvp(t: Any) -> PathCoefficients:
    """Generalised variance preserving: α² + σ² = 1, at constant angular speed."""
    angle = math.pi / 2 * t
    alpha, sigma = _sin(angle), _cos(angle)
    return PathCoefficients(alpha, sigma, math.pi / 2 * sigma, -math.pi / 2 * alpha)


def vp(t: Any) -> PathCoefficients:
    """Variance preserving with β linear in time, from 20 at the noise to 0.1 at the data (Song et al. 2021).

    α is 0.0066, not 0, at t = 0; σ̇ is infinite at t = 1, which a tensor of times must not contain.
    """
    beta_min, beta_max = 0.1, 20.0
    remaining = 1 - t
    beta = beta_min + remaining * (beta_max - beta_min)
    log_alpha = -0.5 * remaining * (beta_min + beta) / 2
    alpha, sigma = _exp(log_alpha), _sqrt(-_expm1(2 * log_alpha))
    d_alpha = alpha * beta / 2
    at_end = not isinstance(t, Tensor) and sigma == 0
    return PathCoefficients(alpha, sigma, d_alpha, -math.inf if at_end else -alpha * d_alpha / sigma)


PATHS: dict[str, Callable[[Any], PathCoefficients]] = {"linear": linear, "gvp": gvp, "vp": vp}

Conversion = Callable[[Tensor, Tensor, PathCoefficients], Tensor]
_TO_NOISE: dict[str, Conversion] = {  # (prediction, x, coefficients) → ε
    "velocity": lambda velocity, x, c: (c.d_alpha * x - c.alpha * velocity) / c.wronskian,
    "score": lambda score, x, c: -c.sigma * score,
    "noise": lambda noise, x, c: noise,
}
_FROM_NOISE: dict[str, Conversion] = {  # (ε, x, coefficients) → prediction
    "velocity": lambda noise, x, c: (c.d_alpha * x - c.wronskian * noise) / c.alpha,
    "x": lambda noise, x, c: (x - c.sigma * noise) / c.alpha,
    "score": lambda noise, x, c: -noise / c.sigma,
    "noise": lambda noise, x, c: noise,
}
PREDICTIONS = ("velocity", "x", "score", "noise")  # x: the data


def convert(
    prediction: Tensor,
    x: Tensor,
    coefficients: PathCoefficients,
    *,
    given: str,
    wanted: str,
    t_eps: float = 0.0,
) -> Tensor:
    """Convert a prediction at the state x to another parametrisation; all tensors are (N, C, H, W).

    given, wanted: keys of `PREDICTIONS`. Converting to a velocity or to data needs α > 0, from data or to a
    score σ > 0. t_eps: the smallest σ by which a prediction of data is divided, as in JiT.
    """
    if given == wanted:
        return prediction
    if given == "x":
        sigma = coefficients.sigma
        divisor = sigma.clamp(min=t_eps) if isinstance(sigma, Tensor) else max(sigma, t_eps)
        if wanted == "velocity":  # not by way of the noise, which needs α > 0
            return (coefficients.d_sigma * x + coefficients.wronskian * prediction) / divisor
        noise = (x - coefficients.alpha * prediction) / divisor
    else:
        noise = _TO_NOISE[given](prediction, x, coefficients)
    return _FROM_NOISE[wanted](noise, x, coefficients)
