"""Our DiT against the recorded outputs of the original, in float32 on its synthetic weights."""

from __future__ import annotations

import math

import pytest
import torch

from dit_eval.diagnostics.recorded import dit_weights
from dit_eval.diagnostics.recorded.networks import recorded_frequencies
from dit_eval.dit.model import TimestepEmbedder, sinusoids
from tests.recorded import golden_model, recorded_tensor

TOLERANCE = 2e-6  # of the largest value: what fused attention differs from plain attention


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> bool:
    return bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max())


@pytest.mark.parametrize("name", ["small", "S8"])
@torch.no_grad()
def test_forward_is_the_originals(name):
    x, t, y = (recorded_tensor("dit", f"{name}_{key}") for key in "xty")
    assert close(golden_model(name)(x, t, y), recorded_tensor("dit", f"{name}_forward"))


@torch.no_grad()
def test_forward_at_fractional_times_is_the_originals():
    x, y = (recorded_tensor("dit", f"small_{key}") for key in "xy")
    t = torch.tensor([0.0, 0.25, 998.5, 37.125])
    assert close(golden_model("small")(x, t, y), recorded_tensor("dit", "small_forward_fractional_t"))


@torch.no_grad()
def test_forward_is_sits_too():
    x, t, y = (recorded_tensor("sit", key) for key in "xty")
    velocity, _ = golden_model("small")(x, t, y).chunk(2, dim=1)
    assert close(velocity, recorded_tensor("sit", "forward"))


@torch.no_grad()
def test_embedding_of_the_time_is_the_originals():
    t = torch.tensor([0, 1, 500, 999])
    assert close(golden_model("small").t_embedder(t), recorded_tensor("dit", "small_t_embedding"))


def test_position_table_is_the_originals():
    ours, theirs = golden_model("small").pos_embed[0], recorded_tensor("dit", "small_pos_embed")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=6e-8)


@pytest.mark.parametrize("name", ["small", "S8"])
def test_parameters_have_the_names_and_shapes_of_the_public_checkpoints(name):
    ours = {key: tuple(value.shape) for key, value in golden_model(name).state_dict().items()}
    facts = dit_weights.CONFIGS[name]
    tokens = (facts.input_size // facts.patch_size) ** 2
    assert ours == dit_weights.shapes(facts) | {"pos_embed": (1, tokens, facts.hidden_size)}


def test_frequencies_of_the_time_are_the_originals_up_to_the_last_bit():
    """Processors differ in the last bit of a float32 exponential, ours is that of float64."""
    theirs = recorded_frequencies()
    ours = TimestepEmbedder(96).frequencies(torch.device("cpu"))
    times = torch.tensor([0.0, 1.0, 500.0, 999.0])
    recorded = recorded_tensor("dit", "small_t_frequencies")
    assert (sinusoids(times, theirs) - recorded).abs().max() <= 2**-24  # one rounding of a cosine
    exact = torch.exp(torch.arange(128).float().mul(-math.log(10_000) / 128).double())
    torch.testing.assert_close(ours.double(), exact, rtol=2**-24, atol=0)
    torch.testing.assert_close(ours, theirs, rtol=2**-23, atol=0)
