"""The network of a sampler: precision and compilation, on a CPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from dit_eval.dit import BLOCKS, DiT, DiTConfig, build_dit
from dit_eval.sampling.guidance import guided
from tests.recorded import golden_model, recorded_tensor

CONFIG = DiTConfig(depth=3, hidden_size=32, num_heads=2, patch_size=2)
HALVES = (
    "attn.qkv.",
    "attn.proj.",
    "mlp.fc1.",
    "mlp.fc2.",
    "cross_attn.q.",
    "cross_attn.kv.",
    "cross_attn.proj.",
)


def network(block: str) -> DiT:
    """A DiT of three blocks on 8×8 latents with random weights."""
    torch.manual_seed(0)
    dit = build_dit(CONFIG, input_size=8, num_classes=10, block=block).eval().requires_grad_(False)
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return dit


def inputs(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(n, 4, 8, 8), torch.arange(n) * 300, torch.arange(n) % 10


@pytest.mark.parametrize("block", BLOCKS)
def test_bf16_casts_attention_and_mlp_only(block: str) -> None:
    dit = network(block)
    dit.prepare(precision="bf16", compiled=False)
    for name, parameter in dit.named_parameters():
        cast = name.startswith("blocks.") and any(half in name for half in HALVES)
        assert parameter.dtype == (torch.bfloat16 if cast else torch.float32), name
        assert not parameter.requires_grad


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_other_precisions_leave_the_weights_alone(precision: str) -> None:
    dit = network("adaln-zero")
    before = {name: value.clone() for name, value in dit.state_dict().items()}
    dit.prepare(precision=precision, compiled=False)
    for name, value in dit.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(("name", "tolerance"), [("small", 0.01), ("S8", 0.01)])
@torch.no_grad()
def test_guided_forward_in_bf16_is_the_originals_within_its_rounding(name: str, tolerance: float) -> None:
    """bfloat16 rounds to 2⁻⁹ = 0.002; autocast, with bf16 modulations, is farther away."""
    x, t, y = (recorded_tensor("dit", key) for key in (f"{name}_x", f"{name}_cfg_t", f"{name}_cfg_y"))
    half, expected = len(x) // 2, recorded_tensor("dit", f"{name}_forward_cfg_1.5")[: len(x) // 2]

    def error(candidate: Any) -> float:
        denoiser = guided(candidate, y[:half], null_class=int(y[-1]), scale=1.5)
        return float((denoiser(x[:half], int(t[0])) - expected).abs().max() / expected.abs().max())

    dit = copy.deepcopy(golden_model(name)).requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = error(dit)
    ours = error(dit.prepare(precision="bf16", compiled=False))
    assert 1e-4 < ours <= tolerance
    assert ours < autocast


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("block", BLOCKS)
@torch.no_grad()
def test_blocks_are_compiled_as_one_graph_for_each_shape(
    block: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs are counted and run as they are; tests/e2e/test_compiled_network.py runs the real compiler."""
    graphs: list[Any] = []
    compile_function = torch.compile

    def backend(graph: Any, example_inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def compile_with_backend(function: Any, *, fullgraph: bool, dynamic: bool, options: Any) -> Any:
        return compile_function(function, fullgraph=fullgraph, dynamic=dynamic, backend=backend)

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", compile_with_backend)
    dit = network(block)
    eager = copy.deepcopy(dit).prepare(precision=precision, compiled=False)
    compiled = dit.prepare(precision=precision, compiled=True)
    for n, expected in ((3, 1), (3, 1), (6, 2), (3, 2)):
        x, t, y = inputs(n)
        output = compiled.denoise(x, compiled.condition(t, y))
        assert torch.equal(output, eager.denoise(x, eager.condition(t, y)))
        assert len(graphs) == expected
