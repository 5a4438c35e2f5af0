"""Flow samplers (Ma et al. 2024, arXiv 2401.08740), from noise at t = 0 to data at t = 1.

    ODE   dX = v dt
    SDE   dX = (v + g s) dt + √(2g) dW      v: velocity, s: score, g: diffusion; the paper's w is 2g

Every diffusion g ≥ 0 gives the same marginal distributions, so it can be chosen after training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from dit_eval.sampling.adaptive import dopri5
from dit_eval.sampling.flow_schedules import DIFFUSION, FlowSchedule
from dit_eval.sampling.guidance import Denoiser, Time
from dit_eval.sampling.noise import Noise
from dit_eval.sampling.paths import convert

Drift = Callable[[Tensor, float], Tensor]  # (x, t) → dX/dt


def ode(denoiser: Denoiser, x: Tensor, schedule: FlowSchedule, noise: Noise) -> Tensor:
    """Integrate the probability flow ODE from noise x (N, C, H, W) to samples of the same shape.

    denoiser: (x, t) → the prediction that `schedule.prediction` names; further channels are ignored. An
    adaptive solver passes it the times of the images, (N,) float64. noise is not used.
    """

    def velocity(x: Tensor, t: Time) -> Tensor:
        return _predict(denoiser, x, t, schedule, "velocity")[0]

    times = schedule.times.tolist()
    if schedule.adaptive:
        return dopri5(velocity, x, times[0], times[-1])
    for t, t_next in pairwise(times):
        solver = "euler" if schedule.euler_at_end and t_next == times[-1] else schedule.solver
        x = _ODE_STEPS[solver](velocity, x, t, t_next - t)
    return x


def meanflow(denoiser: Denoiser, x: Tensor, schedule: FlowSchedule, noise: Noise) -> Tensor:
    """Follow the average velocity from noise x (N, C, H, W) to samples of the same shape, in a few steps.

    denoiser: (x, t, r) → the average velocity between the times t and r; further channels are ignored. noise
    is not used. Source: MeanFlow, Geng et al. 2025, arXiv 2505.13447.
    """
    for t, r in pairwise(schedule.times.tolist()):
        x = x + (r - t) * denoiser(x, t, r)[:, : x.shape[1]]
    return x


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


def _euler(velocity: Drift, x: Tensor, t: float, dt: float) -> Tensor:
    return x + dt * velocity(x, t)


def _midpoint(velocity: Drift, x: Tensor, t: float, dt: float) -> Tensor:
    middle = x + dt / 2 * velocity(x, t)
    return x + dt * velocity(middle, t + dt / 2)


def _heun(velocity: Drift, x: Tensor, t: float, dt: float) -> Tensor:
    k1 = velocity(x, t)
    k2 = velocity(x + dt * k1, t + dt)
    return x + dt * (k1 / 2 + k2 / 2)


def _heun3(velocity: Drift, x: Tensor, t: float, dt: float) -> Tensor:
    """Heun's method of third order."""
    k1 = velocity(x, t)
    k2 = velocity(x + dt * k1 * (1 / 3), t + dt / 3)
    k3 = velocity(x + dt * (k2 * (2 / 3)), t + dt * (2 / 3))
    return x + dt * (k1 / 4 + k3 * (3 / 4))


def _rk4(velocity: Drift, x: Tensor, t: float, dt: float) -> Tensor:
    """Kutta's 3/8 rule, the method of fourth order that torchdiffeq calls rk4."""
    k1 = velocity(x, t)
    k2 = velocity(x + dt * k1 * (1 / 3), t + dt / 3)
    k3 = velocity(x + dt * (k2 - k1 * (1 / 3)), t + dt * (2 / 3))
    k4 = velocity(x + dt * (k1 - k2 + k3), t + dt)
    return x + (k1 + 3 * (k2 + k3) + k4) * dt * 0.125


_ODE_STEPS = {"euler": _euler, "midpoint": _midpoint, "heun": _heun, "heun3": _heun3, "rk4": _rk4}


def _euler_maruyama(drift: Drift, x: Tensor, t: float, t_next: float, diffusion_term: Tensor) -> Tensor:
    return x + (t_next - t) * drift(x, t) + diffusion_term


def _stochastic_heun(drift: Drift, x: Tensor, t: float, t_next: float, diffusion_term: Tensor) -> Tensor:
    """Add the noise, then take a Heun step of the drift (Karras et al. 2022, algorithm 2)."""
    x = x + diffusion_term
    d = drift(x, t)
    d_prime = drift(x + (t_next - t) * d, t_next)
    return x + (t_next - t) / 2 * (d + d_prime)


_SDE_STEPS = {"euler": _euler_maruyama, "heun": _stochastic_heun}


def _predict(denoiser: Denoiser, x: Tensor, t: Time, schedule: FlowSchedule, *wanted: str) -> list[Tensor]:
    """Evaluate the denoiser once and convert its output to each of the wanted parametrisations."""
    output = denoiser(x, t)[:, : x.shape[1]]
    coefficients = schedule.coefficients(t.view(-1, 1, 1, 1) if isinstance(t, Tensor) else t)
    converted = (
        convert(output, x, coefficients, given=schedule.prediction, wanted=name, t_eps=schedule.t_eps)
        for name in wanted
    )
    return [prediction.to(x.dtype) for prediction in converted]  # times of images are float64
