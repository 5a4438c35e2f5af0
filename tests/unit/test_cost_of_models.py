"""The cost of models that others bring, counted as strictly as that of the bundled ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dit_eval import DiffusionModel, FlowModel, ImageModel
from dit_eval.cost.counter import count_flops
from dit_eval.cost.model import count_model
from dit_eval.dit import build_dit
from dit_eval.errors import CostError
from tests.tiny import CONFIG

CPU = torch.device("cpu")


@torch.inference_mode()
def test_a_dit_costs_the_same_as_a_plugin() -> None:
    dit = build_dit(CONFIG, input_size=8, in_channels=3, num_classes=10).eval().requires_grad_(False)
    bundled = count_flops(CONFIG, input_size=8, in_channels=3, num_classes=10)
    plugin = count_model(DiffusionModel(dit, (3, 8, 8), num_classes=10, learned_variance=True), CPU)
    assert (plugin.macs, plugin.params) == (bundled.macs, bundled.params)


class Mixer(nn.Module):
    """An attention layer written with matmul, a convolution, an einsum and elementwise functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 2, stride=2)
        self.out = nn.Linear(16, 12)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2)  # (N, 16, 16)
        weights = torch.softmax(tokens @ tokens.transpose(1, 2) / 4, dim=-1)
        mixed = torch.einsum("nst,ntc->nsc", weights, tokens) * torch.rsqrt(tokens.pow(2).mean() + 1e-6)
        patches = self.out(torch.nn.functional.silu(mixed)) + t.view(-1, 1, 1) - torch.sigmoid(mixed).sum()
        return torch.nn.functional.fold(patches.transpose(1, 2), (8, 8), 2, stride=2)


def test_operators_are_counted_by_their_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    mixer = Mixer().eval().requires_grad_(False)
    with pytest.raises(CostError, match="the cost of aten::col2im is unknown"):
        count_model(FlowModel(mixer, (3, 8, 8)), CPU)
    monkeypatch.setattr(torch.nn.functional, "fold", lambda patches, *_, **__: patches.reshape(1, 3, 8, 8))
    count = count_model(FlowModel(mixer, (3, 8, 8)), CPU)
    tokens, width = 16, 16
    assert count.by_operator["convolution"] == tokens * width * 3 * 2 * 2
    assert count.by_operator["linear"] == 2 * tokens * tokens * width + tokens * width * 12


def test_model_that_samples_by_itself_costs_what_an_image_costs() -> None:
    weight = torch.ones(8, 8)

    def images(labels: Tensor) -> Tensor:
        x = torch.zeros(len(labels), 3, 8, 8)
        for _ in range(5):
            x = x @ weight
        return x

    assert count_model(ImageModel(images, 8), CPU).macs == 5 * 3 * 8 * 8 * 8


def test_model_that_cannot_be_traced_is_named_as_such() -> None:
    with pytest.raises(CostError, match="cannot be traced, so its cost is unknown"):
        count_model(FlowModel(lambda x, t, y: x[:, 5], (3, 8, 8)), CPU)
