"""Linear layers: oneDNN's against float64, and when torch's own are asked."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dit_eval.runtime import onednn as module
from dit_eval.runtime.onednn import Linear


def layer(rows: tuple[int, ...] = (2, 40), *, gelu: bool = False) -> tuple[Linear, torch.Tensor]:
    torch.manual_seed(0)
    return Linear(96, 384, gelu=gelu), torch.randn(*rows, 96)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("rows", [(1,), (3,), (2, 40), (33, 64)], ids=str)
@torch.no_grad()
def test_a_layer_is_that_of_float64_to_the_last_digits(rows, gelu):
    linear, x = layer(rows, gelu=gelu)
    found, expected = linear(x), linear.double()(x.double())
    assert found.shape == (*rows, 384)
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


@torch.no_grad()
def test_a_transposed_input_is_as_good_as_a_contiguous_one():
    x = torch.randn(96, 40).T
    assert torch.equal(layer()[0](x), layer()[0](x.contiguous()))


def test_gradients_are_those_of_torchs_layer():
    linear, x = layer(gelu=True)
    linear(x).square().sum().backward()
    weight, bias = (each.detach().clone().requires_grad_() for each in (linear.weight, linear.bias))
    F.gelu(F.linear(x, weight, bias), approximate="tanh").square().sum().backward()
    torch.testing.assert_close(linear.weight.grad, weight.grad)
    torch.testing.assert_close(linear.bias.grad, bias.grad)


@torch.no_grad()
def test_autocast_is_left_to_torch(monkeypatch):
    linear, x = layer()
    monkeypatch.setattr(module, "_onednn", lambda *_: pytest.fail("called under autocast"))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x).dtype == torch.bfloat16


@torch.no_grad()
def test_compiled_it_is_the_same_layer():
    linear, x = layer(gelu=True)
    compiled = torch.compile(lambda x: linear(x) + 1, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), linear(x) + 1, rtol=0, atol=0)
