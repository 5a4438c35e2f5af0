"""Linear layers and convolutions: oneDNN's against plain torch and float64, and when plain torch is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from dit_eval.runtime import onednn
from dit_eval.runtime.onednn import Convolution, Linear, linear, private_operator

OPERATORS = ("_linear_pointwise", "_convolution_pointwise", "_reorder_convolution_weight")


def layer(rows: tuple[int, ...] = (2, 40), *, gelu: bool = False) -> tuple[Linear, torch.Tensor]:
    torch.manual_seed(0)
    return Linear(96, 384, gelu=gelu), torch.randn(*rows, 96)


def convolution(*, relu: bool) -> tuple[Convolution, torch.Tensor]:
    torch.manual_seed(0)
    module = Convolution(torch.nn.Conv2d(16, 24, 3, stride=2, padding=1))
    module.relu = relu
    return module.to(memory_format=torch.channels_last), torch.randn(4, 16, 21, 21)  # type: ignore[call-overload]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(params=[OPERATORS, OPERATORS[2:]], ids=["none of them", "without reordering"])
def without_operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that lacks some or all of oneDNN's private operators."""
    found = {name: private_operator(name) for name in OPERATORS}
    present = {name: operator for name, operator in found.items() if name not in request.param}
    monkeypatch.setattr(onednn, "private_operator", present.get)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("rows", [(1,), (3,), (2, 40), (33, 64)], ids=str)
@torch.no_grad()
def test_a_linear_layer_agrees_with_float64_to_the_last_digits(rows, gelu):
    module, x = layer(rows, gelu=gelu)
    found, expected = module(x), module.double()(x.double())
    assert found.shape == (*rows, 384)
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.parametrize("gelu", [False, True])
@torch.no_grad()
def test_a_linear_layer_without_the_operators_is_the_same_to_1e_6(gelu, without_operators):
    module, x = layer(gelu=gelu)
    assert relative(module(x), module.double()(x.double()).float()) <= 1e-6


@pytest.mark.parametrize("relu", [False, True])
@torch.no_grad()
def test_a_convolution_is_torchs_convolution_and_relu(relu):
    module, x = convolution(relu=relu)
    expected = module.conv(x).relu() if relu else module.conv(x)
    assert relative(module(x), expected) <= 1e-6
    assert module._reordered is not None


@pytest.mark.parametrize("relu", [False, True])
@torch.no_grad()
def test_a_convolution_without_the_operators_is_the_same_to_1e_6(relu, without_operators):
    module, x = convolution(relu=relu)
    found = module(x)
    expected = module.conv.double()(x.double())
    assert relative(found, (expected.relu() if relu else expected).float()) <= 1e-6


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_that_is_missing_or_fails_is_not_used(name, monkeypatch):
    class Missing:
        pass

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            def refuse(*_: object) -> None:
                raise RuntimeError("this processor is not supported")

            return refuse

    for operators in (Missing(), Refusing()):
        monkeypatch.setattr(torch.ops, "mkldnn", operators)
        assert private_operator.__wrapped__(name) is None  # without the cache


@torch.no_grad()
def test_a_transposed_input_gives_the_same_as_a_contiguous_one():
    x = torch.randn(96, 40).T
    assert torch.equal(layer()[0](x), layer()[0](x.contiguous()))


def test_gradients_are_those_of_torchs_layer():
    module, x = layer(gelu=True)
    module(x).square().sum().backward()
    weight, bias = (parameter.detach().clone().requires_grad_() for parameter in (module.weight, module.bias))
    F.gelu(F.linear(x, weight, bias), approximate="tanh").square().sum().backward()
    torch.testing.assert_close(module.weight.grad, weight.grad)
    torch.testing.assert_close(module.bias.grad, bias.grad)


@torch.no_grad()
def test_autocast_uses_plain_torch(monkeypatch):
    module, x = layer()
    monkeypatch.setattr(onednn, "_onednn_linear", lambda *_: pytest.fail("called under autocast"))
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x).dtype == torch.bfloat16


@torch.no_grad()
def test_a_compiled_linear_layer_is_bit_identical():
    module, x = layer(gelu=True)
    compiled = torch.compile(lambda x: module(x) + 1, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x) + 1, rtol=0, atol=0)


@torch.no_grad()
def test_fake_tensors_get_shapes_and_leave_the_layers_as_they_are():
    module, x = convolution(relu=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert module(torch.zeros(4, 16, 21, 21)).shape == (4, 24, 11, 11)
        assert linear(torch.zeros(2, 5, 96), torch.zeros(7, 96)).shape == (2, 5, 7)
    assert relative(module(x), module.conv(x).relu()) <= 1e-6
