"""Checks of the generation: schedules, paths, noise, networks and chains."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dit_eval.diagnostics.certificate import CertifiedNumber
from dit_eval.diagnostics.recorded import dit_weights
from dit_eval.diagnostics.recorded.comparison import ELEMENTWISE, LARGEST, array, digest
from dit_eval.diagnostics.recorded.networks import recorded_frequencies, synthetic_dit
from dit_eval.diagnostics.recorded.numbers import arrays, expected
from dit_eval.diagnostics.recorded.setup import Setup
from dit_eval.dit import DiT
from dit_eval.dit.model import TimestepEmbedder
from dit_eval.runtime.precision import computation
from dit_eval.sampling.guidance import Denoiser, guided
from dit_eval.sampling.noise import normals
from dit_eval.sampling.paths import PATHS
from dit_eval.sampling.samplers import SAMPLERS
from dit_eval.sampling.schedules import diffusion_schedule

_TABLES = {  # name → tables, of which schedules of 10 steps have the first
    "betas": ("betas",),
    "alphas_cumprod": ("alphas_cumprod", "alphas_cumprod_prev"),
    "posterior variance": ("posterior_variance", "posterior_log_variance_clipped"),
    "posterior mean": ("posterior_mean_coef1", "posterior_mean_coef2"),
    "coefficients of x0": ("sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
}
_PATHS = {"linear": "Linear", "gvp": "GVP", "vp": "VP"}  # as SiT's code calls them
_CFG_SCALE = 1.5
_LABELS = (3, 7)  # of the chains
_NULL_CLASS = dit_weights.CONFIGS["small"].num_classes


class _Pass(NamedTuple):
    """A network and its recorded outputs, whose names begin with `prefix`."""

    network: str
    file: str
    prefix: str
    guided_t: float  # the time of the guided pass


_PASSES = {
    "DiT small": _Pass("small", "dit", "small_", 400),
    "DiT-S/8": _Pass("S8", "dit", "S8_", 400),
    "SiT small": _Pass("small", "sit", "", 0.4),
}


class _Chain(NamedTuple):
    """A chain with the default options of its sampler."""

    file: str  # of the recorded states: all of them, or the last
    key: str
    sampler: str
    steps: str
    start: str  # random stream of the initial noise
    noise: str  # random stream of the noise of the steps


_SDE = "sde_Linear_sigma_Euler_Mean_10"
_CHAINS = {
    "DDPM 10 steps": _Chain("dit", "chain_p10_sample", "ddpm", "10", "p10/z", "p10"),
    "DDIM 10 steps": _Chain("dit", "chain_ddim10_eta0_sample", "ddim", "ddim10", "ddim10_eta0/z", ""),
    "ODE Heun 9 steps": _Chain("sit", "ode_Linear_heun2_10_last", "ode", "9", "sit/z", ""),
    "SDE Euler 10 steps": _Chain("sit", f"{_SDE}_last", "sde", "10", "sit/z", _SDE),
}

# u: a reduced precision changes the operands of a product by a relative u at most where it rounds, and by 2 u
# where it cuts off, as a tensor core may. Networks and chains then differ by 0.7 to 2.7 u, or by up to 4.9 u
# (docs/decisions.md); 8 u leaves room for another order of summation.
_UNIT_ROUNDOFF = {"tf32": 2.0**-11, "bf16": 2.0**-8}


def schedules(setup: Setup) -> list[CertifiedNumber]:
    """Tables of DiT's schedules of 250 and of 10 steps, and of DDIM's 10, and how timesteps are embedded."""
    recorded = arrays("dit")
    found = {steps: diffusion_schedule(steps) for steps in ("250", "10", "ddim10")}
    timesteps = {f"table_{steps}_timestep_map": schedule.timesteps for steps, schedule in found.items()}
    frequencies = TimestepEmbedder(1).frequencies(setup.device).cpu().numpy()
    rounding = 2.0**-23  # of a float32 exponential, which differs between processors
    numbers = [
        _joined("timesteps", recorded, timesteps, 0),
        array("frequencies", recorded_frequencies().numpy(), frequencies, rounding, measure=ELEMENTWISE),
    ]
    for name, tables in _TABLES.items():
        values = {
            f"table_{steps}_{table}": getattr(schedule, table)
            for steps, schedule in found.items()
            for table in tables
        }
        numbers.append(_joined(name, recorded, values, 1e-12))
    return numbers


def _joined(
    name: str, recorded: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], tolerance: float
) -> CertifiedNumber:
    """Those of the arrays that were recorded, as one."""
    keys = [key for key in found if key in recorded]
    joined = [np.concatenate([values[key] for key in keys]) for values in (recorded, found)]
    return array(name, joined[0], joined[1], tolerance, measure=ELEMENTWISE)


def paths(setup: Setup) -> list[CertifiedNumber]:
    """α, σ and their derivatives on SiT's paths; the original computes them in float32."""
    recorded, numbers = arrays("sit"), []
    for path, title in _PATHS.items():
        names = (f"path_{title}_{name}" for name in ("alpha", "sigma", "d_alpha", "d_sigma"))
        found = np.array([PATHS[path](float(t)) for t in recorded["path_t"]]).T
        coefficients = np.stack([recorded[name] for name in names])
        numbers.append(array(path, coefficients, found, 2e-5, measure=ELEMENTWISE))
    return numbers


def noise(setup: Setup) -> list[CertifiedNumber]:
    """The bits of the noise, which no device may change."""
    recorded = expected()["noise"]
    images = torch.tensor(recorded["images"], device=setup.device)
    drawn = normals(recorded["seed"], images, recorded["step"], recorded["count"])
    bits = drawn.cpu().numpy().astype("<f4").tobytes()
    return [digest("bits", [recorded["sha256"]], [hashlib.sha256(bits).hexdigest()])]


def networks(setup: Setup, *, precision: str) -> list[CertifiedNumber]:
    """Forward passes, guided ones and chains of DiT and SiT, computed as `dit-eval sample` does."""
    forward, sampling = (2e-6, 1e-5) if precision == "fp32" else [8 * _UNIT_ROUNDOFF[precision]] * 2
    numbers = []
    with computation(precision, setup.device), torch.inference_mode():
        networks = {
            name: synthetic_dit(name, setup.device).prepare(precision=precision)
            for name in dit_weights.CONFIGS
        }
        for name, recorded in _PASSES.items():
            numbers.append(_compared(name, *_forward(networks[recorded.network], recorded), forward))
        for name, recorded in _PASSES.items():
            output = _guided_forward(networks[recorded.network], recorded)
            numbers.append(_compared(f"{name} guided", *output, sampling))
        for name, chain in _CHAINS.items():
            numbers.append(_compared(name, *_worst_state(networks["small"], chain), sampling))
    return numbers


def _compared(name: str, recorded: np.ndarray, found: Tensor, tolerance: float) -> CertifiedNumber:
    return array(name, recorded, found.cpu().numpy(), tolerance, measure=LARGEST)


def _forward(network: DiT, recorded: _Pass) -> tuple[np.ndarray, Tensor]:
    """Recorded and found output; a SiT has no channels for the variance."""
    inputs = (arrays(recorded.file)[recorded.prefix + key] for key in "xty")
    x, t, y = (torch.from_numpy(values).to(network.pos_embed.device) for values in inputs)
    output = arrays(recorded.file)[f"{recorded.prefix}forward"]
    return output, network.denoise(x, network.condition(t, y)).float()[:, : output.shape[1]]


def _guided_forward(network: DiT, recorded: _Pass) -> tuple[np.ndarray, Tensor]:
    """The same with guidance, of the conditional half of the original's batch."""
    labels, null_labels = np.split(arrays("dit")[f"{recorded.network}_cfg_y"], 2)
    denoiser = _guided(network, labels, null_class=int(null_labels[0]))
    x = torch.from_numpy(arrays(recorded.file)[f"{recorded.prefix}x"][: len(labels)]).to(
        network.pos_embed.device
    )
    output = arrays(recorded.file)[f"{recorded.prefix}forward_cfg_{_CFG_SCALE}"][: len(labels)]
    return output, denoiser(x, recorded.guided_t)[:, : output.shape[1]]


def _worst_state(network: DiT, chain: _Chain) -> tuple[np.ndarray, Tensor]:
    """The state of a guided chain that differs most from the recorded one, and that one."""
    n, device = len(_LABELS), network.pos_embed.device
    denoiser, states = _guided(network, np.array(_LABELS), null_class=_NULL_CLASS), []

    def recording_denoiser(x: Tensor, t: float) -> Tensor:
        states.append(x)
        return denoiser(x, t)

    def recorded_noise(step: int, shape: tuple[int, ...]) -> Tensor:
        drawn = dit_weights.noise(chain.noise, step, (2 * n, *shape[1:]))  # for both halves of the batch
        return torch.from_numpy(drawn[:n]).to(device)

    sampler = SAMPLERS[chain.sampler]
    options, schedule_options = sampler.split(sampler.options)
    start = torch.from_numpy(dit_weights.noise(chain.start, 0, (n, 4, 8, 8))).to(device)
    schedule = sampler.schedule(chain.steps, **schedule_options)
    last = sampler.run(recording_denoiser, start, schedule, recorded_noise, **options)
    recorded = arrays(chain.file)[chain.key]
    if recorded.ndim == 4:
        return recorded[:n], last
    pairs = [(a[:n], b) for a, b in zip(recorded, [*states[1:], last], strict=True)]
    return max(pairs, key=lambda pair: _compared("", *pair, 0).difference or 0)


def _guided(network: DiT, labels: np.ndarray, null_class: int) -> Denoiser:
    """Guidance as in DiT's released code: of three of the four channels."""
    return guided(
        network,
        torch.from_numpy(labels).to(network.pos_embed.device),
        null_class=null_class,
        scale=_CFG_SCALE,
    )
