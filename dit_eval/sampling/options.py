"""The options of every sampler, with their defaults; importing them does not import torch."""

from __future__ import annotations

_SHARED = {"shift": 1.0, "noise_scale": 1.0, "state": "float32"}  # by all samplers of flows
_FLOW = {"path": "linear", "prediction": "velocity", "t_eps": 0.0, **_SHARED}

OPTIONS: dict[str, dict[str, str | float]] = {
    "ddpm": {},
    "ddim": {"eta": 0.0},
    "ode": {**_FLOW, "solver": "heun", "last_step": "none"},
    "sde": {**_FLOW, "solver": "euler", "diffusion": "sigma", "last_step": "mean", "last_step_size": 0.04},
    "meanflow": {**_SHARED},
}
