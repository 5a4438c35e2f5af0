"""What models of others need of the samplers, with networks whose samples are known exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dit_eval import DiffusionModel, FlowModel
from dit_eval.errors import UsageError
from dit_eval.generation.batch_sampler import BatchSampler
from dit_eval.generation.model_lookup import find_model
from dit_eval.generation.plan import choose_settings, make_plan
from dit_eval.sampling import SAMPLERS, ode
from dit_eval.sampling.flow_schedules import ode_schedule, shifted
from dit_eval.sampling.guidance import guided, parse_times
from dit_eval.sampling.noise import ImageNoise
from dit_eval.sampling.paths import PATHS, PREDICTIONS, convert
from tests.mixture import perfect

CPU = torch.device("cpu")
SHAPE = (3, 4, 4)
MEAN, DEVIATION = 0.3, 0.5  # of normally distributed data


def sample(model: FlowModel | DiffusionModel, n: int = 4, **settings: Any) -> Tensor:
    """Samples of the model as `generate` draws them, before decoding."""
    request = {
        "sampler": None, "steps": None, "num": n, "seed": 0, "labels": "uniform", "cfg": None,
        "cfg_channels": None, "cfg_interval": None, "cfg_times": None, "rounding": "dit", "batch_size": n,
        "precision": "fp32", "compile": False,
    }  # fmt: skip
    options = {name: settings.pop(name) for name in list(settings) if name not in request}
    spec = find_model(model)
    chosen = choose_settings(spec, options, **request | settings)
    loaded = spec.load(CPU, chosen)
    sampler = BatchSampler(loaded.model, make_plan(chosen, spec.name, loaded), CPU)
    with torch.inference_mode():
        return sampler.sample(np.arange(n), lambda done: None)


def noise(n: int = 4) -> Tensor:
    """The initial noise of the images 0 to n - 1."""
    return ImageNoise(0, torch.arange(n)).latents((n, *SHAPE))


def spread(t: Any) -> Any:
    """Standard deviation of the states at time t on the linear path, where data is at t = 1."""
    return ((t * DEVIATION) ** 2 + (1 - t) ** 2) ** 0.5


def flow_map(x: Tensor, t: Any, r: Any) -> Tensor:
    """Where the ODE takes a state from time t to time r."""
    return MEAN * r + spread(r) / spread(t) * (x - MEAN * t)


def data(x: Tensor, t: Tensor) -> Tensor:
    """E[x₁ | x]."""
    return MEAN + t * DEVIATION**2 / spread(t) ** 2 * (x - MEAN * t)


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """E[x₁ − ε | x]."""
    return data(x, t) - (1 - t) / spread(t) ** 2 * (x - MEAN * t)


def per_image(t: Tensor) -> Tensor:
    return t.double().view(-1, 1, 1, 1)


def no_noise(step: int, shape: tuple[int, ...]) -> Tensor:
    raise AssertionError("an ODE has no noise")


def gaussian(**settings: Any) -> FlowModel:
    """The perfect velocity of the normal distribution."""
    return FlowModel(lambda x, t, y: velocity(x.double(), per_image(t)).float(), SHAPE, **settings)


# Predictions


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_every_prediction_determines_the_others(path: str, prediction: str) -> None:
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    for t in (0.1, 0.5, 0.9):
        at = PATHS[path](t)
        given = convert(perfect(path)(x, t), x, at, given="velocity", wanted=prediction)
        for wanted in PREDICTIONS:
            expected = convert(perfect(path)(x, t), x, at, given="velocity", wanted=wanted)
            found = convert(given, x, at, given=prediction, wanted=wanted)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("t", [0.0, 0.5, 0.94, 0.96, 1.0])
def test_prediction_of_data_is_divided_by_t_eps_near_the_data(t: float) -> None:
    """JiT: v = (x̂ − z) / max(1 − t, 0.05)."""
    z, x_hat = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE)
    found = convert(x_hat, z, PATHS["linear"](t), given="x", wanted="velocity", t_eps=0.05)
    torch.testing.assert_close(found, (x_hat - z) / max(1 - t, 0.05))


def test_prediction_of_data_draws_what_the_velocity_draws() -> None:
    model = FlowModel(lambda x, t, y: data(x.double(), per_image(t)).float(), SHAPE, prediction="x")
    options: dict[str, Any] = {"steps": 20, "solver": "heun", "last_step": "euler"}
    torch.testing.assert_close(sample(model, **options), sample(gaussian(), **options), rtol=0, atol=1e-5)


def test_prediction_of_data_is_never_divided_by_zero() -> None:
    model = FlowModel(lambda x, t, y: x, SHAPE, prediction="x")
    with pytest.raises(UsageError, match="divides a prediction of x by the noise level at the end"):
        sample(model, steps=4, solver="heun")
    assert sample(model, steps=4, solver="euler").isfinite().all()
    assert sample(model, steps=4, solver="midpoint").isfinite().all()
    assert sample(model, steps=4, solver="rk4", last_step="euler").isfinite().all()


# Time


@pytest.mark.parametrize("sampler", ["ode", "sde"])
def test_network_with_the_noise_at_1_draws_what_its_mirror_image_draws(sampler: str) -> None:
    def mirrored(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return -velocity(x.double(), 1 - per_image(t)).float()

    model = FlowModel(mirrored, SHAPE, noise_at=1)
    expected = sample(gaussian(), sampler=sampler, steps=10)
    torch.testing.assert_close(sample(model, sampler=sampler, steps=10), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shift", [0.3, 1.0, 6.93])
def test_shift_is_that_of_the_repositories_whichever_way_time_runs(shift: float) -> None:
    """LightningDiT shifts times with noise at 0, RAE times with noise at 1, both by s t / (1 + (s − 1) t)."""
    seen: list[float] = []

    def record(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return torch.zeros_like(x)

    forward = np.linspace(0, 1, 11)
    sample(FlowModel(record, SHAPE), steps=10, solver="euler", shift=shift)
    expected = shift * forward / (1 + (shift - 1) * forward)
    np.testing.assert_allclose(seen, expected[:-1], rtol=0, atol=1e-6)
    seen.clear()
    sample(FlowModel(record, SHAPE, noise_at=1), steps=10, solver="euler", shift=shift)
    np.testing.assert_allclose(seen, expected[::-1][:-1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [0.3, 3.0])
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_shifted_steps_converge_at_the_order_of_the_solver(shift: float, solver: str, order: int) -> None:
    exact = flow_map(noise().double(), 0.0, 1.0)
    errors = []
    for steps in (200, 400):
        schedule = ode_schedule(steps, path="linear", prediction="velocity", solver=solver, shift=shift)
        drawn = ode(lambda x, t: velocity(x, torch.tensor(t).double()), noise().double(), schedule, no_noise)
        errors.append((drawn - exact).abs().max())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("shift", [0.0, -1.0])
def test_shift_that_is_not_positive_is_refused(shift: float) -> None:
    with pytest.raises(UsageError, match="expected a positive number"):
        shifted(np.linspace(0, 1, 3), shift)


def test_last_step_of_euler_is_one_evaluation() -> None:
    calls = []

    def count(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        calls.append(float(t[0]))
        return -x

    x = sample(FlowModel(count, SHAPE), steps=5, solver="heun", last_step="euler")
    np.testing.assert_allclose(calls, [0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8], atol=1e-6)
    heun = 1 - 0.2 + 0.2**2 / 2
    torch.testing.assert_close(x, noise() * heun**4 * 0.8)
    schedule = ode_schedule(5, path="linear", prediction="velocity", solver="heun", last_step="euler")
    assert schedule.evaluations == len(calls)


# State


def test_state_in_float64_gives_the_network_float32() -> None:
    seen = set()

    def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.add((x.dtype, t.dtype))
        return velocity(x.double(), per_image(t)).float()

    single, double = (
        sample(FlowModel(predict, SHAPE), steps=200, solver="euler", state=state)
        for state in ("float32", "float64")
    )
    assert seen == {(torch.float32, torch.float32)}
    assert double.dtype == torch.float32
    torch.testing.assert_close(single, double, rtol=0, atol=1e-5)
    assert (single != double).any()


def test_scale_of_the_noise_is_that_of_the_initial_state() -> None:
    model = FlowModel(lambda x, t, y: torch.zeros_like(x), SHAPE, noise_scale=2.0)
    assert torch.equal(sample(model, steps=2), 2 * noise())
    with pytest.raises(UsageError, match="sde assumes initial noise of standard deviation 1, not 2"):
        sample(model, sampler="sde", steps=2)


# Average velocities


@pytest.mark.parametrize("noise_at", [0, 1])
@pytest.mark.parametrize("steps", [None, 1, 2, 4])
def test_average_velocities_of_a_normal_distribution_draw_it_exactly(
    steps: int | None, noise_at: int
) -> None:
    sign = 1 if noise_at == 0 else -1

    def average(x: Tensor, t: Tensor, y: Tensor, r: Tensor) -> Tensor:
        start, end = (per_image(time if noise_at == 0 else 1 - time) for time in (t, r))
        return sign * ((flow_map(x.double(), start, end) - x) / (end - start)).float()

    model = FlowModel(average, SHAPE, prediction="average-velocity", noise_at=noise_at)  # type: ignore[arg-type]
    expected = flow_map(noise(), 0.0, 1.0)
    torch.testing.assert_close(sample(model, steps=steps), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("prediction", "sampler"),
    [("average-velocity", "ode"), ("average-velocity", "sde"), ("velocity", "meanflow")],
)
def test_average_velocities_have_a_sampler_of_their_own(prediction: str, sampler: str) -> None:
    model = FlowModel(lambda x, t, y, r: x, SHAPE, prediction=prediction)  # type: ignore[arg-type]
    with pytest.raises(
        UsageError, match=f"sampler {sampler} does not fit FlowModel, which predicts {prediction}"
    ):
        sample(model, sampler=sampler)


# Guidance


def test_autoguidance_goes_away_from_the_second_network() -> None:
    def towards(level: float) -> Any:
        return lambda x, t, y: level * y.view(-1, 1, 1, 1).float().expand_as(x)

    model = FlowModel(towards(1.0), SHAPE, guide=towards(0.25), num_classes=7)
    drawn = sample(model, steps=3, solver="euler", cfg=2.0, labels="3")
    torch.testing.assert_close(drawn, noise() + 3 * (0.25 + 2.0 * (1 - 0.25)))
    assert torch.equal(
        sample(model, steps=3, solver="euler", cfg=1.0, labels="3"),
        sample(FlowModel(towards(1.0), SHAPE, num_classes=7), steps=3, solver="euler", labels="3"),
    )


@pytest.mark.parametrize(
    ("text", "inside"),  # which of the times 0, 0.1, … 1
    [
        ("[0.1, 0.7]", range(1, 8)),
        ("(0.1,0.7)", range(2, 7)),
        ("[0, 0.7)", range(0, 7)),
        ("(0.1, 1]", range(2, 11)),
        (" [ 0.25 , 0.75 ] ", range(3, 8)),
    ],
)
def test_ends_of_an_interval_of_times_are_open_or_closed(text: str, inside: range) -> None:
    low, high = parse_times(text)
    for times in (np.linspace(0, 1, 11), np.linspace(0, 1, 11, dtype=np.float32), 1 - np.linspace(1, 0, 11)):
        assert [k for k, t in enumerate(times) if low <= t <= high] == list(inside)


@pytest.mark.parametrize(
    "text", ["", "0, 1", "[0 1]", "[1, 0]", "[0, 0]", "[a, 1]", "[0, nan]", "[0, inf]", "[0, 1"]
)
def test_what_is_no_interval_of_times_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected two increasing numbers as text"):
        parse_times(text)


@pytest.mark.parametrize(
    ("noise_at", "times", "levels"), [(0, "[0.1, 1]", (0, 9)), (1, "[0, 0.7]", (0, 7 / 3))]
)
def test_interval_of_times_is_one_of_noise_levels_on_the_linear_path(
    noise_at: int, times: str, levels: tuple[float, float]
) -> None:
    """JiT's and REPA's intervals, in σ = noise / data."""

    def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return y.view(-1, 1, 1, 1).float().expand_as(x)

    model = FlowModel(predict, SHAPE, noise_at=noise_at, num_classes=7)  # type: ignore[arg-type]
    options = {"steps": 13, "cfg": 2.0, "solver": "euler"}
    by_time, by_level = (
        sample(model, cfg_times=times, **options),
        sample(model, cfg_interval=levels, **options),
    )
    assert torch.equal(by_time, by_level)
    assert not torch.equal(by_time, sample(model, **options))


def test_guidance_has_one_interval() -> None:
    with pytest.raises(UsageError, match="give one of them"):
        sample(gaussian(), steps=2, cfg_times="[0, 1]", cfg_interval=(0.0, 1.0))


def test_interval_of_times_counts_the_timesteps_of_a_diffusion_model() -> None:
    guided_at = []

    def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if len(x) == 8:
            guided_at.append(float(t[0]))
        return x

    sample(DiffusionModel(predict, SHAPE), sampler="ddim", steps="ddim10", cfg=2.0, cfg_times="[200, 600)")
    assert guided_at == [500, 400, 300, 200]


# Diffusion models


def test_betas_of_the_model_are_those_of_the_schedule() -> None:
    seen = []

    def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append(int(t[0]))
        return torch.zeros_like(x)

    betas = np.linspace(1e-3, 0.3, 20)
    drawn = sample(DiffusionModel(predict, SHAPE, betas=betas), sampler="ddim", steps=20)
    assert seen == list(reversed(range(20)))
    torch.testing.assert_close(drawn, noise() / math.sqrt(np.prod(1 - betas)))


def test_samplers_know_their_options() -> None:
    assert {"shift", "state", "t_eps", "noise_scale"} <= SAMPLERS["ode"].options.keys()


def test_guided_network_of_average_velocities_is_passed_the_end_of_the_interval() -> None:
    class Ends:
        def condition(self, t: Tensor, y: Tensor, *ends: Tensor) -> Any:
            self.times = [float(time) for time in (t, *ends)]
            return self

        def take(self, rows: Tensor) -> Any:
            return self

        def denoise(self, x: Tensor, condition: Any) -> Tensor:
            return x

    network = Ends()
    denoiser = guided(network, torch.zeros(2, dtype=torch.int64), null_class=1, scale=1.5)
    denoiser(torch.zeros(2, *SHAPE), 0.25, 0.5)
    assert network.times == [0.25, 0.5]
