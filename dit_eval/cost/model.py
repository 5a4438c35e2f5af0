"""The cost of any model that can be sampled, by tracing one evaluation of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dit_eval.cost.counter import FlopCount, analyse
from dit_eval.errors import CostError, DitEvalError
from dit_eval.generation.model_lookup import find_model
from dit_eval.generation.models import ImageModel, Model
from dit_eval.report.terminal import dense_table, render_text
from dit_eval.runtime.distributed import Rank
from dit_eval.runtime.precision import computation


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


def count_by_name(name: str, ckpt: str | Path | None, arguments: Mapping[str, Any], device: str) -> FlopCount:
    """The cost of one evaluation of the model that `dit-eval sample --model` names, for one image.

    Raises DitEvalError if the model cannot be loaded or its cost is unknown.
    """
    torch_device = Rank.from_environment().device(device)
    spec = find_model(name, ckpt, None, arguments, torch_device)
    with computation("fp32", torch_device), torch.inference_mode():
        settings = {"sampler": spec.sampler, "precision": "fp32", "compile": False}
        return spec.load(torch_device, settings).count_flops()


def render_count(name: str, count: FlopCount) -> str:
    """The count as a table for a terminal."""
    table = dense_table()
    table.add_column(name)
    table.add_column("MACs G", justify="right")
    for operator, macs in count.by_operator.items():
        if macs:
            table.add_row(operator, f"{macs / 1e9:.5g}")
    table.add_section()
    table.add_row("total", f"{count.macs / 1e9:.5g}")
    parameters = f", {count.params / 1e6:.1f} M parameters" if count.params else ""
    return render_text(table, f"One evaluation for one image: {count.flops / 1e9:.5g} GFLOPs{parameters}.")


class _Module(nn.Module):
    """A function as a module, which fvcore expects."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)
