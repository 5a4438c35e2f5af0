"""Samplers by name: whom they fit, what they are told, and that the command offers the same."""

from __future__ import annotations

import click
import pytest

from dit_eval.commands.sample import sample
from dit_eval.errors import UsageError
from dit_eval.sampling.flow_schedules import DIFFUSION, LAST_STEPS, ODE_SOLVERS, SDE_SOLVERS
from dit_eval.sampling.paths import PATHS, PREDICTIONS
from dit_eval.sampling.samplers import SAMPLERS, choose_options, choose_steps, require_fitting


@pytest.mark.parametrize(
    ("sampler", "family", "complaint"),
    [
        ("ode", "DiT", "mine is a DiT, sampled by ddpm or ddim, and the sampler is ode"),
        ("sde", "DiT", "sampled by ddpm or ddim"),
        ("ddpm", "SiT", "mine is a SiT, sampled by ode or sde, and the sampler is ddpm"),
        ("ddim", "SiT", "sampled by ode or sde"),
        ("euler", None, "not one of ddpm, ddim, ode, sde"),
    ],
)
def test_sampler_of_another_kind_of_model_is_refused(sampler, family, complaint):
    with pytest.raises(UsageError, match=complaint):
        require_fitting(sampler, "mine", family)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampler_fits_its_family_and_models_of_which_nothing_is_known(sampler):
    require_fitting(sampler, "mine", SAMPLERS[sampler].family)
    require_fitting(sampler, "mine", None)


def test_option_is_as_given_else_as_the_model_says_else_the_default():
    told = choose_options(
        "ode", {"solver": "rk4", "path": None}, {"path": "gvp", "solver": "euler", "cfg": 4}
    )
    assert told == {"path": "gvp", "prediction": "velocity", "solver": "rk4"}


def test_option_of_no_sampler_is_a_programming_error():
    with pytest.raises(TypeError, match="sovler"):
        choose_options("ode", {"sovler": "rk4"}, {})


def test_steps_are_as_given_else_as_the_model_says_else_250():
    assert choose_steps(10, {}, {"steps": 50}) == "10"
    assert choose_steps(None, {}, {"steps": 50}) == "50"
    assert choose_steps(None, {"solver": "heun"}, {}) == "250"
    assert choose_steps(None, {"solver": "dopri5"}, {"steps": 50}) is None


@pytest.mark.parametrize(
    ("option", "known"),
    [
        ("sampler", SAMPLERS),
        ("solver", {**dict.fromkeys(ODE_SOLVERS), **dict.fromkeys(SDE_SOLVERS)}),
        ("diffusion", DIFFUSION),
        ("last_step", LAST_STEPS),
        ("path", PATHS),
        ("prediction", PREDICTIONS),
    ],
)
def test_command_offers_what_there_is(option, known):
    (kind,) = (parameter.type for parameter in sample.params if parameter.name == option)
    assert isinstance(kind, click.Choice)
    assert list(kind.choices) == list(known)
