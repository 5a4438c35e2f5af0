"""Means and covariances that are accumulated on a CUDA device."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from dit_eval.metrics.gaussian import UPDATE_ROWS, Moments
from dit_eval.metrics.linalg import Array


class DeviceMoments(Moments):
    """The same sums in torch. Adding features on the device does not wait for it; reading `sums` does."""

    def __init__(self, dimension: int, device: str | torch.device) -> None:
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.n = 0
        self._sum, self._outer = zeros(dimension), zeros(dimension, dimension)
        self._block = zeros(UPDATE_ROWS, dimension)
        self._filled = 0

    def update(self, features: Array) -> None:
        """Add features (N, D), of the device or of the host."""
        super().update(torch.as_tensor(features, device=self._block.device))

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Σx (D,) and Σxxᵀ (D, D), in host memory."""
        self._flush()
        return self._sum.cpu().numpy(), self._outer.cpu().numpy()

    def _flush(self) -> None:
        block, self._filled = self._block[: self._filled], 0
        self._sum += block.sum(dim=0)
        self._outer.addmm_(block.T, block)
