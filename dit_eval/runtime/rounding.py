"""From the floating-point images of a model to uint8, by the rounding of its own repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dit_eval.errors import ModelError

MAX_CLIPPED = 0.01  # share of values out of range above which there is a warning


@dataclass(frozen=True)
class Rounding:
    """formula: as plans record it, for x in -1 … 1; scale: (x, low, high) → 0 … 255 before truncation."""

    formula: str
    scale: Callable[[Tensor, float, float], Tensor]


def _unit(x: Tensor, low: float, high: float) -> Tensor:
    return (x - low) / (high - low)


def _dit(x: Tensor, low: float, high: float) -> Tensor:
    return 127.5 * (x if (low, high) == (-1, 1) else 2 * _unit(x, low, high) - 1) + 128.0


ROUNDINGS: Mapping[str, Rounding] = {
    # DiT, SiT, LightningDiT, EDM2
    "dit": Rounding("⌊127.5 x + 128⌋ in 0 … 255", _dit),
    # MAR, JiT, fractalgen; half to even, as NumPy
    "round": Rounding(
        "127.5 (x + 1) rounded, in 0 … 255", lambda x, low, high: (255.0 * _unit(x, low, high)).round()
    ),
    # REPA, RAE; half a grey level darker than the others
    "truncate": Rounding("⌊127.5 (x + 1)⌋ in 0 … 255", lambda x, low, high: 255.0 * _unit(x, low, high)),
}


class Quantizer:
    """Images as a model returns them → uint8 (N, H, W, 3) on the same device, without synchronisation.

    rounding: a key of `ROUNDINGS`; value_range: lowest and highest value of floating-point images.
    """

    def __init__(self, rounding: str = "dit", value_range: tuple[float, float] = (-1.0, 1.0)) -> None:
        self._scale, (self._low, self._high) = ROUNDINGS[rounding].scale, value_range
        self._outside: Tensor | float = 0.0  # batches' shares of values out of range, summed on the device
        self._finite: Tensor | bool = True  # whether all values were, on the device too
        self._batches = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Floats (N, 3, H, W), or (N, 1, H, W) for grey ones, or uint8 (N, H, W, 3).

        Raises ModelError for another shape or type.
        """
        if images.dtype == torch.uint8 and images.dim() == 4 and images.shape[3] == 3:
            return images.contiguous()
        if not images.is_floating_point() or images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ModelError(
                f"the model returns images of {str(images.dtype).removeprefix('torch.')} "
                f"{tuple(images.shape)}; expected floats (N, 3, H, W) or uint8 (N, H, W, 3)."
            )
        x = images.float().expand(-1, 3, -1, -1)
        level = (self._high - self._low) / 255
        self._outside = self._outside + ((x < self._low - level) | (x > self._high + level)).float().mean()
        self._finite = x.isfinite().all() & self._finite
        self._batches += 1
        scaled = self._scale(x, self._low, self._high)
        return scaled.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def all_finite(self) -> bool:
        """True if no value so far was NaN or infinite."""
        return bool(self._finite)

    def clipped_share(self) -> float:
        """The share of values that were more than a grey level out of range, so far."""
        return float(self._outside) / max(self._batches, 1)
