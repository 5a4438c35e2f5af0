"""Denoising diffusion implicit models (Song et al. 2021)."""

from __future__ import annotations

import math

from torch import Tensor

from dit_eval.sampling.ddpm import predicted_start
from dit_eval.sampling.guidance import Denoiser
from dit_eval.sampling.noise import Noise
from dit_eval.sampling.schedules import Schedule


def ddim(
    denoiser: Denoiser, x: Tensor, schedule: Schedule, noise: Noise, *, eta: float = 0.0, clip: bool = False
) -> Tensor:
    """Walk the chain from noise x (N, C, H, W) to samples of the same shape; equation 12 of the paper.

    denoiser: (x, t) → the noise ε in x; further channels are not used. eta: 0 adds no noise on the way,
    1 adds as much as ancestral sampling with variance β̃. clip: keep every predicted image within ±1.
    """
    for step, k in enumerate(reversed(range(len(schedule)))):
        output = denoiser(x, int(schedule.timesteps[k]))
        start = predicted_start(x, output[:, : x.shape[1]], schedule, k, clip=clip)
        epsilon = (  # again from the image, which may have been clipped
            float(schedule.sqrt_recip_alphas_cumprod[k]) * x - start
        ) / float(schedule.sqrt_recipm1_alphas_cumprod[k])
        before = float(schedule.alphas_cumprod_prev[k])
        sigma = eta * math.sqrt(float(schedule.posterior_variance[k]))
        x = math.sqrt(before) * start + math.sqrt(1 - before - sigma**2) * epsilon
        if sigma > 0:  # never in the last step, where β̃ = 0
            x = x + sigma * noise(step, x.shape)
    return x
