"""The samplers by name, with their schedules, their options and the models that they sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dit_eval.sampling.diffusion import ddim, ddpm
from dit_eval.sampling.flow import meanflow, ode, sde
from dit_eval.sampling.flow_schedules import meanflow_schedule, ode_schedule, sde_schedule
from dit_eval.sampling.options import OPTIONS
from dit_eval.sampling.schedules import diffusion_schedule

INITIAL_NOISE = ("noise_scale", "state")  # options of the state from which a flow starts


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A sampling function, its schedule, and the options of both with their defaults.

    family: of the models it samples, "diffusion" or "flow"; run_options: the options that the function takes;
    the schedule takes the others.
    """

    family: str
    run: Callable[..., Tensor]
    schedule: Callable[..., Any]
    options: Mapping[str, Any]
    run_options: frozenset[str] = frozenset()

    def split(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options of the sampling function and of the schedule, without `INITIAL_NOISE`."""
        run = {name: value for name, value in options.items() if name in self.run_options}
        apart = {*run, *INITIAL_NOISE}
        return run, {name: value for name, value in options.items() if name not in apart}


SAMPLERS = {
    "ddpm": Sampler(family="diffusion", run=ddpm, schedule=diffusion_schedule, options=OPTIONS["ddpm"]),
    "ddim": Sampler(
        family="diffusion",
        run=ddim,
        schedule=diffusion_schedule,
        options=OPTIONS["ddim"],
        run_options=frozenset({"eta"}),
    ),
    "ode": Sampler(family="flow", run=ode, schedule=ode_schedule, options=OPTIONS["ode"]),
    "sde": Sampler(family="flow", run=sde, schedule=sde_schedule, options=OPTIONS["sde"]),
    "meanflow": Sampler(family="flow", run=meanflow, schedule=meanflow_schedule, options=OPTIONS["meanflow"]),
}
