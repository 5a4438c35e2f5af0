"""Float64 linear algebra in torch, for a CUDA device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dit_eval.metrics.linalg import Linalg, rank_tolerance


def linalg_on_cuda(device: str) -> Linalg:
    """The functions of `linalg.Linalg` on a device."""
    return _TorchLinalg(torch.device(device))


class _TorchLinalg(Linalg):
    error = torch.linalg.LinAlgError  # pyright: ignore[reportPrivateImportUsage]

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def array(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.require(x, requirements=("C", "W"))).to(self._device)  # torch's condition

    def numpy(self, x: Tensor) -> np.ndarray:
        return x.cpu().numpy()

    def float64(self, x: Tensor) -> Tensor:
        return x.double()

    def eye(self, n: int) -> Tensor:
        return torch.eye(n, dtype=torch.float64, device=self._device)

    def xlogy(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.special.xlogy(x, y)

    def eigh(self, a: Tensor) -> tuple[Tensor, Tensor]:
        return torch.linalg.eigh(a)

    def eigvalsh(self, a: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(a)

    def factor(self, a: Tensor) -> Tensor:
        """From eigenvectors where the rank is not full: torch has no Cholesky decomposition with pivots."""
        noise = rank_tolerance(len(a))
        factor, failed = torch.linalg.cholesky_ex(a)
        pivots = factor.diagonal() ** 2
        if not failed and pivots.min() > pivots.max() * noise:
            return factor
        values, vectors = torch.linalg.eigh(a)
        rank = int((values > values[-1] * noise).sum())
        return vectors[:, len(a) - rank :] * values[len(a) - rank :].sqrt()

    def pseudo_inverse(self, factor: Tensor) -> Tensor:
        if factor.shape[0] == factor.shape[1]:
            return torch.linalg.solve_triangular(factor, self.eye(len(factor)), upper=False)
        return (factor / (factor**2).sum(dim=0)).T  # the columns are orthogonal
