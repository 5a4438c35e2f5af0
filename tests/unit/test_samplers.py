"""Schedules, samplers and guidance, where the result is known without a reference implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dit_eval.errors import UsageError
from dit_eval.sampling import ddim, ddpm
from dit_eval.sampling.guidance import guided
from dit_eval.sampling.noise import ImageNoise
from dit_eval.sampling.schedules import diffusion_schedule, spaced_timesteps
from tests.tiny import CLASSES, tiny_dit

MEAN, DEVIATION = 0.7, 0.4


def exact_epsilon(schedule):
    """The exact E[ε | x] for images whose pixels are normal with MEAN and DEVIATION."""
    alphas = dict(zip(schedule.timesteps.tolist(), schedule.alphas_cumprod.tolist(), strict=True))

    def denoiser(x, t):
        a = alphas[t]
        return math.sqrt(1 - a) * (x - math.sqrt(a) * MEAN) / (a * DEVIATION**2 + 1 - a)

    return denoiser


@pytest.mark.parametrize(
    ("sampler", "options"),
    [(ddpm, {}), (ddim, {"eta": 0.0}), (ddim, {"eta": 1.0})],
    ids=["ddpm", "ddim", "ddim, eta 1"],
)
def test_sampler_with_the_exact_denoiser_gives_the_data_distribution(sampler, options):
    schedule = diffusion_schedule(1000)
    noise = ImageNoise(0, torch.arange(8))
    shape = (8, 1, 32, 32)
    samples = sampler(exact_epsilon(schedule), noise.latents(shape), schedule, noise, **options)
    assert samples.mean() == pytest.approx(MEAN, abs=0.01)
    assert samples.std() == pytest.approx(DEVIATION, rel=0.03)


def test_ddim_without_noise_never_asks_for_any():
    schedule = diffusion_schedule(10)

    def no_noise(step, shape):
        raise AssertionError("asked for noise")

    ddim(exact_epsilon(schedule), torch.zeros(1, 1, 4, 4), schedule, no_noise)


def test_clip_keeps_the_predicted_image_within_one():
    schedule = diffusion_schedule(10)
    noise = ImageNoise(0, torch.arange(2))
    samples = ddpm(lambda x, t: -5 * x, noise.latents((2, 1, 4, 4)), schedule, noise, clip=True)
    assert samples.abs().max() <= 1


def test_one_step_is_enough():
    schedule = diffusion_schedule(1)
    x = torch.randn(1, 1, 4, 4)
    samples = ddpm(exact_epsilon(schedule), x, schedule, ImageNoise(0, torch.arange(1)))
    assert torch.isfinite(samples).all()


@pytest.mark.parametrize("steps", [0, 1001, "ddim300", "ddim", "many", "10,2000"])
def test_impossible_number_of_steps_is_refused(steps):
    with pytest.raises(UsageError):
        spaced_timesteps(steps)


@pytest.mark.parametrize("sampler", [ddpm, ddim])
@pytest.mark.parametrize("steps", ["1", "7", "ddim10", "2,3"])
def test_evaluations_are_the_calls_of_the_denoiser(sampler, steps):
    schedule, times = diffusion_schedule(steps), []

    def denoiser(x, t):
        times.append(t)
        return torch.zeros_like(x)

    sampler(denoiser, torch.zeros(1, 1, 1, 1), schedule, lambda step, shape: torch.zeros(shape))
    assert schedule.evaluations == len(times)


def test_refused_stride_names_the_nearest_that_work():
    with pytest.raises(UsageError, match=r"ddim250.*ddim334"):
        spaced_timesteps("ddim300")


@pytest.mark.parametrize("steps", [2, 3, 7, 250, 999])
def test_respacing_keeps_both_ends(steps):
    spaced = spaced_timesteps(steps)
    assert (spaced[0], spaced[-1], len(set(spaced))) == (0, 999, steps)


def test_times_between_noise_levels_are_those_of_the_schedule():
    schedule = diffusion_schedule(50)
    low, high = schedule.times_between(0.5, 2.0)
    levels = schedule.noise_level[(schedule.timesteps >= low) & (schedule.timesteps <= high)]
    assert np.all((levels >= 0.5) & (levels <= 2.0))
    assert len(levels) == np.sum((schedule.noise_level >= 0.5) & (schedule.noise_level <= 2.0))
    with pytest.raises(UsageError, match="no step has a noise level"):
        schedule.times_between(1000, 2000)


class CountingNetwork:
    """A network that counts the images passed through it."""

    def __init__(self, model):
        self.model, self.passes = model, 0

    def condition(self, t, y):
        return self.model.condition(t, y)

    def denoise(self, x, condition):
        self.passes += len(x)
        return self.model.denoise(x, condition)


@pytest.fixture(scope="module")
def model():
    return tiny_dit(in_channels=4, steps=20)


LABELS = torch.tensor([1, 5, 5])


@pytest.mark.parametrize(("channels", "guided_channels"), [(3, 3), (None, 4)])
def test_guidance_is_the_formula_on_these_channels(model, channels, guided_channels):
    x, t = torch.randn(3, 4, 8, 8), torch.full((3,), 400)
    conditional = model(x, t, LABELS)
    unconditional = model(x, t, torch.full((3,), CLASSES))
    expected = conditional.clone()
    difference = conditional[:, :guided_channels] - unconditional[:, :guided_channels]
    expected[:, :guided_channels] = unconditional[:, :guided_channels] + 4 * difference
    output = guided(model, LABELS, null_class=CLASSES, scale=4.0, channels=channels)(x, 400)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_guidance_of_three_channels_leaves_the_variance_of_a_single_one_alone():
    model = tiny_dit(in_channels=1, steps=20)
    x, t = torch.randn(3, 1, 8, 8), torch.full((3,), 400)
    output = guided(model, LABELS, null_class=CLASSES, scale=4.0, channels=3)(x, 400)
    everything = guided(model, LABELS, null_class=CLASSES, scale=4.0, channels=None)(x, 400)
    torch.testing.assert_close(output, everything, rtol=0, atol=0)
    torch.testing.assert_close(output[:, 1:], model(x, t, LABELS)[:, 1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("scale", "interval", "t", "passes"),
    [(1.0, None, 400, 3), (1.5, None, 400, 6), (1.5, (300, 500), 400, 6), (1.5, (300, 500), 501, 3)],
)
def test_only_active_guidance_costs_a_second_pass(model, scale, interval, t, passes):
    network = CountingNetwork(model)
    denoiser = guided(network, LABELS, null_class=CLASSES, scale=scale, interval=interval)
    output = denoiser(torch.randn(3, 4, 8, 8), t)
    assert network.passes == passes
    assert output.shape == (3, 8, 8, 8)


def test_variance_is_beta_if_the_network_has_not_learned_it():
    schedule = diffusion_schedule(2)

    def noise(step, shape):
        return torch.ones(shape)

    states = []

    def denoiser(x, t):
        states.append(x)
        return torch.zeros_like(x)

    ddpm(denoiser, torch.zeros(1, 1, 2, 2), schedule, noise)
    torch.testing.assert_close(states[1], torch.full((1, 1, 2, 2), float(np.sqrt(schedule.betas[1]))))
