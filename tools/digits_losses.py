"""What the models of the digits are trained to lower: DiT the hybrid loss, SiT the error of the velocity."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from digits_data import LEVELS
from torch import Tensor, nn

from dit_eval.sampling.schedules import diffusion_schedule

# (model, images in −1 … 1 (N, C, H, W), classes (N,), random numbers) → terms, to be added
Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], dict[str, Tensor]]

_SCHEDULE = diffusion_schedule(1000)


def diffusion_loss(model: nn.Module, x0: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """The two terms of the hybrid loss of Nichol & Dhariwal 2021, at random steps.

    `simple` is the squared error of the noise. `bound` is 0.001 · L_vlb in bits per pixel: the mean over t of
    the terms whose sum over 1000 steps is L_vlb, with a gradient for the variance only.
    """
    t = torch.randint(len(_SCHEDULE), (len(x0),), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)

    def at(table: object) -> Tensor:
        return torch.as_tensor(table, dtype=torch.float32)[t][:, None, None, None]

    alphas = at(_SCHEDULE.alphas_cumprod)
    x = alphas.sqrt() * x0 + (1 - alphas).sqrt() * noise
    epsilon, fraction = model(x, t, y).chunk(2, dim=1)

    from_x, from_noise = at(_SCHEDULE.sqrt_recip_alphas_cumprod), at(_SCHEDULE.sqrt_recipm1_alphas_cumprod)
    start = from_x * x - from_noise * epsilon.detach()
    to_start, to_x = at(_SCHEDULE.posterior_mean_coef1), at(_SCHEDULE.posterior_mean_coef2)
    mean, true_mean = to_start * start + to_x * x, to_start * x0 + to_x * x
    low, high = at(_SCHEDULE.posterior_log_variance_clipped), at(_SCHEDULE.betas).log()
    log_variance = low + (high - low) * (fraction + 1) / 2

    divergence = gaussian_divergence(true_mean, low, mean, log_variance)
    last = surprise(x0, mean, log_variance)
    nats = torch.where(at(_SCHEDULE.timesteps) == 0, last, divergence)
    return {"simple": F.mse_loss(epsilon, noise), "bound": nats.mean() / math.log(2)}


def flow_loss(model: nn.Module, x1: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """The squared error of the velocity x₁ − ε on the straight path x_t = t x₁ + (1 − t) ε, at random times.

    That of Ma et al. 2024, with time as their code has it. Further channels of the network are not trained.
    """
    t = torch.rand(len(x1), generator=generator)
    noise = torch.randn(x1.shape, generator=generator)
    share = t[:, None, None, None]
    velocity = model(share * x1 + (1 - share) * noise, t, y)[:, : x1.shape[1]]
    return {"velocity": F.mse_loss(velocity, x1 - noise)}


def gaussian_divergence(mean: Tensor, log_variance: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(first ‖ second) of two normal distributions, in nats, pixel by pixel."""
    ratio = (log_variance - log_variance2).exp()
    shift = (mean - mean2) ** 2 * (-log_variance2).exp()
    return 0.5 * (ratio + shift - 1 + log_variance2 - log_variance)


def surprise(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """−log of the probability that a normal variable is rounded to the grey level of x0, in nats."""
    half = 1 / (LEVELS - 1)  # half the distance between two levels of −1 … 1
    scale = (-0.5 * log_variance).exp()
    below = torch.special.ndtr((x0 - half - mean) * scale).masked_fill(x0 == -1, 0)
    above = torch.special.ndtr((x0 + half - mean) * scale).masked_fill(x0 == 1, 1)
    return -(above - below).clamp(min=1e-12).log()
