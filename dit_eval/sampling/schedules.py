"""Noise schedules: betas, respacing, and the float64 tables that the samplers read.

A schedule is a table indexed by step, in the order of growing noise. The samplers walk it backwards and
tell the network `timesteps[k]`, the number that this step has in the schedule of training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dit_eval.errors import UsageError

Table = NDArray[np.floating]  # float64 throughout; numpy's stubs cannot always tell

TRAINED_STEPS = 1000  # Ho et al. 2020; every public DiT


def linear_betas(steps: int = TRAINED_STEPS) -> Table:
    """The linear schedule of Ho et al. 2020: 1e-4 to 2e-2 for 1000 steps, (steps,) float64."""
    per_step = 1000 / steps  # keeps the total amount of noise for another number of steps
    return np.linspace(1e-4 * per_step, 2e-2 * per_step, steps, dtype=np.float64)


def spaced_timesteps(count: int | str, trained: int = TRAINED_STEPS) -> NDArray[np.int64]:
    """Which of the `trained` timesteps a shorter chain visits, ascending, (count,) int64.

    A number keeps both ends and rounds what lies between to the nearest timestep (Nichol & Dhariwal 2021).
    "ddimN" takes every k-th timestep from 0, k being the integer that gives N of them (Song et al. 2021).
    "A,B,C" cuts the chain into equal sections and spaces each one by its own number.
    Raises UsageError if the chain has not that many timesteps.
    """
    spec = str(count)
    try:
        if spec.startswith("ddim"):
            return _by_stride(int(spec.removeprefix("ddim")), trained)
        counts = [int(part) for part in spec.split(",")]
    except ValueError:
        raise UsageError(f"{spec!r} is no number of steps (expected e.g. 250, ddim50 or 10,15,20).") from None
    sections = np.array_split(np.arange(trained), len(counts))
    return np.concatenate([_evenly(n, section) for n, section in zip(counts, sections, strict=True)])


def _by_stride(count: int, trained: int) -> NDArray[np.int64]:
    strides = {len(range(0, trained, k)): k for k in range(trained, 0, -1)}  # the smallest stride wins
    if count not in strides:
        near = sorted(strides, key=lambda possible: abs(possible - count))[:2]
        raise UsageError(
            f"no integer stride takes {count} of {trained} timesteps "
            f"(nearest: ddim{min(near)}, ddim{max(near)}); choose one of these, or {count} without 'ddim'."
        )
    return np.arange(0, trained, strides[count])


def _evenly(count: int, section: NDArray[np.int64]) -> NDArray[np.int64]:
    if not 1 <= count <= len(section):
        raise UsageError(f"{count} steps cannot be taken from {len(section)}; choose 1 to {len(section)}.")
    stride = (len(section) - 1) / (count - 1) if count > 1 else 1.0
    positions = np.concatenate([[0.0], np.cumsum(np.full(count - 1, stride))])  # summed, as the original does
    return section[np.round(positions).astype(np.int64)]


@dataclass(frozen=True, eq=False)
class Schedule:
    """The tables of a Gaussian diffusion, each (steps,) float64, in the notation of Ho et al. 2020."""

    betas: Table
    timesteps: NDArray[np.int64]  # what the network is told at each step

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> Table:
        """ᾱ: the share of the image's variance that is left."""
        return np.cumprod(1.0 - self.betas)

    @cached_property
    def alphas_cumprod_prev(self) -> Table:
        """ᾱ of the step before, which is less noisy; 1 at the first."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @cached_property
    def noise_level(self) -> Table:
        """σ = √((1 − ᾱ)/ᾱ): noise per unit of image, the variable of Karras et al. 2022."""
        return self.sqrt_recipm1_alphas_cumprod

    @cached_property
    def sqrt_recip_alphas_cumprod(self) -> Table:
        """x₀ = this · x − (the next table) · ε."""
        return np.sqrt(1.0 / self.alphas_cumprod)

    @cached_property
    def sqrt_recipm1_alphas_cumprod(self) -> Table:
        """x₀ = (the table before) · x − this · ε."""
        return np.sqrt(1.0 / self.alphas_cumprod - 1.0)

    @cached_property
    def posterior_variance(self) -> Table:
        """β̃, the variance of q(x_{t−1} | x_t, x₀); 0 at the first step."""
        return self.betas * (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance_clipped(self) -> Table:
        """log β̃, where the first step, which has none, borrows from the second."""
        if len(self) == 1:
            return np.log(self.betas)
        return np.log(np.append(self.posterior_variance[1], self.posterior_variance[1:]))

    @cached_property
    def posterior_mean_coef1(self) -> Table:
        """The weight of x₀ in the mean of q(x_{t−1} | x_t, x₀)."""
        return self.betas * np.sqrt(self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> Table:
        """The weight of x_t in the mean of q(x_{t−1} | x_t, x₀)."""
        return (1.0 - self.alphas_cumprod_prev) * np.sqrt(1.0 - self.betas) / (1.0 - self.alphas_cumprod)

    def times_between(self, low: float, high: float) -> tuple[float, float]:
        """The first and the last timestep whose noise level lies in low … high.

        Raises UsageError if there is none.
        """
        inside = self.timesteps[(low <= self.noise_level) & (self.noise_level <= high)]
        if not len(inside):
            raise UsageError(
                f"no step has a noise level between {low} and {high}: the levels of this schedule are "
                f"{self.noise_level[0]:.3g} to {self.noise_level[-1]:.3g}."
            )
        return float(inside[0]), float(inside[-1])


def respaced(timesteps: NDArray[np.int64], trained_betas: Table) -> Schedule:
    """The schedule that visits only `timesteps` and has the trained ᾱ at each of them."""
    alphas_cumprod = np.cumprod(1.0 - trained_betas)[timesteps]
    betas = 1.0 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
    return Schedule(betas=betas, timesteps=timesteps)


def diffusion_schedule(steps: int | str) -> Schedule:
    """The paper's schedule, 1000 linear betas, respaced to `steps` (see `spaced_timesteps`)."""
    return respaced(spaced_timesteps(steps), linear_betas())
