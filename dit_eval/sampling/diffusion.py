"""Diffusion samplers: DDPM (Ho et al. 2020) and DDIM (Song et al. 2021)."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from dit_eval.sampling.guidance import Denoiser
from dit_eval.sampling.noise import Noise
from dit_eval.sampling.schedules import Schedule


def ddpm(denoiser: Denoiser, x: Tensor, schedule: Schedule, noise: Noise, *, clip: bool = False) -> Tensor:
    """Walk the chain from noise x (N, C, H, W) to samples of the same shape.

    denoiser: (x, t) → the noise ε in x and, in as many channels again, where the variance lies between
    β̃ (−1) and β (1); without those channels it is β. clip: keep every predicted image within ±1.
    """
    log_betas = np.log(schedule.betas)
    for step, k in enumerate(reversed(range(len(schedule)))):
        output = denoiser(x, int(schedule.timesteps[k]))
        epsilon, rest = output[:, : x.shape[1]], output[:, x.shape[1] :]
        start = _predicted_start(x, epsilon, schedule, k, clip=clip)
        mean = float(schedule.posterior_mean_coef1[k]) * start + float(schedule.posterior_mean_coef2[k]) * x
        if k == 0:
            return mean
        low, high = float(schedule.posterior_log_variance_clipped[k]), float(log_betas[k])
        log_variance = low + (high - low) * (rest + 1) / 2 if rest.shape[1] else x.new_full((), high)
        x = mean + (0.5 * log_variance).exp() * noise(step, x.shape)
    raise AssertionError("a schedule has at least one step")


def ddim(
    denoiser: Denoiser, x: Tensor, schedule: Schedule, noise: Noise, *, eta: float = 0.0, clip: bool = False
) -> Tensor:
    """Walk the chain from noise x (N, C, H, W) to samples of the same shape; equation 12 of the paper.

    denoiser: (x, t) → the noise ε in x; further channels are not used. eta: 0 adds no noise on the way,
    1 adds as much as ancestral sampling with variance β̃. clip: keep every predicted image within ±1.
    """
    for step, k in enumerate(reversed(range(len(schedule)))):
        output = denoiser(x, int(schedule.timesteps[k]))
        start = _predicted_start(x, output[:, : x.shape[1]], schedule, k, clip=clip)
        epsilon = (  # again from the image, which may have been clipped
            float(schedule.sqrt_recip_alphas_cumprod[k]) * x - start
        ) / float(schedule.sqrt_recipm1_alphas_cumprod[k])
        before = float(schedule.alphas_cumprod_prev[k])
        sigma = eta * math.sqrt(float(schedule.posterior_variance[k]))
        x = math.sqrt(before) * start + math.sqrt(1 - before - sigma**2) * epsilon
        if sigma > 0:  # never in the last step, where β̃ = 0
            x = x + sigma * noise(step, x.shape)
    return x


def _predicted_start(x: Tensor, epsilon: Tensor, schedule: Schedule, k: int, *, clip: bool) -> Tensor:
    """The image x₀ that x is made of, if ε is its noise at index k of the schedule."""
    start = (
        float(schedule.sqrt_recip_alphas_cumprod[k]) * x
        - float(schedule.sqrt_recipm1_alphas_cumprod[k]) * epsilon
    )
    return start.clamp(-1, 1) if clip else start
