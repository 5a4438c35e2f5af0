"""The Dormand–Prince method with a step size of its own for every image.

Dormand & Prince 1980, with the constants and the control of the step size that torchdiffeq's "dopri5" has
(Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, sections II.4 and II.5), on which SiT's
released code relies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

RTOL, ATOL = 1e-3, 1e-6  # as in SiT's released code

_ORDER = 5
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0  # margin and limits of the change of a step

_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)  # of the stages after the first, as fractions of a step
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # the solution of fifth order
)
_ERROR = (  # that solution minus the embedded one of fourth order, in Shampine's form
    35 / 384 - 1951 / 21600,
    0.0,
    500 / 1113 - 22642 / 50085,
    125 / 192 - 451 / 720,
    -2187 / 6784 + 12231 / 42400,
    11 / 84 - 649 / 6300,
    -1 / 60,
)

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x (N, C, H, W), times (N,) float64) → dX/dt


def dopri5(velocity: Velocity, x: Tensor, start: float, end: float) -> Tensor:
    """Integrate from `start` to `end` > start: x (N, C, H, W) → the same shape.

    Every image has its own time, its own steps and its own error, so no image depends on another. All are
    computed in every step until the last one has arrived, at the end exactly; those that have arrived before
    stand still, which keeps the shapes fixed. Only the condition of the loop synchronises with the device.
    As in torchdiffeq, the slope at the end of a step is taken just before it, because velocities may not be
    finite at the end of a path.
    """
    t = torch.full((len(x),), start, dtype=torch.float64, device=x.device)
    slope = velocity(x, t)
    step = _first_step(velocity, x, slope, t, end)
    while (moving := t < end).any():
        last = ~(t + step < end)  # true where the step is not finite, too
        step, t_next = torch.where(last, end - t, step), torch.where(last, end, t + step)
        h = _per_image(step, x)
        slopes, x_next = [slope], x
        for node, weights in zip(_NODES, _STAGES, strict=True):
            x_next = x + h * _weighted_sum(weights, slopes)
            slopes.append(velocity(x_next, torch.nextafter(t_next, t) if node == 1 else t + node * step))
        tolerance = ATOL + RTOL * torch.maximum(x.abs(), x_next.abs())
        error = _rms(h * _weighted_sum(_ERROR, slopes) / tolerance)
        accepted = moving & ~(error > 1)
        t = torch.where(accepted, t_next, t)
        x = torch.where(_per_image(accepted, x), x_next, x)
        slope = torch.where(_per_image(accepted, x), slopes[-1], slope)  # first of the next step
        change = (_SAFETY * error ** (-1 / _ORDER)).clamp(_SHRINK, _GROW)
        step = step * torch.where(error < 1, change.clamp(min=1), change)
    return x


def _first_step(velocity: Velocity, x: Tensor, slope: Tensor, t: Tensor, end: float) -> Tensor:
    """The first step of every image, (N,) float64, from its slopes at the start and a tiny step later."""
    tolerance = ATOL + RTOL * x.abs()
    d0, d1 = _rms(x / tolerance), _rms(slope / tolerance)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).minimum(end - t)
    change = velocity(x + _per_image(h0, x) * slope, t + h0) - slope
    d2 = _rms(change / tolerance) / h0
    largest = torch.maximum(d1, d2)
    h1 = torch.where(largest <= 1e-15, (1e-3 * h0).clamp(min=1e-6), (0.01 / largest) ** (1 / _ORDER))
    return torch.minimum(100 * h0, h1)


def _weighted_sum(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    terms = [weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight]
    return torch.stack(terms).sum(0)


def _rms(x: Tensor) -> Tensor:
    """The root mean square of every image: (N, C, H, W) → (N,) float64."""
    return x.square().mean((1, 2, 3)).sqrt().double()


def _per_image(values: Tensor, x: Tensor) -> Tensor:
    """(N,) → (N, 1, 1, 1), numbers in the dtype of x."""
    values = values if values.dtype == torch.bool else values.to(x.dtype)
    return values.view(-1, 1, 1, 1)
