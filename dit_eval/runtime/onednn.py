"""Matrix products and linear layers: on a CPU by oneDNN, faster there than the BLAS that torch calls."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ONEDNN = torch.backends.mkldnn.is_available()  # whether this torch was built with it


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """x (…, K) · weight (M, K)ᵀ + bias (M,) → (…, M), with the tanh form of GELU after it if `gelu`."""
    trained = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if _ONEDNN and plain and not trained:
        return _onednn(x, weight, bias, gelu)
    y = F.linear(x, weight, bias)
    return F.gelu(y, approximate="tanh") if gelu else y


class Linear(nn.Linear):
    """nn.Linear, with the tanh form of GELU after it if `gelu`."""

    def __init__(self, in_features: int, out_features: int, *, gelu: bool = False) -> None:
        super().__init__(in_features, out_features)
        self.gelu = gelu

    def forward(self, input: Tensor) -> Tensor:
        """(…, in_features) → (…, out_features)."""
        return linear(input, self.weight, self.bias, gelu=self.gelu)


@torch.library.custom_op("dit_eval::linear", mutates_args=())  # torch.compile calls it as it is
def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    after = ("gelu", [], "tanh") if gelu else ("none", [], "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *after)


@_onednn.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    return x.new_empty((*x.shape[:-1], len(weight)))
