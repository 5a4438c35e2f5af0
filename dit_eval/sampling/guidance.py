"""Classifier-free guidance (Ho & Salimans 2022): ε = ε_u + s (ε_c − ε_u)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

Time = float | Tensor  # shared by all images, or one for each, (N,)
Denoiser = Callable[[Tensor, Time], Tensor]  # (x (N, C, H, W), time) → the network's output


class Network(Protocol):
    """The two halves of `dit_eval.dit.DiT` that guidance calls."""

    def condition(self, t: Tensor, y: Tensor) -> Any:
        """Times (1,) or (M,) and classes (M,) → M rows of conditioning, selected by `take`."""
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
    """A denoiser for images of these classes with classifier-free guidance.

    labels: (N,) int64. scale: 1 means no guidance and runs the conditional pass only; otherwise both passes
    are one call of 2N images. channels: number of leading output channels that are guided, 3 as in DiT's
    released code, or None for all that predict noise. interval: first and last time with guidance
    (Kynkäänniemi et al. 2024); outside the interval only the conditional pass is run. Where every image has
    its own time, both passes are always run, so that no image influences the shapes in which others compute.
    """
    classes, rows = shared_rows(labels, null_class)
    conditional_rows = rows[: len(labels)]

    def denoiser(x: Tensor, t: Time) -> Tensor:
        per_image = isinstance(t, Tensor)
        if scale == 1.0 or not (interval is None or per_image or interval[0] <= t <= interval[1]):
            return _run(network, x, t, labels, conditional_rows)
        times = t.repeat(2) if per_image else t
        conditional, unconditional = _run(network, x.repeat(2, 1, 1, 1), times, classes, rows).chunk(2)
        guided_channels = min(x.shape[1] if channels is None else channels, x.shape[1])
        cond_eps, uncond_eps = conditional[:, :guided_channels], unconditional[:, :guided_channels]
        guided_eps = uncond_eps + scale * (cond_eps - uncond_eps)
        if interval is not None and per_image:
            inside = (interval[0] <= t) & (t <= interval[1])
            guided_eps = torch.where(inside.view(-1, 1, 1, 1), guided_eps, cond_eps)
        return torch.cat([guided_eps, conditional[:, guided_channels:]], dim=1)

    return denoiser


def shared_rows(labels: Tensor, null_class: int) -> tuple[Tensor, Tensor]:
    """The classes (N + 1,) to condition on, and the row of each of the 2N images of a guided pass.

    labels: (N,) int64. Conditional image i uses row i; all unconditional images share the last row.
    """
    n = len(labels)
    classes = torch.cat([labels, labels.new_full((1,), null_class)])
    rows = torch.arange(n, device=labels.device)
    return classes, torch.cat([rows, rows.new_full((n,), n)])


def _run(network: Network, x: Tensor, t: Time, classes: Tensor, rows: Tensor) -> Tensor:
    if isinstance(t, Tensor):  # images at different times share no conditioning
        condition = network.condition(t.to(x.dtype), classes[rows])
    else:
        condition = network.condition(torch.full((1,), t, device=x.device), classes).take(rows)
    return network.denoise(x, condition).to(x.dtype)
