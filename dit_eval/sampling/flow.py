"""Flow samplers (Ma et al. 2024, arXiv 2401.08740), from noise at t = 0 to data at t = 1.

    ODE   dX = v dt
    SDE   dX = (v + g s) dt + √(2g) dW      v: velocity, s: score, g: diffusion; the paper's w is 2g

Every diffusion g ≥ 0 gives the same marginal distributions, so it can be chosen after training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torchdiffeq import odeint

from dit_eval.errors import UsageError
from dit_eval.sampling.flow_schedules import DIFFUSION, FlowSchedule
from dit_eval.sampling.guidance import Denoiser
from dit_eval.sampling.noise import Noise
from dit_eval.sampling.paths import convert

RTOL, ATOL = 1e-3, 1e-6  # tolerances of the adaptive solver, as in SiT's released code

_TORCHDIFFEQ_METHODS = {"heun": "heun2"}  # where torchdiffeq uses another name

Drift = Callable[[Tensor, float], Tensor]  # (x, t) → dX/dt


def ode(denoiser: Denoiser, x: Tensor, schedule: FlowSchedule, noise: Noise) -> Tensor:
    """Integrate the probability flow ODE from noise x (N, C, H, W) to samples of the same shape.

    denoiser: (x, t) → the prediction that `schedule.prediction` names; further channels are ignored. noise is
    not used. An adaptive solver controls the error over the whole batch, so that images would influence each
    other: it takes one image at a time. Raises UsageError for more.
    """
    if schedule.adaptive and len(x) != 1:
        raise UsageError(
            f"{schedule.solver} chooses its step size for the whole batch of {len(x)} images; "
            "pass one image at a time."
        )

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        return _predict(denoiser, x, float(t), schedule, "velocity")[0]

    times = torch.from_numpy(schedule.times).to(x.device)
    ends = times[[0, -1]]
    # step_t makes the adaptive solver step exactly onto the end, so the network is never evaluated beyond it
    options = {"step_t": ends[1:]} if schedule.adaptive else {"grid_constructor": lambda *_: times}
    method = _TORCHDIFFEQ_METHODS.get(schedule.solver, schedule.solver)
    states = odeint(velocity, x, ends, method=method, rtol=RTOL, atol=ATOL, options=options)
    assert isinstance(states, Tensor)
    return states[-1]


def sde(denoiser: Denoiser, x: Tensor, schedule: FlowSchedule, noise: Noise) -> Tensor:
    """Integrate the SDE from noise x (N, C, H, W) to samples of the same shape.

    denoiser: (x, t) → the prediction that `schedule.prediction` names; further channels are ignored. Every
    step adds noise except the last one, from the last of `schedule.times` to t = 1.
    """

    def diffusion(t: float) -> float:
        return DIFFUSION[schedule.diffusion](t, schedule.coefficients(t))

    def drift(x: Tensor, t: float) -> Tensor:
        velocity, score = _predict(denoiser, x, t, schedule, "velocity", "score")
        return velocity + diffusion(t) * score

    for step, (t, t_next) in enumerate(pairwise(schedule.times.tolist())):
        diffusion_term = math.sqrt(2 * diffusion(t) * (t_next - t)) * noise(step, x.shape)
        x = _SDE_STEPS[schedule.solver](drift, x, t, t_next, diffusion_term)
    end = float(schedule.times[-1])
    if schedule.last_step == "mean":  # the mean of one more Euler–Maruyama step
        return x + (1 - end) * drift(x, end)
    if schedule.last_step == "euler":  # an Euler step of the ODE
        return x + (1 - end) * _predict(denoiser, x, end, schedule, "velocity")[0]
    if schedule.last_step == "tweedie":  # E[x₁ | x]
        coefficients = schedule.coefficients(end)
        score = _predict(denoiser, x, end, schedule, "score")[0]
        return (x + coefficients.sigma**2 * score) / coefficients.alpha
    return x


def _euler_maruyama(drift: Drift, x: Tensor, t: float, t_next: float, diffusion_term: Tensor) -> Tensor:
    return x + (t_next - t) * drift(x, t) + diffusion_term


def _stochastic_heun(drift: Drift, x: Tensor, t: float, t_next: float, diffusion_term: Tensor) -> Tensor:
    """Add the noise, then take a Heun step of the drift (Karras et al. 2022, algorithm 2)."""
    x = x + diffusion_term
    d = drift(x, t)
    d_prime = drift(x + (t_next - t) * d, t_next)
    return x + (t_next - t) / 2 * (d + d_prime)


_SDE_STEPS = {"euler": _euler_maruyama, "heun": _stochastic_heun}


def _predict(denoiser: Denoiser, x: Tensor, t: float, schedule: FlowSchedule, *wanted: str) -> list[Tensor]:
    """Evaluate the denoiser once and convert its output to each of the wanted parametrisations."""
    output, coefficients = denoiser(x, t)[:, : x.shape[1]], schedule.coefficients(t)
    return [convert(output, x, coefficients, given=schedule.prediction, wanted=name) for name in wanted]
