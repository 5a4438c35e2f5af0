"""Diffusion samplers: DDPM (Ho et al. 2020) and DDIM (Song et al. 2021)."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from dit_eval.sampling.guidance import Denoiser
from dit_eval.sampling.noise import Noise
from dit_eval.sampling.schedules import Schedule


def ddpm(denoiser: Denoiser, x: Tensor, schedule: Schedule, noise: Noise, *, clip: bool = False) -> Tensor:
    """Ancestral sampling from noise x (N, C, H, W) to samples of the same shape.

    denoiser: (x, t) → the predicted noise ε (N, C, H, W), optionally followed by C channels that interpolate
    the log variance between β̃ (−1) and β (1) as in Nichol & Dhariwal 2021; without them the variance is β.
    clip: clamp the predicted x₀ to ±1 in every step.
    """
    log_betas = np.log(schedule.betas)
    for step, i in enumerate(reversed(range(len(schedule)))):
        output = denoiser(x, int(schedule.timesteps[i]))
        eps, model_var_values = output[:, : x.shape[1]], output[:, x.shape[1] :]
        pred_xstart = _predict_xstart(x, eps, schedule, i, clip=clip)
        coef1, coef2 = float(schedule.posterior_mean_coef1[i]), float(schedule.posterior_mean_coef2[i])
        mean = coef1 * pred_xstart + coef2 * x
        if i == 0:
            return mean
        min_log, max_log = float(schedule.posterior_log_variance_clipped[i]), float(log_betas[i])
        log_variance = x.new_full((), max_log)
        if model_var_values.shape[1]:
            log_variance = min_log + (max_log - min_log) * (model_var_values + 1) / 2
        x = mean + (0.5 * log_variance).exp() * noise(step, x.shape)
    raise AssertionError("a schedule has at least one step")


def ddim(
    denoiser: Denoiser, x: Tensor, schedule: Schedule, noise: Noise, *, eta: float = 0.0, clip: bool = False
) -> Tensor:
    """DDIM sampling (equation 12 of the paper) from noise x (N, C, H, W) to samples of the same shape.

    denoiser: (x, t) → the predicted noise ε; further channels are ignored. eta: 0 is deterministic, 1 adds as
    much noise as ancestral sampling with variance β̃. clip: clamp the predicted x₀ to ±1 in every step.
    """
    for step, i in enumerate(reversed(range(len(schedule)))):
        output = denoiser(x, int(schedule.timesteps[i]))
        pred_xstart = _predict_xstart(x, output[:, : x.shape[1]], schedule, i, clip=clip)
        eps = (  # recomputed, because x₀ may have been clipped
            float(schedule.sqrt_recip_alphas_cumprod[i]) * x - pred_xstart
        ) / float(schedule.sqrt_recipm1_alphas_cumprod[i])
        alpha_bar_prev = float(schedule.alphas_cumprod_prev[i])
        sigma = eta * math.sqrt(float(schedule.posterior_variance[i]))
        x = math.sqrt(alpha_bar_prev) * pred_xstart + math.sqrt(1 - alpha_bar_prev - sigma**2) * eps
        if sigma > 0:  # β̃ is 0 in the last step
            x = x + sigma * noise(step, x.shape)
    return x


def _predict_xstart(x: Tensor, eps: Tensor, schedule: Schedule, i: int, *, clip: bool) -> Tensor:
    """x₀, given the noise ε in x at index i of the schedule."""
    pred_xstart = (
        float(schedule.sqrt_recip_alphas_cumprod[i]) * x
        - float(schedule.sqrt_recipm1_alphas_cumprod[i]) * eps
    )
    return pred_xstart.clamp(-1, 1) if clip else pred_xstart
