"""The cost of any model that can be sampled, by tracing one evaluation of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dit_eval.cost.counter import FlopCount, analyse
from dit_eval.errors import CostError, DitEvalError
from dit_eval.generation.models import ImageModel, Model


def count_model(model: Model, device: torch.device) -> FlopCount:
    """The cost of one evaluation of `predict` for one image, or of one image of an ImageModel.

    The model is run on the device. "linear" holds all matrix products but those of attention; parameters are
    those of `predict` if it is a module, else 0. Raises CostError for a model that cannot be traced or uses
    an operator without a registered cost.
    """
    y = torch.zeros(1, dtype=torch.int64, device=device)
    if isinstance(model, ImageModel):
        function, inputs = model.images, (y,)
    else:
        x = torch.zeros(1, *model.shape, device=device)
        t = torch.full((1,), 0.5, device=device)
        ends = (t,) if getattr(model, "prediction", "") == "average-velocity" else ()
        function, inputs = model.predict, (x, t, y, *ends)
    network = getattr(function, "__self__", function)
    parameters = network.parameters() if isinstance(network, nn.Module) else ()
    try:
        macs = analyse(_Module(function), inputs).by_operator()
    except DitEvalError:
        raise
    except Exception as error:  # of torch.jit.trace, or of the model itself
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CostError(f"the model cannot be traced, so its cost is unknown ({reason}).") from error
    return FlopCount(
        by_operator={
            "attention": macs["attention"],
            "linear": sum(macs[name] for name in ("linear", "matmul", "bmm", "addmm", "einsum")),
            "convolution": macs["conv"],
            "conditioning": 0,
        },
        layer_norm=macs["layer_norm"],
        params=sum(parameter.numel() for parameter in parameters),
    )


class _Module(nn.Module):
    """A function as a module, which fvcore expects."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)
