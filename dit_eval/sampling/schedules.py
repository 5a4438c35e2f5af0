"""Noise schedules of diffusion models: betas, respacing, and the float64 tables that the samplers read.

A schedule is indexed by step in the order of growing noise. The samplers walk it backwards and pass
`timesteps[i]`, the timestep of the training schedule, to the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dit_eval.errors import UsageError

Table = NDArray[np.floating]  # float64 throughout; numpy's stubs cannot always tell

TRAINED_STEPS = 1000  # Ho et al. 2020; every public DiT


def linear_betas() -> Table:
    """The linear schedule of Ho et al. 2020, from 1e-4 to 2e-2: (1000,) float64."""
    return np.linspace(1e-4, 2e-2, TRAINED_STEPS, dtype=np.float64)


def spaced_timesteps(steps: int | str, trained: int = TRAINED_STEPS) -> NDArray[np.int64]:
    """The timesteps, of `trained`, that a shorter chain visits: (steps,) int64, ascending.

    steps: a number keeps both ends and rounds equal spacing to timesteps (Nichol & Dhariwal 2021); "ddimN"
    takes every k-th timestep from 0, with the integer k that gives N of them (Song et al. 2021); "A,B,C" cuts
    the chain into equal sections and spaces each one by its own number.
    Raises UsageError if the chain does not have that many timesteps.
    """
    spec = str(steps)
    try:
        if spec.startswith("ddim"):
            return _by_stride(int(spec.removeprefix("ddim")), trained)
        section_steps = [int(part) for part in spec.split(",")]
    except ValueError:
        raise UsageError(
            f"{spec!r} is not a valid number of steps (expected e.g. 250, ddim50 or 10,15,20)."
        ) from None
    sections = np.array_split(np.arange(trained), len(section_steps))
    return np.concatenate([_evenly(n, section) for n, section in zip(section_steps, sections, strict=True)])


def _by_stride(count: int, trained: int) -> NDArray[np.int64]:
    strides = {len(range(0, trained, k)): k for k in range(trained, 0, -1)}  # the smallest stride wins
    if count not in strides:
        nearest = sorted(strides, key=lambda possible: abs(possible - count))[:2]
        raise UsageError(
            f"no integer stride takes {count} of {trained} timesteps "
            f"(nearest: ddim{min(nearest)}, ddim{max(nearest)}); choose one of these, or plain {count}."
        )
    return np.arange(0, trained, strides[count])


def _evenly(count: int, section: NDArray[np.int64]) -> NDArray[np.int64]:
    if not 1 <= count <= len(section):
        raise UsageError(f"{count} steps cannot be taken from {len(section)}; choose 1 to {len(section)}.")
    stride = (len(section) - 1) / (count - 1) if count > 1 else 1.0
    positions = np.concatenate([[0.0], np.cumsum(np.full(count - 1, stride))])  # a sum, as in ADM's code
    return section[np.round(positions).astype(np.int64)]


@dataclass(frozen=True, eq=False)
class Schedule:
    """The tables of a Gaussian diffusion, each (steps,) float64, named as in ADM's GaussianDiffusion."""

    betas: Table
    timesteps: NDArray[np.int64]  # of the training schedule, as the network knows them

    def __len__(self) -> int:
        return len(self.betas)

    @property
    def evaluations(self) -> int:
        """Number of calls of the denoiser in one run."""
        return len(self)

    @cached_property
    def alphas_cumprod(self) -> Table:
        """ᾱ, the remaining share of the image's variance."""
        return np.cumprod(1.0 - self.betas)

    @cached_property
    def alphas_cumprod_prev(self) -> Table:
        """ᾱ of the preceding, less noisy step; 1 before the first."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @cached_property
    def noise_level(self) -> Table:
        """σ = √((1 − ᾱ)/ᾱ), noise per unit of image, as in Karras et al. 2022."""
        return self.sqrt_recipm1_alphas_cumprod

    @cached_property
    def sqrt_recip_alphas_cumprod(self) -> Table:
        """√(1/ᾱ), the factor of x in x₀ = √(1/ᾱ) x − √(1/ᾱ − 1) ε."""
        return np.sqrt(1.0 / self.alphas_cumprod)

    @cached_property
    def sqrt_recipm1_alphas_cumprod(self) -> Table:
        """√(1/ᾱ − 1), the factor of ε in x₀ = √(1/ᾱ) x − √(1/ᾱ − 1) ε."""
        return np.sqrt(1.0 / self.alphas_cumprod - 1.0)

    @cached_property
    def posterior_variance(self) -> Table:
        """β̃, the variance of q(x_{t−1} | x_t, x₀); 0 at the first step."""
        return self.betas * (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance_clipped(self) -> Table:
        """log β̃, where the first step, whose β̃ is 0, takes the value of the second."""
        if len(self) == 1:
            return np.log(self.betas)
        return np.log(np.append(self.posterior_variance[1], self.posterior_variance[1:]))

    @cached_property
    def posterior_mean_coef1(self) -> Table:
        """The factor of x₀ in the mean of q(x_{t−1} | x_t, x₀)."""
        return self.betas * np.sqrt(self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> Table:
        """The factor of x_t in the mean of q(x_{t−1} | x_t, x₀)."""
        return (1.0 - self.alphas_cumprod_prev) * np.sqrt(1.0 - self.betas) / (1.0 - self.alphas_cumprod)

    def times_between(self, low: float, high: float) -> tuple[float, float]:
        """The first and the last timestep with a noise level in [low, high].

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
    """The schedule that visits only `timesteps` and keeps the trained ᾱ at each of them."""
    alphas_cumprod = np.cumprod(1.0 - trained_betas)[timesteps]
    betas = 1.0 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
    return Schedule(betas=betas, timesteps=timesteps)


def diffusion_schedule(steps: int | str, *, trained_betas: Table | None = None) -> Schedule:
    """A training schedule, by default DiT's 1000 linear betas, respaced (see `spaced_timesteps`)."""
    betas = linear_betas() if trained_betas is None else trained_betas
    return respaced(spaced_timesteps(steps, len(betas)), betas)
