"""From noise to images: the plan, schedules, guidance, samplers and decoders.

A sampler is one function of (denoiser, x, schedule, noise): denoiser(x, t) is the network's output, guided or
not, at a time that all images share; noise(step, shape) is standard normal, so that a chain can be replayed.
"""

from dit_eval.sampling.diffusion import ddim, ddpm
from dit_eval.sampling.flow import ode, sde
from dit_eval.sampling.samplers import SAMPLERS

__all__ = ["SAMPLERS", "ddim", "ddpm", "ode", "sde"]
