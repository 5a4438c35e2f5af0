"""A DiT in the precision of a plan."""

from __future__ import annotations

import torch
from torch import Tensor

from dit_eval.dit import Conditioning, DiT


class AutocastNetwork:
    """A DiT with float32 weights that computes in `precision`, optionally compiled; see `guidance.Network`.

    passes: the number of images passed through it, including the unconditional passes of guidance.
    """

    def __init__(self, dit: DiT, *, precision: str = "fp32", compiled: bool = False) -> None:
        self.passes = 0
        self.device = next(dit.parameters()).device
        self._bf16 = precision == "bf16"
        self._condition = dit.condition
        self._denoise = torch.compile(dit.denoise) if compiled else dit.denoise

    def condition(self, t: Tensor, y: Tensor) -> Conditioning:
        """Times (1,) and classes (M,) → M rows of conditioning."""
        with self._autocast():
            return self._condition(t, y)

    def denoise(self, x: Tensor, condition: Conditioning) -> Tensor:
        """x (N, C, H, W) and N rows of conditioning → (N, C or 2C, H, W)."""
        self.passes += len(x)
        with self._autocast():
            return self._denoise(x, condition)

    def _autocast(self) -> torch.autocast:
        # Weights, LayerNorm and residual sums stay in float32; only matrix products run in bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)
