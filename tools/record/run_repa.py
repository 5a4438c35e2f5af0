"""Run REPA's samplers.py with a network in closed form: `run_repa OUT.npz`."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from dit_eval.sampling.noise import ImageNoise
from tests.golden.smooth_network import LABELS, SEED, SHAPE, prediction
from tools.record import quantities

CHAINS: dict[str, tuple[str, dict[str, Any]]] = {  # name → (sampler, its arguments)
    "sde_10": ("euler_maruyama_sampler", {"num_steps": 10}),
    "sde_10_guided": ("euler_maruyama_sampler", {"num_steps": 10, "cfg_scale": 1.8}),
    "sde_250_interval": (
        "euler_maruyama_sampler",
        {"num_steps": 250, "cfg_scale": 1.8, "guidance_high": 0.7},
    ),
    "euler_10": ("euler_sampler", {"num_steps": 10}),
    "euler_10_interval": ("euler_sampler", {"num_steps": 10, "cfg_scale": 1.8, "guidance_high": 0.7}),
    "euler_250_interval": (
        "euler_sampler",
        {"num_steps": 250, "cfg_scale": 1.8, "guidance_low": 0.2, "guidance_high": 0.7},
    ),
    "heun_20_guided": ("euler_sampler", {"num_steps": 20, "heun": True, "cfg_scale": 1.8}),
}


def network(x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, None]:
    """The velocity and, as in REPA's networks, projections, which samplers ignore."""
    return prediction(x, t, y), None


def chain(sampler: Callable[..., Tensor], **arguments: Any) -> Tensor:
    """The last states of a chain that draws the noise of our images, (N, *SHAPE) float64."""
    noise = ImageNoise(SEED, torch.arange(len(LABELS)))
    steps = itertools.count()
    with patch.object(torch, "randn_like", lambda x: noise(next(steps), tuple(x.shape)).to(x.dtype)):
        return sampler(network, noise.latents((len(LABELS), *SHAPE)), torch.tensor(LABELS), **arguments)


def main(out: Path) -> None:
    """Write the arrays of repa_jit_samplers.npz that are REPA's to `out`."""
    torch.set_num_threads(1)
    samplers = importlib.import_module("samplers")
    arrays = {
        f"repa_{name}": chain(getattr(samplers, sampler), **arguments)
        for name, (sampler, arguments) in CHAINS.items()
    }
    quantities.save(out, repa_jit_samplers=arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
