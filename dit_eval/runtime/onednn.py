"""Linear layers and convolutions that run on oneDNN, the fastest library on a CPU.

torch calls oneDNN's fused operators only in compiled models, and does not document them. Each is therefore
tried once per process; where an operator is missing or fails, plain torch computes the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ONEDNN = torch.backends.mkldnn.is_available()  # whether this torch was built with oneDNN


@cache
def private_operator(name: str) -> Callable[..., Tensor] | None:
    """torch.ops.mkldnn.`name`, or None where it is missing or fails on an input of one number."""
    x, geometry = torch.zeros(1, 1, 1, 1, dtype=torch.float32, device="cpu"), ((0, 0), (1, 1), (1, 1), 1)
    arguments = {
        "_linear_pointwise": (x[0, 0], x[0, 0], None, "gelu", [], "tanh"),
        "_convolution_pointwise": (x, x, None, *geometry, "relu", [], ""),
        "_reorder_convolution_weight": (x, *geometry, x.shape),
    }
    try:
        operator = getattr(torch.ops.mkldnn, name)
        operator(*arguments[name])
    except Exception:  # nothing is documented, the exceptions included
        return None
    return operator


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """x (…, K) · weight (M, K)ᵀ + bias (M,) → (…, M), followed by the tanh form of GELU if `gelu`.

    Float32 tensors on a CPU that need no gradient go to oneDNN. Plain torch differs by rounding, about 1e-6.
    """
    needs_grad = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    float32_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    function = _onednn_linear if _ONEDNN and float32_cpu and not needs_grad else _plain_linear
    return function(x, weight, bias, gelu)


class Linear(nn.Linear):
    """nn.Linear by way of `linear`, followed by the tanh form of GELU if `gelu`."""

    def __init__(self, in_features: int, out_features: int, *, gelu: bool = False) -> None:
        super().__init__(in_features, out_features)
        self.gelu = gelu

    def forward(self, input: Tensor) -> Tensor:
        """(…, in_features) → (…, out_features)."""
        return linear(input, self.weight, self.bias, gelu=self.gelu)


class Convolution(nn.Module):
    """A convolution, followed by ReLU if `relu`; for inference.

    On a CPU both are one operator of oneDNN, equal to the two in turn to the last bit. The weights are kept
    in the memory layout that oneDNN chooses at the first input.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.relu = True
        self._reordered: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C', H', W')."""
        conv, float32_cpu = self.conv, x.device.type == "cpu" and x.dtype == torch.float32
        usable = float32_cpu and type(x) is Tensor  # not a subclass, such as a FakeTensor
        convolve = private_operator("_convolution_pointwise") if usable else None
        if convolve is None:
            return conv(x).relu_() if self.relu else conv(x)
        geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        if self._reordered is None:
            reorder = private_operator("_reorder_convolution_weight")
            self._reordered = reorder(conv.weight, *geometry, x.shape) if reorder else conv.weight
        return convolve(x, self._reordered, conv.bias, *geometry, "relu" if self.relu else "none", [], "")


def _plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    y = F.linear(x, weight, bias)
    return F.gelu(y, approximate="tanh") if gelu else y


@torch.library.custom_op("dit_eval::linear", mutates_args=())  # torch.compile calls it without looking inside
def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    operator = private_operator("_linear_pointwise")
    if operator is None:
        return _plain_linear(x, weight, bias, gelu)
    return operator(x, weight, bias, *(("gelu", [], "tanh") if gelu else ("none", [], "")))


@_onednn_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    return x.new_empty((*x.shape[:-1], len(weight)))
