"""Schedules, guidance and chains against the recorded ones of the original."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dit_eval.diagnostics.recorded import dit_weights
from dit_eval.runtime.rounding import Quantizer
from dit_eval.sampling.diffusion import ddim, ddpm
from dit_eval.sampling.guidance import Denoiser, guided
from dit_eval.sampling.schedules import diffusion_schedule, linear_betas, respaced, spaced_timesteps
from tests.recorded import golden_model, recorded_tensor

TABLES = {
    "1000": (
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
    ),
    "10": ("betas", "alphas_cumprod", "posterior_variance"),
}
TABLES |= {"250": TABLES["1000"], "ddim10": TABLES["10"]}
SPACINGS = ("1", "2", "50", "100", "500", "1000", "10,15,20", *(f"ddim{n}" for n in (2, 25, 50, 100, 250)))
CHAINS = {  # tag → (steps, sampler, its options)
    "p10": ("10", ddpm, {}),
    "p10_nocfg": ("10", ddpm, {}),
    "p10_clip": ("10", ddpm, {"clip": True}),
    "p_ddim10": ("ddim10", ddpm, {}),
    "p250": ("250", ddpm, {}),
    "ddim10_eta0": ("ddim10", ddim, {"eta": 0.0}),
    "ddim10_eta1": ("ddim10", ddim, {"eta": 1.0}),
    "ddim_10_eta0": ("10", ddim, {"eta": 0.0}),
    "ddim250_eta0": ("250", ddim, {"eta": 0.0}),
    "p10_near": ("10", ddpm, {}),
    "p250_near": ("250", ddpm, {}),
    "ddim10_eta0_near": ("ddim10", ddim, {"eta": 0.0}),
    "ddim10_eta1_near": ("ddim10", ddim, {"eta": 1.0}),
}


@pytest.mark.parametrize(("steps", "table"), [(s, t) for s, tables in TABLES.items() for t in tables])
def test_table_of_a_schedule_is_the_originals_to_1e_12(steps, table):
    ours = getattr(diffusion_schedule(steps), table)
    np.testing.assert_allclose(ours, recorded_tensor("dit", f"table_{steps}_{table}"), rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", TABLES)
def test_network_is_told_the_timesteps_of_the_original(steps):
    recorded = recorded_tensor("dit", f"table_{steps}_timestep_map")
    np.testing.assert_array_equal(diffusion_schedule(steps).timesteps, recorded)


@pytest.mark.parametrize("steps", SPACINGS)
def test_respacing_chooses_the_timesteps_of_the_original(steps):
    np.testing.assert_array_equal(spaced_timesteps(steps), recorded_tensor("dit", f"timesteps_{steps}"))


def test_respacing_in_sections_of_a_shorter_chain_is_the_originals():
    recorded = recorded_tensor("dit", "timesteps_300_10,15,20")
    np.testing.assert_array_equal(spaced_timesteps("10,15,20", 300), recorded)


class Recording:
    """A denoiser that remembers every state it was shown: what a chain looked like on the way."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.states = denoiser, []

    def __call__(self, x: torch.Tensor, t: float) -> torch.Tensor:
        self.states.append(x)
        return self.denoiser(x, t)


def replay(tag: str) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Our states after the recorded steps, and the original's, of the guided half of its doubled batch."""
    steps, sampler, options = CHAINS[tag]
    scale = 1.0 if tag.endswith("nocfg") else 1.5
    labels = torch.tensor([3, 7])
    guided_model = guided(golden_model("small"), labels, null_class=10, scale=scale)

    def near(x: torch.Tensor, t: float) -> torch.Tensor:
        output = guided_model(x, t)
        return torch.cat([0.97 * x + 0.2 * output[:, :4], output[:, 4:]], dim=1)

    def noise(step: int, shape: torch.Size) -> torch.Tensor:
        drawn = (len(labels) if scale == 1.0 else 2 * len(labels), *shape[1:])
        return torch.from_numpy(dit_weights.noise(tag, step, drawn))[: len(labels)]

    denoiser = Recording(near if tag.endswith("near") else guided_model)
    start = torch.from_numpy(dit_weights.noise(f"{tag}/z", 0, (2, 4, 8, 8)))
    last = sampler(denoiser, start, diffusion_schedule(steps), noise, **options)
    after = [*denoiser.states[1:], last]
    kept = [after[int(i)] for i in recorded_tensor("dit", f"chain_{tag}_steps")]
    return kept, recorded_tensor("dit", f"chain_{tag}_sample")[:, : len(labels)]


@pytest.mark.parametrize("tag", CHAINS)
@torch.no_grad()
def test_chain_with_the_recorded_noise_is_the_originals(tag):
    kept, recorded = replay(tag)
    for ours, theirs in zip(kept, recorded, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", ["small", "S8"])
@torch.no_grad()
def test_guided_forward_is_the_originals(name):
    x, t, y = (recorded_tensor("dit", key) for key in (f"{name}_x", f"{name}_cfg_t", f"{name}_cfg_y"))
    recorded = recorded_tensor("dit", f"{name}_forward_cfg_1.5")
    half = len(x) // 2
    denoiser = guided(golden_model(name), y[:half], null_class=int(y[-1]), scale=1.5)
    ours, theirs = denoiser(x[:half], int(t[0])), recorded[:half]
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_posterior_mean_and_variance_are_the_originals():
    schedule = diffusion_schedule("250")
    steps = recorded_tensor("dit", "q_t").numpy()
    recorded = recorded_tensor("dit", "q_posterior_variance").numpy()
    np.testing.assert_allclose(schedule.posterior_variance[steps], recorded, rtol=1e-6)


def test_respacing_keeps_the_noise_of_the_trained_schedule():
    timesteps = spaced_timesteps(250)
    trained = np.cumprod(1 - linear_betas())
    np.testing.assert_allclose(
        respaced(timesteps, linear_betas()).alphas_cumprod, trained[timesteps], rtol=1e-12
    )


def test_rounding_to_grey_levels_is_the_originals():
    pixels = recorded_tensor("dit", "pixels_in")
    images = Quantizer("dit")(pixels.expand(1, 3, 1, -1))
    assert torch.equal(images[0, 0, :, 0], recorded_tensor("dit", "pixels_out"))
