"""Settings from requests, manifest entries and defaults, and the choices that the command offers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from dit_eval.cli import main
from dit_eval.commands.sample import sample
from dit_eval.diagnostics import reproduce
from dit_eval.errors import UsageError
from dit_eval.generation.model_lookup import ModelSpec
from dit_eval.generation.plan import choose_settings
from dit_eval.runtime.precision import PRECISIONS
from dit_eval.sampling.flow_schedules import DIFFUSION, LAST_STEPS, ODE_SOLVERS, SDE_SOLVERS
from dit_eval.sampling.paths import PATHS, PREDICTIONS
from dit_eval.sampling.samplers import SAMPLERS

REQUEST = {
    "num": 10, "seed": 0, "labels": "uniform", "sampler": None, "steps": None, "cfg": None,
    "cfg_channels": None, "cfg_interval": None, "cfg_times": None, "rounding": "dit", "batch_size": 4,
    "precision": "fp32", "compile": False,
}  # fmt: skip


def settings(
    options: dict[str, Any] | None = None,
    *,
    family: str | None = None,
    defaults: dict[str, Any] | None = None,
    **request: Any,
) -> dict[str, Any]:
    """The settings for a request to a model of this family and with these defaults in its manifest entry."""
    spec = ModelSpec(
        name="mine", config="S/8", family=family, weights_source=Path("mine.pt"), defaults=defaults or {}
    )
    return choose_settings(spec, options or {}, **(REQUEST | request))


@pytest.mark.parametrize(
    ("sampler", "family", "complaint"),
    [
        ("ode", "diffusion", "ode does not fit mine, which is a diffusion model. Choose ddpm or ddim"),
        ("sde", "diffusion", "Choose ddpm or ddim"),
        ("ddpm", "flow", "ddpm does not fit mine, which is a flow model. Choose ode or sde, or another"),
        ("ddim", "flow", "Choose ode or sde"),
        ("euler", None, "not one of ddpm, ddim, ode, sde"),
        ("meanflow", "flow", "meanflow does not fit mine, which predicts velocity. Average velocities are"),
        ("meanflow", None, "meanflow does not fit mine"),
    ],
)
def test_sampler_of_another_family_is_refused(sampler, family, complaint):
    with pytest.raises(UsageError, match=complaint):
        settings(sampler=sampler, family=family)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "meanflow"])
def test_sampler_fits_its_family_and_models_of_unknown_family(sampler):
    for family in (SAMPLERS[sampler].family, None):
        assert settings(sampler=sampler, family=family)["sampler"] == sampler


@pytest.mark.parametrize(("family", "sampler"), [("diffusion", "ddpm"), ("flow", "sde"), (None, "ddpm")])
def test_sampler_defaults_to_that_of_the_family(family, sampler):
    assert settings(family=family)["sampler"] == sampler


def test_sampler_of_the_manifest_comes_before_that_of_the_family():
    assert settings(family="flow", defaults={"sampler": "ode"})["sampler"] == "ode"


def test_options_are_as_requested_else_as_in_the_manifest_else_the_defaults():
    requested = {"solver": "rk4", "path": None}
    chosen = settings(requested, sampler="ode", defaults={"path": "gvp", "solver": "euler", "cfg": 4.0})
    defaults = SAMPLERS["ode"].options
    assert chosen["options"] == {**defaults, "path": "gvp", "prediction": "velocity", "solver": "rk4"}
    assert chosen["cfg"] == 4.0
    assert (settings(cfg=1.5, defaults={"cfg": 4.0})["cfg"], settings()["cfg"]) == (1.5, 1.0)


def test_steps_are_as_requested_else_as_in_the_manifest_else_250():
    defaults = {"steps": 50}
    assert settings(steps=10, defaults=defaults)["steps"] == "10"
    assert settings(defaults=defaults)["steps"] == "50"
    assert settings()["steps"] == "250"
    assert settings({"solver": "dopri5"}, sampler="ode", defaults=defaults)["steps"] is None


def test_requested_zeros_are_not_taken_for_open_settings():
    assert settings({"eta": 0.0}, sampler="ddim", defaults={"eta": 1.0})["options"] == {"eta": 0.0}
    assert settings(cfg=0.0, defaults={"cfg": 4.0})["cfg"] == 0.0


def test_batch_is_not_larger_than_the_number_of_images():
    assert settings(num=3, batch_size=32)["batch_size"] == 3


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5])
def test_seed_of_more_than_64_bits_is_refused(seed):
    with pytest.raises(UsageError, match="seed is"):
        settings(seed=seed)


@pytest.mark.parametrize("value", [0, -1, 2.5, None, "8"])
@pytest.mark.parametrize("parameter", ["num", "batch_size"])
def test_number_of_images_that_is_not_a_positive_integer_is_refused(parameter, value):
    with pytest.raises(UsageError, match=f"^{parameter} is .*expected an integer of at least 1"):
        settings(**{parameter: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(UsageError, match=r"^--cfg is .*expected finite numbers"):
        settings(cfg=value)
    for interval in ((0.1, value), [value, 1.0]):
        with pytest.raises(UsageError, match=r"^--cfg-interval is .*expected finite numbers"):
            settings(cfg_interval=interval)
    with pytest.raises(UsageError, match=r"^--eta is "):
        settings({"eta": value}, sampler="ddim")
    with pytest.raises(UsageError, match=r"^--last-step-size is "):
        settings({"last_step_size": value}, sampler="sde")


def test_option_that_no_sampler_has_is_a_programming_error():
    with pytest.raises(TypeError, match="sovler"):
        settings({"sovler": "rk4"}, sampler="ode")


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("sampler", SAMPLERS),
        ("solver", {**ODE_SOLVERS, **SDE_SOLVERS}),
        ("diffusion", DIFFUSION),
        ("last_step", LAST_STEPS),
        ("path", PATHS),
        ("prediction", PREDICTIONS),
        ("precision", PRECISIONS),
    ],
)
def test_command_offers_all_choices(option, choices):
    (kind,) = (parameter.type for parameter in sample.params if parameter.name == option)
    assert isinstance(kind, click.Choice)
    assert list(kind.choices) == list(choices)


@pytest.mark.parametrize("command", [["reproduce", "table2", "--model", "digits"], ["demo"]])
def test_commands_that_sample_pass_on_what_decides_the_speed(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def generate(*_: Any, **settings: Any) -> None:
        calls.append(settings)
        raise UsageError("stopped")

    monkeypatch.setattr(reproduce, "generate", generate)
    for arguments in (["--precision", "bf16", "--compile", "--batch-size", "7"], []):
        options = ["--device", "cpu", "--out", str(tmp_path), *arguments]
        found = CliRunner().invoke(main, [*command, *options])
        assert isinstance(found.exception, UsageError)
    chosen = [(call["precision"], call["compile"], call["batch_size"]) for call in calls]
    assert chosen == [("bf16", True, 7), (None, False, 32)]
