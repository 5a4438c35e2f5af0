"""The options of every sampler, with their defaults; importing them does not import torch."""

from __future__ import annotations

_FLOW = {"path": "linear", "prediction": "velocity"}

OPTIONS: dict[str, dict[str, str | float]] = {
    "ddpm": {},
    "ddim": {"eta": 0.0},
    "ode": {**_FLOW, "solver": "heun"},
    "sde": {**_FLOW, "solver": "euler", "diffusion": "sigma", "last_step": "mean", "last_step_size": 0.04},
}
