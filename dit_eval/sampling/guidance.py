"""Classifier-free guidance (Ho & Salimans 2022): ε = ε_u + s (ε_c − ε_u)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dit_eval.errors import UsageError

_SAME = 1e-6  # difference of times that rounding may cause

Time = float | Tensor  # shared by all images, or one for each, (N,)
Denoiser = Callable[..., Tensor]  # (x (N, C, H, W), time, end of the interval if asked for) → network output


@runtime_checkable
class Network(Protocol):
    """A network in two halves, as `dit_eval.dit.DiT`; images with equal time and class share the first.

    Of a network of average velocities, `condition` also takes the times at which the intervals end.
    """

    def condition(self, t: Tensor, y: Tensor) -> Any:
        """Times (1,) or (M,) and classes (M,) → M rows of conditioning, selected by `take`."""
        ...

    def denoise(self, x: Tensor, condition: Any) -> Tensor:
        """x (N, C, H, W) and N rows of conditioning → (N, C or 2C, H, W)."""
        ...


Predict = Callable[..., Tensor] | Network  # (x (N, C, H, W), t (N,), y (N,)) → (N, C or 2C, H, W)


def guided(
    network: Network,
    labels: Tensor,
    *,
    null_class: int,
    scale: float,
    channels: int | None = 3,
    interval: tuple[float, float] | None = None,
    guide: Network | None = None,
) -> Denoiser:
    """A denoiser for images of these classes with classifier-free guidance or autoguidance.

    labels: (N,) int64. scale: 1 means no guidance and runs the conditional pass only; otherwise both passes
    are one call of 2N images. channels: number of leading output channels that are guided, 3 as in DiT's
    released code, or None for all that predict noise. interval: first and last time with guidance
    (Kynkäänniemi et al. 2024); outside the interval only the conditional pass is run. Where every image has
    its own time, both passes are always run, so that no image influences the shapes in which others compute.
    guide: the network of the second pass, which is then conditional too (autoguidance, Karras et al. 2024);
    None for `network` with the null class.
    """
    classes, rows = shared_rows(labels, null_class)
    conditional_rows = rows[: len(labels)]

    def denoiser(x: Tensor, t: Time, *ends: float) -> Tensor:
        per_image = isinstance(t, Tensor)
        if scale == 1.0 or not (interval is None or per_image or interval[0] <= t <= interval[1]):
            return _run(network, x, t, labels, conditional_rows, *ends)
        if guide is not None:
            conditional, unconditional = (
                _run(network_of_pass, x, t, labels, conditional_rows, *ends)
                for network_of_pass in (network, guide)
            )
        else:
            times = t.repeat(2) if per_image else t
            both = _run(network, x.repeat(2, 1, 1, 1), times, classes, rows, *ends)
            conditional, unconditional = both.chunk(2)
        guided_channels = min(x.shape[1] if channels is None else channels, x.shape[1])
        cond_eps, uncond_eps = conditional[:, :guided_channels], unconditional[:, :guided_channels]
        guided_eps = uncond_eps + scale * (cond_eps - uncond_eps)
        if interval is not None and per_image:
            inside = (interval[0] <= t) & (t <= interval[1])
            guided_eps = torch.where(inside.view(-1, 1, 1, 1), guided_eps, cond_eps)
        return torch.cat([guided_eps, conditional[:, guided_channels:]], dim=1)

    return denoiser


def parse_times(text: str) -> tuple[float, float]:
    """The first and the last time of an interval such as "[0, 0.7]" or "(0.1, 1)", as `guided` takes them.

    A bracket includes an end of the interval, a parenthesis excludes it; times within 1e-6 of an end are
    equal to it. Raises UsageError for anything else.
    """
    pattern = r"\s*([\[(])\s*([^,\s]+)\s*,\s*([^,\s]+)\s*([\])])\s*"
    match = re.fullmatch(pattern, text) if isinstance(text, str) else None
    try:
        assert match is not None
        low, high = float(match[2]), float(match[3])
        assert low < high < math.inf
    except (ValueError, AssertionError):
        raise UsageError(
            f"--cfg-times is {text!r}; expected two increasing numbers as text, such as '[0, 0.7]', with "
            "parentheses instead of brackets to exclude an end."
        ) from None
    return low - (_SAME if match[1] == "[" else -_SAME), high + (_SAME if match[4] == "]" else -_SAME)


def shared_rows(labels: Tensor, null_class: int) -> tuple[Tensor, Tensor]:
    """The classes (N + 1,) to condition on, and the row of each of the 2N images of a guided pass.

    labels: (N,) int64. Conditional image i uses row i; all unconditional images share the last row.
    """
    n = len(labels)
    classes = torch.cat([labels, labels.new_full((1,), null_class)])
    rows = torch.arange(n, device=labels.device)
    return classes, torch.cat([rows, rows.new_full((n,), n)])


def _run(network: Network, x: Tensor, t: Time, classes: Tensor, rows: Tensor, *ends: float) -> Tensor:
    if isinstance(t, Tensor):  # images at different times share no conditioning
        condition = network.condition(t.to(x.dtype), classes[rows])
    else:
        start, *others = (torch.full((1,), time, device=x.device) for time in (t, *ends))
        condition = network.condition(start, classes, *others).take(rows)  # type: ignore[call-arg]
    return network.denoise(x, condition).to(x.dtype)
