"""The options of every sampler, with their defaults, and the ranges of numbers; importing them does not
import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dit_eval.errors import UsageError, option_name

_SHARED = {"shift": 1.0, "noise_scale": 1.0, "state": "float32"}  # by all samplers of flows
_FLOW = {"path": "linear", "prediction": "velocity", "t_eps": 0.0, **_SHARED}

OPTIONS: dict[str, dict[str, str | float]] = {
    "ddpm": {},
    "ddim": {"eta": 0.0},
    "ode": {**_FLOW, "solver": "heun", "last_step": "none"},
    "sde": {**_FLOW, "solver": "euler", "diffusion": "sigma", "last_step": "mean", "last_step_size": 0.04},
    "meanflow": {**_SHARED},
}


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, without an end that is open. expected: the same in words."""

    expected: str
    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return False
        return (self.low < value or (value == self.low and not self.low_open)) and (
            value < self.high or (value == self.high and not self.high_open)
        )


RANGES = {
    "cfg": Range("a number of at least 0", 0),
    "eta": Range("a number from 0 to 1", 0, 1),
    "shift": Range("a positive number", 0, low_open=True),
    "noise_scale": Range("a positive number", 0, low_open=True),
    "t_eps": Range("a number from 0 to below 1", 0, 1, high_open=True),
    "last_step_size": Range("a number between 0 and 1", 0, 1, low_open=True, high_open=True),
}


def require_in_range(**settings: object) -> None:
    """Raise UsageError unless the value of every setting is a number in its range, see `RANGES`."""
    for name, value in settings.items():
        if value not in RANGES[name]:
            raise UsageError(f"{option_name(name)} is {value!r}; expected {RANGES[name].expected}.")
