"""Float64 linear algebra where the metrics are computed: SciPy on a CPU, torch on a CUDA device.

A formula is written once for both, with these functions and with what NumPy's arrays and torch's tensors have
in common: operators, slices, .T, .sum(axis=…), .mean(axis=…) and .clip(min).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from scipy.linalg.lapack import dpstrf  # pyright: ignore[reportAttributeAccessIssue]
from scipy.special import xlogy

Array = Any  # np.ndarray on a CPU, torch.Tensor on a CUDA device


def linalg_on(device: str) -> Linalg:
    """The functions for "cpu", "cuda" or "cuda:N"."""
    if device == "cpu":
        return Linalg()
    from dit_eval.metrics.linalg_cuda import linalg_on_cuda  # imports torch

    return linalg_on_cuda(device)


class Linalg:
    """What the metrics need, on a CPU. error: raised by decompositions that do not converge."""

    error: type[Exception] = scipy.linalg.LinAlgError

    def array(self, x: np.ndarray) -> Array:
        """An array on the device, in its own dtype."""
        return x

    def numpy(self, x: Array) -> np.ndarray:
        """An array of the device in host memory."""
        return x

    def float64(self, x: Array) -> Array:
        """x in float64."""
        return x.astype(np.float64)

    def eye(self, n: int) -> Array:
        """The identity (n, n)."""
        return np.eye(n)

    def xlogy(self, x: Array, y: Array) -> Array:
        """x·log y, 0 where x is 0."""
        return xlogy(x, y)

    def eigh(self, a: Array) -> tuple[Array, Array]:
        """Eigenvalues (D,), ascending, and eigenvectors (D, D) of a symmetric matrix."""
        return scipy.linalg.eigh(a, driver="evd")

    def eigvalsh(self, a: Array) -> Array:
        """Eigenvalues (D,) of a symmetric matrix, which is overwritten."""
        return scipy.linalg.eigvalsh(a, overwrite_a=True, driver="evd")

    def factor(self, a: Array) -> Array:
        """L (D, r) with A = LLᵀ: Cholesky's if A has full rank, else a form without the null space.

        The null space is rounding noise, whose square roots add up to 1e-6 of an FID.
        """
        noise = rank_tolerance(len(a))
        try:
            factor = scipy.linalg.cholesky(a, lower=True)
            pivots = np.diag(factor) ** 2
            if pivots.min() > pivots.max() * noise:  # Cholesky can succeed on a singular matrix by rounding
                return factor
        except scipy.linalg.LinAlgError:
            pass
        packed, order, rank, _ = dpstrf(a, lower=True, tol=noise * np.diag(a).max())
        factor = np.empty((len(a), rank))
        factor[order - 1] = np.tril(packed)[:, :rank]
        return factor

    def pseudo_inverse(self, factor: Array) -> Array:
        """The pseudo-inverse (r, D) of what `factor` has returned."""
        if factor.shape[0] == factor.shape[1]:
            return scipy.linalg.solve_triangular(factor, np.eye(len(factor)), lower=True)
        basis, triangle = np.linalg.qr(factor)
        return scipy.linalg.solve_triangular(triangle, basis.T)


def rank_tolerance(dimension: int) -> float:
    """The share of the largest pivot or eigenvalue below which others are rounding noise."""
    return dimension * float(np.finfo(np.float64).eps)
