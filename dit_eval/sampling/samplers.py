"""The samplers by name, the options that each of them takes, and the models that each of them can sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dit_eval.errors import UsageError
from dit_eval.sampling.diffusion import ddim, ddpm
from dit_eval.sampling.flow import ode, sde
from dit_eval.sampling.flow_schedules import ADAPTIVE, ode_schedule, sde_schedule
from dit_eval.sampling.schedules import diffusion_schedule

STEPS = 250  # Peebles & Xie 2023, Ma et al. 2024


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A way from noise to images, and what it may be told, with defaults."""

    family: str  # of the models that are sampled so, "DiT" or "SiT"
    run: Callable[..., Tensor]
    schedule: Callable[..., Any]
    run_options: Mapping[str, Any] = field(default_factory=dict)
    schedule_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> Mapping[str, Any]:
        """All of them."""
        return {**self.schedule_options, **self.run_options}


SAMPLERS = {
    "ddpm": Sampler(family="DiT", run=ddpm, schedule=diffusion_schedule),
    "ddim": Sampler(family="DiT", run=ddim, schedule=diffusion_schedule, run_options={"eta": 0.0}),
    "ode": Sampler(
        family="SiT",
        run=ode,
        schedule=ode_schedule,
        schedule_options={"path": "linear", "prediction": "velocity", "solver": "heun"},
    ),
    "sde": Sampler(
        family="SiT",
        run=sde,
        schedule=sde_schedule,
        schedule_options={
            "path": "linear",
            "prediction": "velocity",
            "solver": "euler",
            "diffusion": "sigma",
            "last_step": "mean",
            "last_step_size": 0.04,
        },
    ),
}


def require_fitting(sampler: str, model: str, family: str | None) -> None:
    """Raise UsageError if the sampler does not exist, or is not for models of this family, if it is known."""
    if sampler not in SAMPLERS:
        raise UsageError(f"sampler {sampler!r} is not one of {', '.join(SAMPLERS)}.")
    if family not in (None, SAMPLERS[sampler].family):
        fitting = [name for name, each in SAMPLERS.items() if each.family == family]
        raise UsageError(
            f"{model} is a {family}, sampled by {' or '.join(fitting)}, and the sampler is {sampler}. "
            "Choose one of these, or another model."
        )


def choose_options(sampler: str, given: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """All that the sampler takes: as given, else as the model says, else its own default; None is not given.

    Raises UsageError for an option of another sampler, TypeError for one of none.
    """
    takes = SAMPLERS[sampler].options
    chosen = {option: value for option, value in given.items() if value is not None}
    for option in chosen:
        fitting = [name for name, each in SAMPLERS.items() if option in each.options]
        if not fitting:
            raise TypeError(f"there is no option {option!r}")
        if sampler not in fitting:
            raise UsageError(
                f"{option.replace('_', ' ')} is an option of {' and '.join(fitting)}, and the sampler is "
                f"{sampler}; leave it out."
            )
    return {option: chosen.get(option, model.get(option, default)) for option, default in takes.items()}


def choose_steps(given: int | str | None, options: Mapping[str, Any], model: Mapping[str, Any]) -> str | None:
    """How many steps: as given, else as the model says, else 250; None for a solver that chooses its own."""
    if given is None and options.get("solver") in ADAPTIVE:
        return None
    return str(model.get("steps", STEPS) if given is None else given)
