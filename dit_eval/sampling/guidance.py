"""Classifier-free guidance (Ho & Salimans 2022): ε = ε_u + s (ε_c − ε_u)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

# x (N, C, H, W) and the time that all its images share → the network's output
Denoiser = Callable[[Tensor, float], Tensor]


class Network(Protocol):
    """What guidance needs of a model: `dit_eval.dit.DiT` in two halves."""

    def condition(self, t: Tensor, y: Tensor) -> Any:
        """Times (1,) and classes (M,) → what the network takes from them, M rows to `take` from."""
        ...

    def denoise(self, x: Tensor, condition: Any) -> Tensor:
        """x (N, C, H, W) and N rows of conditioning → (N, C or 2C, H, W)."""
        ...


def guided(
    network: Network,
    labels: Tensor,
    *,
    null_class: int,
    scale: float,
    channels: int | None = 3,
    interval: tuple[float, float] | None = None,
) -> Denoiser:
    """The network's output for images of these classes, guided.

    labels: (N,) int64. scale: 1 is no guidance and costs one pass; otherwise both passes are one call.
    channels: how many of the output's first channels are guided: 3, as in DiT's released code, or None
    for all that predict noise. interval: the times, both ends included, at which there is guidance
    (Kynkäänniemi et al. 2024); outside only one pass is paid for.
    The unconditional passes share one row of conditioning.
    """
    with_null, double = shared_rows(labels, null_class)
    single = double[: len(labels)]

    def denoiser(x: Tensor, t: float) -> Tensor:
        if scale == 1.0 or not (interval is None or interval[0] <= t <= interval[1]):
            return _run(network, x, t, labels, single)
        conditional, unconditional = _run(network, x.repeat(2, 1, 1, 1), t, with_null, double).chunk(2)
        guided_channels = min(x.shape[1] if channels is None else channels, x.shape[1])
        c, u = conditional[:, :guided_channels], unconditional[:, :guided_channels]
        return torch.cat([u + scale * (c - u), conditional[:, guided_channels:]], dim=1)

    return denoiser


def shared_rows(labels: Tensor, null_class: int) -> tuple[Tensor, Tensor]:
    """Classes (M,) of the rows of conditioning, and which row each of the 2N images of a guided pass takes.

    labels: (N,) int64. Each conditional image has a row of its own, all unconditional ones share one.
    """
    n = len(labels)
    classes = torch.cat([labels, labels.new_full((1,), null_class)])
    rows = torch.arange(n, device=labels.device)
    return classes, torch.cat([rows, rows.new_full((n,), n)])


def _run(network: Network, x: Tensor, t: float, classes: Tensor, rows: Tensor) -> Tensor:
    times = torch.full((1,), t, device=x.device)
    return network.denoise(x, network.condition(times, classes).take(rows)).float()
