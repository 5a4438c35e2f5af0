"""Flow samplers with the exact network of a mixture of normal distributions."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from dit_eval.errors import UsageError
from dit_eval.sampling import SAMPLERS, adaptive, ode, sde
from dit_eval.sampling.flow_schedules import (
    DIFFUSION,
    LAST_STEPS,
    SDE_SOLVERS,
    FlowSchedule,
    ode_schedule,
    sde_schedule,
)
from dit_eval.sampling.noise import ImageNoise
from dit_eval.sampling.paths import PATHS, PREDICTIONS, convert
from tests.mixture import COVARIANCE, MEAN, perfect

PIXELS = (1, 2, 8, 8)
FINITE_AT_DATA = tuple(name for name in PREDICTIONS if name != "x")  # the velocity that follows from them
ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "heun3": 3, "rk4": 4}


def flow_ode(steps: int | None, **changes: Any) -> FlowSchedule:
    return ode_schedule(steps, **SAMPLERS["ode"].split({**SAMPLERS["ode"].options, **changes})[1])


def flow_sde(steps: int | str, **changes: Any) -> FlowSchedule:
    return sde_schedule(steps, **SAMPLERS["sde"].split({**SAMPLERS["sde"].options, **changes})[1])


def noise_of(images: int) -> ImageNoise:
    return ImageNoise(0, torch.arange(images))


def no_noise(step, shape):
    raise AssertionError("asked for noise")


def assert_is_the_mixture(x: torch.Tensor, bias: float) -> None:
    """Mean and covariance are right to five standard errors and what the steps do to them."""
    points = x.movedim(1, -1).flatten(0, 2)
    allowed = 5 / math.sqrt(len(points)) + bias  # deviations are near 1, those of products too
    torch.testing.assert_close(points.mean(0), MEAN, atol=allowed, rtol=0)
    torch.testing.assert_close(points.T.cov(), COVARIANCE, atol=allowed, rtol=0)


@pytest.mark.parametrize("t", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("path", PATHS)
def test_rates_of_a_path_are_its_derivatives(path, t):
    before, now, after = (PATHS[path](t + d) for d in (-1e-5, 0, 1e-5))
    assert now.d_alpha == pytest.approx((after.alpha - before.alpha) / 2e-5, rel=1e-6)
    assert now.d_sigma == pytest.approx((after.sigma - before.sigma) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("wanted", PREDICTIONS)
@pytest.mark.parametrize("given", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_predictions_of_a_perfect_network_agree(path, given, wanted):
    x, t = torch.randn(2, 2, 3, 3, dtype=torch.float64), 0.3
    converted = convert(perfect(path, given)(x, t), x, PATHS[path](t), given=given, wanted=wanted)
    torch.testing.assert_close(converted, perfect(path, wanted)(x, t))


@pytest.mark.parametrize(
    ("path", "solver"), [*(("linear", solver) for solver in ORDERS), ("gvp", "heun"), ("vp", "heun")]
)
def test_ode_draws_the_mixture(path, solver):
    x = noise_of(2).latents((2, 2, 64, 64)).double()
    schedule = flow_ode(30, path=path, solver=solver)
    assert_is_the_mixture(ode(perfect(path), x, schedule, no_noise), bias=0.03 if solver == "euler" else 0.01)


@pytest.mark.parametrize("prediction", FINITE_AT_DATA)
def test_adaptive_ode_draws_the_mixture_from_any_prediction(prediction):
    x = noise_of(1).latents((1, 2, 96, 96)).double()
    schedule = flow_ode(None, solver="dopri5", prediction=prediction)
    assert_is_the_mixture(ode(perfect("linear", prediction), x, schedule, no_noise), bias=2e-3)


@cache
def exact_end(path: str) -> torch.Tensor:
    """Where the ODE leads, to 1e-10."""
    schedule = flow_ode(512, path=path, solver="rk4")
    return ode(perfect(path), noise_of(1).latents(PIXELS).double(), schedule, no_noise)


@pytest.mark.parametrize(("solver", "order"), ORDERS.items())
@pytest.mark.parametrize("path", ["linear", "gvp"])  # on VP the velocity has no bound at t = 1
def test_error_of_an_ode_solver_falls_at_its_order(path, solver, order):
    def error(steps: int) -> torch.Tensor:
        end = ode(perfect(path), x, flow_ode(steps, path=path, solver=solver), no_noise)
        return (end - exact_end(path)).norm()

    x = noise_of(1).latents(PIXELS).double()
    assert math.log2(error(64) / error(128)) == pytest.approx(order, abs=0.2)


def test_error_of_the_adaptive_solver_falls_with_its_tolerance(monkeypatch):
    x, schedule = noise_of(1).latents(PIXELS).double(), flow_ode(None, solver="dopri5")

    def error(tolerance: float) -> torch.Tensor:
        monkeypatch.setattr(adaptive, "RTOL", tolerance)
        monkeypatch.setattr(adaptive, "ATOL", tolerance)
        end = ode(perfect("linear"), x, schedule, no_noise)
        return (end - exact_end("linear")).abs().max()

    assert error(1e-3) > 30 * error(1e-5) > 900 * error(1e-7)
    assert error(1e-7) < 1e-5


@pytest.mark.parametrize("prediction", FINITE_AT_DATA)
@pytest.mark.parametrize("path", PATHS)
def test_adaptive_solver_never_evaluates_the_network_beyond_the_ends(path, prediction):
    schedule, times = flow_ode(None, path=path, solver="dopri5", prediction=prediction), []

    def recording(x, t):
        times.extend(t.tolist())
        return perfect(path, prediction)(x, t)

    ode(recording, noise_of(3).latents((3, *PIXELS[1:])).double(), schedule, no_noise)
    assert min(times) == schedule.times[0]
    assert max(times) == pytest.approx(schedule.times[-1], abs=1e-12)


@pytest.mark.parametrize("prediction", FINITE_AT_DATA)
@pytest.mark.parametrize("path", PATHS)
def test_images_that_are_solved_together_have_the_steps_and_samples_of_those_solved_alone(path, prediction):
    """The images differ in scale, so that they need different numbers of steps."""
    schedule = flow_ode(None, path=path, solver="dopri5", prediction=prediction)
    x = noise_of(8).latents((8, *PIXELS[1:])).double() * torch.logspace(-1, 1.5, 8).view(-1, 1, 1, 1)
    together, times = [], []

    def recording(x, t):
        times.append(t)
        return perfect(path, prediction)(x, t)

    together = ode(recording, x, schedule, no_noise)
    times_together = torch.stack(times)
    for i in range(8):
        times.clear()
        alone = ode(recording, x[i : i + 1], schedule, no_noise)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)
        times_alone = torch.cat(times)
        torch.testing.assert_close(times_together[: len(times), i], times_alone, rtol=1e-12, atol=1e-12)
        assert (times_together[len(times) :, i] == schedule.times[-1]).all()  # it stands still at the end
    assert len({int((column < schedule.times[-1]).sum()) for column in times_together.T}) > 1


def test_adaptive_solver_takes_the_steps_of_torchdiffeq():
    from torchdiffeq import odeint

    x, schedule = noise_of(1).latents(PIXELS).double(), flow_ode(None, solver="dopri5")
    ours, theirs = [], []

    def recording(x, t):
        ours.append(float(t))
        return perfect("linear")(x, t)

    def velocity(t, x):
        theirs.append(float(t))
        return perfect("linear")(x, float(t))

    last = ode(recording, x, schedule, no_noise)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    options = {"step_t": ends[1:]}
    states = odeint(velocity, x, ends, method="dopri5", rtol=1e-3, atol=1e-6, options=options)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(last, states[-1], rtol=1e-9, atol=1e-12)


def test_adaptive_solver_ends_when_the_network_is_not_finite():
    x = noise_of(2).latents((2, *PIXELS[1:]))

    def denoiser(x, t):
        return torch.where((t > 0.5).view(-1, 1, 1, 1), math.nan, x)

    assert not ode(denoiser, x, flow_ode(None, solver="dopri5"), no_noise).isfinite().any()


@pytest.mark.parametrize(
    ("path", "diffusion"),
    [
        *(("linear", form) for form in DIFFUSION),
        ("gvp", "kl"),
        ("gvp", "sigma"),
        ("vp", "kl"),
        ("vp", "sigma"),
    ],
)
def test_sde_of_any_diffusion_draws_the_mixture(path, diffusion):
    noise = noise_of(2)
    x = noise.latents((2, 2, 64, 64)).double()
    schedule = flow_sde(60, path=path, diffusion=diffusion, last_step_size=0.01)
    assert_is_the_mixture(sde(perfect(path), x, schedule, noise), bias=0.03)


@pytest.mark.parametrize("path", PATHS)
def test_heuns_sde_draws_the_mixture(path):
    noise = noise_of(2)
    x = noise.latents((2, 2, 64, 64)).double()
    schedule = flow_sde(60, path=path, solver="heun", last_step_size=0.01)
    assert_is_the_mixture(sde(perfect(path), x, schedule, noise), bias=0.03)


@pytest.mark.parametrize(
    ("prediction", "last_step"),
    [("velocity", "none"), ("velocity", "euler"), ("score", "tweedie"), ("noise", "mean")],
)
def test_sde_of_any_prediction_and_last_step_draws_the_mixture(prediction, last_step):
    noise = noise_of(2)
    x = noise.latents((2, 2, 64, 64)).double()
    schedule = flow_sde(60, prediction=prediction, last_step=last_step, last_step_size=0.01)
    assert_is_the_mixture(sde(perfect("linear", prediction), x, schedule, noise), bias=0.03)


def sample_variance(schedule: FlowSchedule, variance: float) -> float:
    """The exact variance of samples of `sde` if the data are N(0, variance).

    Samples are then linear in the initial and the added noise; unit vectors as noise give the coefficients.
    """

    def denoiser(x, t):
        c = schedule.coefficients(t)
        factor = (c.alpha * c.d_alpha * variance + c.sigma * c.d_sigma) / (c.alpha**2 * variance + c.sigma**2)
        return factor * x

    unit = torch.eye(1 + len(schedule), dtype=torch.float64)
    coefficients = sde(
        denoiser, unit[0].view(-1, 1, 1, 1), schedule, lambda k, shape: unit[1 + k].view(shape)
    )
    return float((coefficients**2).sum())


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize(("path", "diffusion"), [*(("linear", form) for form in DIFFUSION), ("gvp", "kl")])
def test_error_of_an_sde_solver_falls_at_first_order_or_faster(path, diffusion, solver):
    def error(steps: int) -> float:
        schedule = flow_sde(
            steps, path=path, diffusion=diffusion, solver=solver, last_step="euler", last_step_size=1 / steps
        )
        return abs(sample_variance(schedule, 0.5) - 0.5)

    first = error(400)
    assert first < 3e-3
    assert math.log2(first / error(800)) > 0.9


@pytest.mark.parametrize("prediction", FINITE_AT_DATA)
@pytest.mark.parametrize("path", PATHS)
def test_times_between_noise_levels_have_these_levels(path, prediction):
    schedule = flow_ode(10, path=path, prediction=prediction)
    first, last = (PATHS[path](t) for t in schedule.times_between(0.2, 3.0))
    assert first.sigma / first.alpha == pytest.approx(3.0)
    assert last.sigma / last.alpha == pytest.approx(0.2)
    assert schedule.times_between(0.0, math.inf) == (schedule.times[0], schedule.times[-1])


def assert_evaluations_are_the_calls(sampler, schedule: FlowSchedule) -> None:
    times = []

    def denoiser(x, t):
        times.append(t)
        return torch.zeros_like(x)

    sampler(denoiser, torch.zeros(1, 1, 1, 1), schedule, lambda step, shape: torch.zeros(shape))
    assert schedule.evaluations == len(times)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("solver", ORDERS)
def test_evaluations_of_an_ode_are_the_calls_of_the_denoiser(solver, steps):
    assert_evaluations_are_the_calls(ode, flow_ode(steps, solver=solver))


@pytest.mark.parametrize("path", ["linear", "vp"])
@pytest.mark.parametrize("solver", SDE_SOLVERS)
@pytest.mark.parametrize("last_step", LAST_STEPS)
def test_evaluations_of_an_sde_are_the_calls_of_the_denoiser(path, solver, last_step):
    if (solver, last_step, path) != ("heun", "none", "linear"):  # refused
        assert_evaluations_are_the_calls(sde, flow_sde(5, path=path, solver=solver, last_step=last_step))


def test_evaluations_of_an_adaptive_solver_are_unknown():
    schedule = flow_ode(None, solver="dopri5")
    assert schedule.adaptive
    assert schedule.evaluations is None


def test_steps_of_an_sde_include_the_last_one():
    np.testing.assert_allclose(flow_sde(4).times, [0, 0.32, 0.64, 0.96])
    np.testing.assert_allclose(flow_sde(3, last_step="none").times, [0, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("path", PATHS)
def test_sbdm_is_finite_from_velocity(path, solver):
    noise = noise_of(1)
    schedule = flow_sde(10, path=path, diffusion="sbdm", solver=solver)
    assert sde(perfect(path), noise.latents(PIXELS).double(), schedule, noise).isfinite().all()


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: flow_ode(None), "None is not a valid number of steps"),
        (lambda: flow_ode(0), "0 is not a valid number"),
        (lambda: flow_ode(10, solver="dopri5"), "dopri5 chooses its own steps"),
        (lambda: flow_ode(10, solver="heun2"), "not one of euler, midpoint, heun"),
        (lambda: flow_ode(10, path="cosine"), "path 'cosine' is not one of linear, gvp, vp"),
        (lambda: flow_ode(10, prediction="v"), "prediction 'v' is not one of velocity"),
        (lambda: flow_sde("ddim25"), "'ddim25' is not a valid number of steps for a flow"),
        (lambda: flow_sde(1), "an integer ≥ 2"),
        (lambda: flow_sde(10, solver="rk4"), "not one of euler, heun"),
        (lambda: flow_sde(10, diffusion="none"), "not one of sigma, constant"),
        (lambda: flow_sde(10, last_step="last"), "last step 'last' is not one of mean"),
        (lambda: flow_sde(10, last_step_size=1.0), "expected a number between 0 and 1"),
        (lambda: flow_sde(10, solver="heun", last_step="none"), "choose another --last-step"),
        (lambda: flow_ode(10).times_between(3, 2), "no time has a noise level between 3 and 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_schedule_is_refused(build, complaint):
    with pytest.raises(UsageError, match=complaint):
        build()
