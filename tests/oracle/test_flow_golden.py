"""Paths, conversions and chains against the recorded ones of SiT's released code."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from dit_eval.diagnostics.recorded import dit_weights
from dit_eval.sampling.flow import ode, sde
from dit_eval.sampling.flow_schedules import DIFFUSION, ode_schedule, sde_schedule
from dit_eval.sampling.guidance import guided
from dit_eval.sampling.paths import PATHS, convert
from tests.recorded import golden_model, recorded, recorded_tensor

NAMES = {"linear": "Linear", "gvp": "GVP", "vp": "VP"}
LABELS = torch.tensor([3, 7])
ODE = [("euler", 10), ("heun2", 10), ("heun3", 10), ("midpoint", 10), ("rk4", 10), ("euler", 50)]
SDE = [  # diffusion, solver, last step, steps, as they are called there
    *(("sigma", "Heun", "Mean", 10), ("sigma", "Euler", "Tweedie", 10), ("sigma", "Euler", "Euler", 10)),
    *(("sigma", "Euler", "None", 10), ("sigma", "Euler", "Mean", 250)),
    *((form, "Euler", "Mean", 10) for form in ("sigma", "linear", "decreasing", "inccreasing-decreasing")),
]  # fmt: skip
CHAINS_SDE = [(path, *chain) for path in PATHS for chain in SDE] + [("vp", "SBDM", "Euler", "Mean", 10)]


def sit(key: str) -> torch.Tensor:
    return recorded_tensor("sit", key)


def assert_near(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@torch.no_grad()
def test_forward_at_a_fractional_time_is_the_originals():
    ours = golden_model("small")(sit("x"), sit("t"), sit("y"))[:, :4]  # what it says of variance is not used
    assert_near(ours, sit("forward"), 1e-5)


@torch.no_grad()
def test_guided_forward_is_the_originals():
    denoiser = guided(golden_model("small"), torch.tensor([3, 4]), null_class=10, scale=1.5)
    assert_near(denoiser(sit("x")[:2], 0.4)[:, :4], sit("forward_cfg_1.5")[:2], 1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_path_is_the_originals(path):
    points = [PATHS[path](float(t)) for t in sit("path_t")]
    for i, name in enumerate(("alpha", "sigma", "d_alpha", "d_sigma")):
        np.testing.assert_allclose([p[i] for p in points], sit(f"path_{NAMES[path]}_{name}"), rtol=2e-5)


@pytest.mark.parametrize("path", PATHS)
def test_state_and_velocity_of_data_and_noise_are_the_originals(path):
    for i, t in enumerate(sit("path_t")):
        at, noise, data = PATHS[path](float(t)), sit("x")[i], sit("path_x1")[i]
        x, velocity = at.alpha * data + at.sigma * noise, at.d_alpha * data + at.d_sigma * noise
        assert_near(x, sit(f"path_{NAMES[path]}_xt")[i], 1e-6)
        assert_near(velocity, sit(f"path_{NAMES[path]}_ut")[i], 2e-5)
        assert_near(convert(velocity, x, at, given="velocity", wanted="noise"), noise, 1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_score_of_a_velocity_is_the_originals(path):
    for i, t in enumerate(sit("path_t")):
        at, x, velocity = PATHS[path](float(t)), sit("x")[i], sit("path_velocity")[i]
        ours = convert(velocity, x, at, given="velocity", wanted="score")
        assert_near(ours, sit(f"path_{NAMES[path]}_score_from_velocity")[i], 2e-5)


@pytest.mark.parametrize("form", DIFFUSION)
@pytest.mark.parametrize("path", PATHS)
def test_diffusion_is_the_originals(path, form):
    theirs = {"increasing-decreasing": "inccreasing-decreasing", "sbdm": "SBDM", "kl": "SBDM"}.get(form, form)
    ours = [DIFFUSION[form](float(t), PATHS[path](float(t))) for t in sit("path_t")]
    np.testing.assert_allclose(ours, sit(f"path_{NAMES[path]}_diffusion_{theirs}").expand(4), rtol=1e-4)


class Recording:
    """The guided network of the recorded chains, and the state at which it was last asked at every time."""

    def __init__(self) -> None:
        self.denoiser = guided(golden_model("small"), LABELS, null_class=10, scale=1.5)
        self.states: list[tuple[float, torch.Tensor]] = []

    def __call__(self, x: torch.Tensor, t: float) -> torch.Tensor:
        self.states.append((t, x))
        return self.denoiser(x, t)

    def at(self, time: float) -> torch.Tensor:
        return [x for t, x in self.states if t == pytest.approx(time, abs=1e-6)][-1]


def start() -> torch.Tensor:
    return torch.from_numpy(dit_weights.noise("sit/z", 0, (2, 4, 8, 8)))


@pytest.mark.parametrize(("method", "states"), ODE)
@pytest.mark.parametrize("path", PATHS)
@torch.no_grad()
def test_ode_is_the_originals(path, method, states):
    solver = "heun" if method == "heun2" else method
    schedule = ode_schedule(states - 1, path=path, prediction="velocity", solver=solver)
    network = Recording()
    last = ode(network, start(), schedule, lambda *_: pytest.fail("asked for noise"))
    tag = f"ode_{NAMES[path]}_{method}_{states}"
    assert_near(start(), sit(f"{tag}_first")[:2], 0)
    assert_near(network.at(float(schedule.times[states // 2])), sit(f"{tag}_middle")[:2], 1e-5)
    assert_near(last, sit(f"{tag}_last")[:2], 1e-5)


@pytest.mark.parametrize("path", PATHS)
@torch.no_grad()
def test_adaptive_ode_of_all_images_as_one_is_the_originals(path):
    """The original's two conditional and two unconditional images choose their steps together.

    In float64: in float32 rounding chooses the second step, and 1e-7 of the noise moves the end by 2e-4.
    """
    network = copy.deepcopy(golden_model("small")).double()
    labels = torch.tensor([*LABELS, 10, 10])

    def field(state: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x = state.view(4, 4, 8, 8)[:2].repeat(2, 1, 1, 1)
        output = network(x, t.expand(4), labels)
        conditional, unconditional = output[:, :3].chunk(2)
        mixed = unconditional + 1.5 * (conditional - unconditional)
        return torch.cat([mixed.repeat(2, 1, 1, 1), output[:, 3:4]], dim=1).view(state.shape)

    schedule = ode_schedule(None, path=path, prediction="velocity", solver="dopri5")
    state = start().double().repeat(2, 1, 1, 1).view(1, 16, 8, 8)
    last = ode(field, state, schedule, lambda *_: pytest.fail("asked for noise"))
    assert_near(last.view(4, 4, 8, 8), sit(f"ode_{NAMES[path]}_dopri5_10_last"), 1e-4)


@pytest.mark.parametrize("path", PATHS)
@torch.no_grad()
def test_adaptive_ode_of_each_image_is_the_originals_within_its_tolerance(path):
    schedule = ode_schedule(None, path=path, prediction="velocity", solver="dopri5")
    network = guided(golden_model("small"), LABELS, null_class=10, scale=1.5)
    last = ode(network, start(), schedule, lambda *_: pytest.fail("asked for noise"))
    recorded = sit(f"ode_{NAMES[path]}_dopri5_10_last")
    for image, expected in zip(last, recorded[: len(LABELS)], strict=True):
        assert_near(image, expected, 1e-3)


@pytest.mark.parametrize(("path", "form", "solver", "last_step", "states"), CHAINS_SDE)
@torch.no_grad()
def test_sde_with_the_recorded_noise_is_the_originals(path, form, solver, last_step, states):
    tag = f"sde_{NAMES[path]}_{form}_{solver}_{last_step}_{states}"
    schedule = sde_schedule(
        states - (last_step == "None"),
        path=path,
        prediction="velocity",
        solver=solver.lower(),
        diffusion=form.lower().replace("cc", "c"),
        last_step=last_step.lower(),
        last_step_size=0.04,
    )

    def noise(step: int, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(dit_weights.noise(tag, step, (4, *shape[1:])))[:2]

    network = Recording()
    last = sde(network, start(), schedule, noise)
    assert_near(last, sit(f"{tag}_last")[:2], 1e-5)
    if solver == "Euler":  # state i there is the one after step i, from 0
        middle = network.at(float(schedule.times[states // 2 + 1]))
        assert_near(middle, sit(f"{tag}_middle")[:2], 1e-5)


def test_every_finite_chain_of_the_original_is_replayed():
    tags = {key.removesuffix("_last") for key in recorded("sit") if key.endswith("_last")}
    replayed = {f"ode_{name}_{method}_{n}" for name in NAMES.values() for method, n in [*ODE, ("dopri5", 10)]}
    replayed |= {f"sde_{NAMES[path]}_{'_'.join(map(str, chain))}" for path, *chain in CHAINS_SDE}
    assert tags == replayed
