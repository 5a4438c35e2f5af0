"""Run SiT's models.py and transport/, in an environment of their own: `run_sit OUT.npz`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from dit_eval.diagnostics.recorded.dit_weights import CONFIGS, noise
from tools.record import quantities
from tools.record.run_dit import CFG_SCALE, NULL_CLASS, SHAPE, Arrays, load

PATHS = ("Linear", "GVP", "VP")
FORMS = ("SBDM", "sigma", "linear", "decreasing", "inccreasing-decreasing", "constant")
ODE = [*((method, 10) for method in ("euler", "heun2", "heun3", "midpoint", "rk4", "dopri5")), ("euler", 50)]
SDE = [  # diffusion, solver, last step, states
    ("sigma", "Euler", "Mean", 10),
    ("sigma", "Heun", "Mean", 10),
    ("sigma", "Euler", "Tweedie", 10),
    ("sigma", "Euler", "Euler", 10),
    ("sigma", "Euler", None, 10),
    ("sigma", "Euler", "Mean", 250),
    ("SBDM", "Euler", "Mean", 10),  # finite on the VP path only
    ("linear", "Euler", "Mean", 10),
    ("decreasing", "Euler", "Mean", 10),
    ("inccreasing-decreasing", "Euler", "Mean", 10),
]


def forward_passes(net: Any) -> Arrays:
    """Plain and guided, at fractional times."""
    x = torch.from_numpy(noise("small/x", 0, SHAPE))
    t, y = torch.tensor([0.0, 0.25, 0.731, 1.0]), torch.tensor([3, NULL_CLASS, 0, 9])
    cfg_t, cfg_y = torch.full((4,), 0.4), torch.tensor([3, 4, NULL_CLASS, NULL_CLASS])
    return {
        "x": x,
        "t": t,
        "y": y,
        "forward": net(x, t, y),
        "forward_cfg_1.5": net.forward_with_cfg(x, cfg_t, cfg_y, cfg_scale=CFG_SCALE),
    }


def paths(transport: Any) -> Arrays:
    """Coefficients, drift, score, interpolants and diffusion of three paths at four times."""
    t = torch.tensor([0.02, 0.3, 0.6, 0.97])
    x, data = torch.from_numpy(noise("small/x", 0, SHAPE)), torch.from_numpy(noise("sit/x1", 0, SHAPE))
    velocity = torch.from_numpy(noise("sit/v", 0, SHAPE))
    arrays: Arrays = {"path_t": t, "path_x1": data, "path_velocity": velocity}
    for name in PATHS:
        path = transport.create_transport(name).path_sampler
        alpha, d_alpha = path.compute_alpha_t(t)
        sigma, d_sigma = path.compute_sigma_t(t)
        drift, drift_variance = path.compute_drift(x, t)
        _, state, derivative = path.plan(t, x, data)
        found = {
            "alpha": alpha,
            "d_alpha": torch.as_tensor(d_alpha).expand(4),
            "sigma": sigma,
            "d_sigma": torch.as_tensor(d_sigma).expand(4),
            "drift_var": drift_variance.reshape(-1),
            "drift_mean_over_x": (drift / x)[:, 0, 0, 0],
            "score_from_velocity": path.get_score_from_velocity(velocity, x, t),
            "xt": state,
            "ut": derivative,
        }
        for form in FORMS:
            found[f"diffusion_{form}"] = torch.as_tensor(path.compute_diffusion(x, t, form=form)).reshape(-1)
        arrays |= {f"path_{name}_{key}": torch.as_tensor(value).float() for key, value in found.items()}
    return arrays


def chains(transport: Any, net: Any) -> Arrays:
    """Guided ODE and SDE chains on every path, of 2 + 2 latents."""
    z = torch.from_numpy(noise("sit/z", 0, (2, *SHAPE[1:]))).repeat(2, 1, 1, 1)
    conditions = {"y": torch.tensor([3, 7, NULL_CLASS, NULL_CLASS]), "cfg_scale": CFG_SCALE}
    arrays: Arrays = {}
    for path in PATHS:
        sampler = transport.Sampler(transport.create_transport(path))
        for method, n in ODE:
            sample = sampler.sample_ode(sampling_method=method, num_steps=n)
            arrays |= ends(f"ode_{path}_{method}_{n}", sample(z, net.forward_with_cfg, **conditions))
        for form, method, last, n in SDE:
            if form == "SBDM" and path != "VP":
                continue
            tag = f"sde_{path}_{form}_{method}_{last}_{n}"
            sample = sampler.sample_sde(
                sampling_method=method, diffusion_form=form, last_step=last, num_steps=n
            )
            with patch.object(torch, "randn", recorded_noise(tag)):
                arrays |= ends(tag, sample(z, net.forward_with_cfg, **conditions))
    return arrays


def ends(tag: str, states: Sequence[torch.Tensor]) -> Arrays:
    """The first, the middle and the last state of a chain."""
    return {f"{tag}_first": states[0], f"{tag}_middle": states[len(states) // 2], f"{tag}_last": states[-1]}


def recorded_noise(tag: str) -> Callable[[Sequence[int]], torch.Tensor]:
    """In place of torch.randn: the noise of step after step of the chain `tag`."""
    draws: Iterator[int] = iter(range(1000))
    return lambda shape: torch.from_numpy(noise(tag, next(draws), tuple(shape)))


def main(out: Path) -> None:
    """Write all arrays of sit.npz to `out`."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    models, transport = importlib.import_module("models"), importlib.import_module("transport")
    net = load(models.SiT(**asdict(CONFIGS["small"])), "small")
    arrays = forward_passes(net) | paths(transport) | chains(transport, net)
    quantities.save(out, sit=arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
