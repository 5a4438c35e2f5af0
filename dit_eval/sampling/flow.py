"""Flows (Ma et al. 2024, arXiv 2401.08740): an ODE or one of many SDEs, from noise at t = 0 to data at t = 1.

    ODE   dX = v dt
    SDE   dX = (v + g s) dt + √(2g) dW      v: velocity, s: score; the paper's w is 2g

All have the same distributions at every time whatever g ≥ 0 is, so that g is chosen when a model is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torchdiffeq import odeint

from dit_eval.errors import UsageError
from dit_eval.sampling.flow_schedules import ADAPTIVE, DIFFUSION, FlowSchedule
from dit_eval.sampling.guidance import Denoiser
from dit_eval.sampling.noise import Noise
from dit_eval.sampling.paths import convert

_TORCHDIFFEQ = {"heun": "heun2"}  # its name, where it is not ours

Field = Callable[[Tensor, float], Tensor]  # (x, t) → dX/dt


def ode(
    denoiser: Denoiser,
    x: Tensor,
    schedule: FlowSchedule,
    noise: Noise,
    *,
    rtol: float = 1e-3,
    atol: float = 1e-6,
) -> Tensor:
    """Follow the velocity from noise x (N, C, H, W) to samples of the same shape; adds no noise.

    denoiser: (x, t) → what `schedule.prediction` says; further channels are not used. rtol, atol: of an
    adaptive solver, by default those of SiT's released code. It chooses its steps by the error of all that it
    is given, so it is given one image at a time. Raises UsageError for more.
    """
    adaptive = schedule.solver in ADAPTIVE
    if adaptive and len(x) != 1:
        raise UsageError(
            f"{schedule.solver} would choose the same steps for all {len(x)} images; give it one at a time."
        )

    def velocity(time: Tensor, x: Tensor) -> Tensor:
        t = float(time)
        return _predict(denoiser, x, t, schedule, "velocity")[0]

    times = torch.from_numpy(schedule.times).to(x.device)
    ends = times[[0, -1]]
    # The network is never asked beyond the end: an adaptive solver must step onto it
    options = {"step_t": ends[1:]} if adaptive else {"grid_constructor": lambda *_: times}
    method = _TORCHDIFFEQ.get(schedule.solver, schedule.solver)
    states = odeint(velocity, x, ends, method=method, rtol=rtol, atol=atol, options=options)
    assert isinstance(states, Tensor)
    return states[-1]


def sde(denoiser: Denoiser, x: Tensor, schedule: FlowSchedule, noise: Noise) -> Tensor:
    """Walk from noise x (N, C, H, W) to samples of the same shape, adding noise in every step but the last.

    denoiser: (x, t) → what `schedule.prediction` says; further channels are not used.
    """

    def diffusion(t: float) -> float:
        return DIFFUSION[schedule.diffusion](t, schedule.at(t))

    def drift(x: Tensor, t: float) -> Tensor:
        velocity, score = _predict(denoiser, x, t, schedule, "velocity", "score")
        return velocity + diffusion(t) * score

    for step, (t, after) in enumerate(pairwise(schedule.times.tolist())):
        kick = math.sqrt(2 * diffusion(t) * (after - t)) * noise(step, x.shape)
        x = _STEPS[schedule.solver](drift, x, t, after, kick)
    end = float(schedule.times[-1])
    if schedule.last_step == "mean":  # of the normal distribution in which the state would end
        return x + (1 - end) * drift(x, end)
    if schedule.last_step == "euler":  # of the ODE
        return x + (1 - end) * _predict(denoiser, x, end, schedule, "velocity")[0]
    if schedule.last_step == "tweedie":  # E[x₁ | x]
        at = schedule.at(end)
        return (x + at.sigma**2 * _predict(denoiser, x, end, schedule, "score")[0]) / at.alpha
    return x


def _euler_maruyama(drift: Field, x: Tensor, t: float, after: float, kick: Tensor) -> Tensor:
    return x + (after - t) * drift(x, t) + kick


def _stochastic_heun(drift: Field, x: Tensor, t: float, after: float, kick: Tensor) -> Tensor:
    """The noise first, then Heun's step of the drift (Karras et al. 2022, algorithm 2)."""
    x = x + kick
    first = drift(x, t)
    second = drift(x + (after - t) * first, after)
    return x + (after - t) / 2 * (first + second)


_STEPS = {"euler": _euler_maruyama, "heun": _stochastic_heun}


def _predict(denoiser: Denoiser, x: Tensor, t: float, schedule: FlowSchedule, *wanted: str) -> list[Tensor]:
    """One call of the network, as each of the wanted predictions."""
    output, at = denoiser(x, t)[:, : x.shape[1]], schedule.at(t)
    return [convert(output, x, at, given=schedule.prediction, wanted=each) for each in wanted]
