"""How a flow is sampled: along which path, at which times, with which solver and how much noise.

The options of SiT's released code, but: `steps` counts steps and not the times between which they lie;
"constant" and "increasing-decreasing" work; and "sbdm" leaves out t = 0 on the linear and the GVP path, where
that code draws no finite samples from a model of velocity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from dit_eval.errors import UsageError
from dit_eval.sampling.paths import PATHS, PREDICTIONS, Point
from dit_eval.sampling.schedules import Table

MARGIN = 1e-3  # how far to keep from an end at which something is not finite, as SiT's released code does

ODE_SOLVERS = ("euler", "midpoint", "heun", "heun3", "rk4", "dopri5")
ADAPTIVE = ("dopri5",)
SDE_SOLVERS = ("euler", "heun")
LAST_STEPS = ("mean", "tweedie", "euler", "none")


def _kl_optimal(t: float, at: Point) -> float:
    """σ (α̇σ − ασ̇)/α: it makes the paper's bound of the KL divergence least. Not finite where α = 0."""
    return at.sigma * at.turn / at.alpha


DIFFUSION: dict[str, Callable[[float, Point], float]] = {  # g, half the paper's w
    "sigma": lambda t, at: at.sigma,
    "constant": lambda t, at: 1.0,
    "sbdm": _kl_optimal,  # β/2 on VP, and the same formula on the others
    "linear": lambda t, at: 1 - t,
    "decreasing": lambda t, at: 0.25 * (1 + math.cos(math.pi * t)) ** 2,
    "increasing-decreasing": lambda t, at: math.sin(math.pi * t) ** 2,
    "kl": _kl_optimal,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class FlowSchedule:
    """The times at which a flow is evaluated, and what is done there."""

    path: str
    prediction: str  # what the network gives
    solver: str
    times: Table  # (steps + 1,) float64, ascending; of an adaptive solver the ends
    diffusion: str = "sigma"  # of an SDE
    last_step: str = "none"  # of an SDE, from the last of the times to t = 1

    def __len__(self) -> int:
        return len(self.times) - 1

    def at(self, t: float) -> Point:
        """The path at time t."""
        return PATHS[self.path](t)

    def times_between(self, low: float, high: float) -> tuple[float, float]:
        """The first and the last time whose noise level σ/α lies in low … high.

        Raises UsageError if there is none.
        """
        start, end = float(self.times[0]), float(self.times[-1])
        most, least = self._noise_level(start), self._noise_level(end)
        if low > min(high, most) or high < least:
            raise UsageError(
                f"no time has a noise level between {low} and {high}: the levels of this schedule are "
                f"{least:.3g} to {most:.3g}."
            )
        first = start if high >= most else self._time_of(high)
        last = end if low <= least else self._time_of(low)
        return first, last

    def _noise_level(self, t: float) -> float:
        at = self.at(t)
        return at.sigma / at.alpha if at.alpha else math.inf

    def _time_of(self, level: float) -> float:
        def excess(t: float) -> float:
            at = self.at(t)
            return at.sigma - level * at.alpha

        return float(brentq(excess, self.times[0], self.times[-1]))  # type: ignore[arg-type]


def ode_schedule(steps: int | str | None, *, path: str, prediction: str, solver: str) -> FlowSchedule:
    """Equal steps all the way; None is for an adaptive solver, which chooses its own.

    Raises UsageError for unknown names and impossible numbers of steps.
    """
    _require_known(path=(path, PATHS), prediction=(prediction, PREDICTIONS), solver=(solver, ODE_SOLVERS))
    if solver not in ADAPTIVE:
        count = _count(steps, least=1)
    elif steps is None:
        count = 1
    else:
        raise UsageError(f"{solver} chooses its steps by itself, and {steps} were asked for; leave them out.")
    times = np.linspace(_start(path, prediction), _end(path), count + 1)
    return FlowSchedule(path=path, prediction=prediction, solver=solver, times=times)


def sde_schedule(
    steps: int | str | None,
    *,
    path: str,
    prediction: str,
    solver: str,
    diffusion: str,
    last_step: str,
    last_step_size: float,
) -> FlowSchedule:
    """Equal steps and, unless `last_step` is "none", one of `last_step_size` to t = 1; `steps` counts it too.

    Raises UsageError for unknown names and impossible numbers.
    """
    _require_known(
        path=(path, PATHS),
        prediction=(prediction, PREDICTIONS),
        solver=(solver, SDE_SOLVERS),
        diffusion=(diffusion, DIFFUSION),
        last_step=(last_step, LAST_STEPS),
    )
    start, end = _start(path, prediction), _end(path)
    count = _count(steps, least=1)
    if last_step != "none":
        end, count = 1 - last_step_size, _count(steps, least=2) - 1
        if not start < end < 1:
            raise UsageError(f"a last step goes part of the way from 0 to 1, and {last_step_size} does not.")
    elif solver == "heun" and end == 1:
        raise UsageError("heun looks at the end of every step, and at t = 1 is no score; choose a last step.")
    if diffusion in ("sbdm", "kl") and PATHS[path](0.0).alpha == 0:
        # g ≈ 1/t near 0. Leaving out the first step keeps g Δt ≤ 1, so that no step of the score overshoots.
        start = max(start, end / (count + 1))
    return FlowSchedule(
        path=path,
        prediction=prediction,
        solver=solver,
        times=np.linspace(start, end, count + 1),
        diffusion=diffusion,
        last_step=last_step,
    )


def _start(path: str, prediction: str) -> float:
    """0, or near it where the velocity cannot be had from the prediction."""
    return MARGIN if PATHS[path](0.0).alpha == 0 and prediction != "velocity" else 0.0


def _end(path: str) -> float:
    """1, or near it where σ̇ is not finite."""
    return 1.0 if math.isfinite(PATHS[path](1.0).d_sigma) else 1 - MARGIN


def _count(steps: int | str | None, *, least: int) -> int:
    if str(steps).isdecimal() and int(str(steps)) >= least:
        return int(str(steps))
    raise UsageError(f"{steps!r} is no number of steps for a flow (expected {least} or more, e.g. 250).")


def _require_known(**options: tuple[str, Collection[str]]) -> None:
    for option, (value, known) in options.items():
        if value not in known:
            raise UsageError(f"{option.replace('_', ' ')} {value!r} is not one of {', '.join(known)}.")
