"""Schedules of the flow samplers: path, times, solver and the noise of the SDE.

The options are those of SiT's released code, with three differences: `steps` counts steps, not the times
between them; the diffusions "constant" and "increasing-decreasing" work; and "sbdm" skips t = 0 on the linear
and the GVP path, where the released code does not return finite samples if the network predicts velocity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from torch import Tensor

from dit_eval.errors import UsageError, require_choices
from dit_eval.sampling.options import require_in_range
from dit_eval.sampling.paths import PATHS, PREDICTIONS, PathCoefficients
from dit_eval.sampling.schedules import Table

MARGIN = 1e-3  # distance from an end where a coefficient is not finite, as in SiT's released code

# Network evaluations per step; None for an adaptive solver, which chooses its steps.
ODE_SOLVERS = {"euler": 1, "midpoint": 2, "heun": 2, "heun3": 3, "rk4": 4, "dopri5": None}
ADAPTIVE_SOLVERS = ("dopri5",)
SDE_SOLVERS = {"euler": 1, "heun": 2}
LAST_STEPS = ("mean", "tweedie", "euler", "none")  # of the SDE; the ODE has the last two
STATES = ("float32", "float64")  # in which a flow keeps its state; the network computes in float32


def _kl_optimal(t: float, c: PathCoefficients) -> float:
    """σ (α̇σ − ασ̇)/α, which minimises the paper's bound on the KL divergence; not finite where α = 0."""
    return c.sigma * c.wronskian / c.alpha


DIFFUSION: dict[str, Callable[[float, PathCoefficients], float]] = {  # g, which is half the paper's w
    "sigma": lambda t, c: c.sigma,
    "constant": lambda t, c: 1.0,
    "sbdm": _kl_optimal,  # β/2 on VP, and the same formula on the other paths
    "linear": lambda t, c: 1 - t,
    "decreasing": lambda t, c: 0.25 * (1 + math.cos(math.pi * t)) ** 2,
    "increasing-decreasing": lambda t, c: math.sin(math.pi * t) ** 2,
    "kl": _kl_optimal,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class FlowSchedule:
    """The times at which a flow is evaluated, and the solver that connects them."""

    path: str
    prediction: str  # what the network predicts
    solver: str
    times: Table  # (steps + 1,) float64, ascending; for an adaptive solver only the two ends
    t_eps: float = 0.0  # smallest σ by which a prediction of data is divided
    diffusion: str = "sigma"  # SDE only
    last_step: str = "none"  # SDE only: the noise-free step from the last of the times to t = 1
    euler_at_end: bool = False  # ODE only: the last of the steps is one of Euler's

    def __len__(self) -> int:
        return len(self.times) - 1

    @property
    def adaptive(self) -> bool:
        """True if the solver chooses its own steps."""
        return self.solver in ADAPTIVE_SOLVERS

    @property
    def evaluations(self) -> int | None:
        """Number of calls of the denoiser in one run; None if the solver is adaptive."""
        per_step = ODE_SOLVERS[self.solver]  # the solvers of the SDE need as many
        if per_step is None:
            return None
        if self.euler_at_end:
            return per_step * (len(self) - 1) + 1
        return per_step * len(self) + (self.last_step != "none")

    def coefficients(self, t: float | Tensor) -> PathCoefficients:
        """The coefficients of the path at time t, or at several times."""
        return PATHS[self.path](t)

    def times_between(self, low: float, high: float) -> tuple[float, float]:
        """The first and the last time with a noise level σ/α in [low, high].

        Raises UsageError if there is none.
        """
        start, end = float(self.times[0]), float(self.times[-1])
        highest, lowest = self._noise_level(start), self._noise_level(end)
        if low > min(high, highest) or high < lowest:
            raise UsageError(
                f"no time has a noise level between {low} and {high}: the levels of this schedule are "
                f"{lowest:.3g} to {highest:.3g}."
            )
        first = start if high >= highest else self._time_of(high)
        last = end if low <= lowest else self._time_of(low)
        return first, last

    def _noise_level(self, t: float) -> float:
        c = self.coefficients(t)
        return c.sigma / c.alpha if c.alpha else math.inf

    def _time_of(self, noise_level: float) -> float:
        def excess(t: float) -> float:
            c = self.coefficients(t)
            return c.sigma - noise_level * c.alpha

        return float(brentq(excess, self.times[0], self.times[-1]))  # type: ignore[arg-type]


def ode_schedule(
    steps: int | str | None,
    *,
    path: str,
    prediction: str,
    solver: str,
    last_step: str = "none",
    t_eps: float = 0.0,
    shift: float = 1.0,
) -> FlowSchedule:
    """Equal steps from noise to data, then shifted; steps is None for an adaptive solver.

    last_step: "euler" takes the last of the steps by Euler's method, as JiT does after Heun's; t_eps: see
    `paths.convert`; shift: see `shifted`. Raises UsageError for unknown names, invalid numbers of steps, and
    a prediction of data that would be divided by σ = 0.
    """
    require_choices(
        path=(path, PATHS),
        prediction=(prediction, PREDICTIONS),
        solver=(solver, ODE_SOLVERS),
        last_step=(last_step, LAST_STEPS[2:]),
    )
    adaptive, euler_at_end = solver in ADAPTIVE_SOLVERS, last_step == "euler"
    if adaptive and (steps is not None or euler_at_end or shift != 1):
        raise UsageError(f"{solver} chooses its own steps; leave out --steps, --shift and --last-step.")
    if prediction == "x" and t_eps == 0 and not euler_at_end and solver not in ("euler", "midpoint"):
        raise UsageError(
            f"{solver} divides a prediction of x by the noise level at the end, which is 0. Set t_eps in the "
            "model, or choose --last-step euler."
        )
    num_steps = 1 if adaptive else _parse_steps(steps, minimum=1)
    times = shifted(np.linspace(_start(path, prediction), _end(path), num_steps + 1), shift)
    return FlowSchedule(
        path=path, prediction=prediction, solver=solver, times=times, t_eps=t_eps, euler_at_end=euler_at_end
    )


def meanflow_schedule(steps: int | str | None, *, shift: float = 1.0) -> FlowSchedule:
    """Equal intervals from noise to data, then shifted. Raises UsageError for invalid numbers of steps."""
    times = shifted(np.linspace(0.0, 1.0, _parse_steps(steps, minimum=1) + 1), shift)
    return FlowSchedule(path="linear", prediction="velocity", solver="euler", times=times)


def shifted(times: Table, shift: float) -> Table:
    """s t / (1 + (s − 1) t): more steps near noise for s < 1, near data for s > 1 (Esser et al. 2024).

    Time here runs from noise to data; for a model whose time runs the other way, pass 1/s.
    Raises UsageError unless s is positive.
    """
    require_in_range(shift=shift)
    return times if shift == 1 else shift * times / (1 + (shift - 1) * times)


def sde_schedule(
    steps: int | str | None,
    *,
    path: str,
    prediction: str,
    solver: str,
    diffusion: str,
    last_step: str,
    last_step_size: float,
    t_eps: float = 0.0,
    shift: float = 1.0,
) -> FlowSchedule:
    """Equal steps and, unless `last_step` is "none", a last one of `last_step_size`, which `steps` includes.

    t_eps: see `paths.convert`; shift: see `shifted`. Raises UsageError for unknown names and invalid numbers.
    """
    require_choices(
        path=(path, PATHS),
        prediction=(prediction, PREDICTIONS),
        solver=(solver, SDE_SOLVERS),
        diffusion=(diffusion, DIFFUSION),
        last_step=(last_step, LAST_STEPS),
    )
    start, end = _start(path, prediction), _end(path)
    if last_step == "none":
        num_steps = _parse_steps(steps, minimum=1)
        if solver == "heun" and end == 1:
            raise UsageError(
                "--solver heun needs the score at t = 1, which is infinite; choose another --last-step."
            )
    else:
        require_in_range(last_step_size=last_step_size)
        num_steps, end = _parse_steps(steps, minimum=2) - 1, 1 - last_step_size
        if not start < end:
            raise UsageError(f"--last-step-size is {last_step_size}; expected less than {1 - start}.")
    if diffusion in ("sbdm", "kl") and PATHS[path](0.0).alpha == 0:
        # g ≈ 1/t near 0. Skipping the first step keeps g Δt ≤ 1, so that no step of the score overshoots.
        start = max(start, end / (num_steps + 1))
    return FlowSchedule(
        path=path,
        prediction=prediction,
        solver=solver,
        times=shifted(np.linspace(start, end, num_steps + 1), shift),
        t_eps=t_eps,
        diffusion=diffusion,
        last_step=last_step,
    )


def _start(path: str, prediction: str) -> float:
    """0, or near it where the prediction cannot be converted to a velocity."""
    return MARGIN if PATHS[path](0.0).alpha == 0 and prediction not in ("velocity", "x") else 0.0


def _end(path: str) -> float:
    """1, or near it where σ̇ is not finite."""
    return 1.0 if math.isfinite(PATHS[path](1.0).d_sigma) else 1 - MARGIN


def _parse_steps(steps: int | str | None, *, minimum: int) -> int:
    if str(steps).isdecimal() and int(str(steps)) >= minimum:
        return int(str(steps))
    raise UsageError(
        f"{steps!r} is not a valid number of steps for a flow (expected an integer ≥ {minimum}, e.g. 250)."
    )
