"""The sampling algorithms: noise, schedules, classifier-free guidance, DDPM, DDIM and flows.

A sampler is a function of (denoiser, x, schedule, noise). denoiser(x, t) returns the network's output, guided
or not, at a time t shared by all images; noise(step, shape) returns standard normal noise.

The functions are loaded on first use, so that the names of the options are known without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dit_eval.sampling.diffusion import ddim, ddpm
    from dit_eval.sampling.flow import ode, sde
    from dit_eval.sampling.samplers import SAMPLERS

_MODULES = {"SAMPLERS": "samplers", "ddim": "diffusion", "ddpm": "diffusion", "ode": "flow", "sde": "flow"}

__all__ = ["SAMPLERS", "ddim", "ddpm", "ode", "sde"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"dit_eval.sampling.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'dit_eval.sampling' has no attribute {name!r}")
