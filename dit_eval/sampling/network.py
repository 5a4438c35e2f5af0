"""The network as the samplers call it: in the precision asked for, compiled or not, its passes counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dit_eval.dit import Conditioning, DiT
from dit_eval.errors import UsageError

PRECISIONS = ("fp32", "tf32", "bf16")


class SampledNetwork:
    """A DiT with weights in float32 that computes in `precision`; see `guidance.Network` for its methods.

    passes: how many images have gone through it, those of guidance included.
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
        # Weights, LayerNorm and the residual sums stay in float32, only matrix products are rounded
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)


@contextmanager
def matmul_precision(precision: str, device: torch.device) -> Iterator[None]:
    """float32 products in full precision, or in TF32 for "tf32" and for the VAE beside "bf16"."""
    if precision == "tf32" and device.type != "cuda":
        raise UsageError("tf32 is a format of CUDA devices; choose --precision fp32 or bf16.")
    reduced = precision != "fp32" and device.type == "cuda"
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if reduced else "highest")
    torch.backends.cudnn.allow_tf32 = reduced  # torch's own default allows it
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
