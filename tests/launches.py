"""Kernels, casts and synchronisations of code that runs on fake tensors with a CUDA device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda")

# Not kernels, besides views: allocations, and questions about a tensor
NO_KERNEL = {"_unsafe_view", "empty", "new_empty", "empty_like", "empty_strided", "device"}
# Operators whose output or its shape the host has to wait for
SYNCHRONISING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2"}


class Launches(TorchDispatchMode):
    """Counts what the operators of aten on a CUDA device would cost.

    kernels: operators that compute, by name; views, allocations and questions about shapes launch nothing.
    The parts of a composite count, but attention is one operator, the fused one that CUDA chooses.
    casts: those of them that do nothing but change the dtype.
    synchronisations: operators for which the host waits, and copies between host and device.
    Values of fake tensors are not known: a condition is true as often as `conditions` says, then false.
    """

    def __init__(self, conditions: int = 0) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.synchronisations: Counter[str] = Counter()
        self._conditions = conditions

    def clear(self) -> None:
        """Count from here on."""
        self.kernels.clear()
        self.synchronisations.clear()

    @property
    def casts(self) -> int:
        return self.kernels["_to_copy"]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if name in SYNCHRONISING or _indexes_by_mask(name, args):
            self.synchronisations[name] += 1
            if name == "_local_scalar_dense":
                self._conditions -= 1
                return self._conditions >= 0
        output = func(*args, **kwargs)
        if len({x.device.type for x in tree_leaves((args, output)) if isinstance(x, Tensor) and x.dim()}) > 1:
            self.synchronisations[name] += 1
        on_cuda = any(isinstance(x, Tensor) and x.is_cuda for x in tree_leaves((args, kwargs, output)))
        if on_cuda and not func.is_view and name not in NO_KERNEL:
            self.kernels[name] += 1
        return output


def _indexes_by_mask(name: str, args: Any) -> bool:
    """True for x[mask], which has to count the mask."""
    if name not in ("index", "index_put", "index_put_"):
        return False
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What scaled_dot_product_attention calls on a CUDA device; without one it decides for its slow form."""
    if q.dtype == torch.bfloat16:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, False)[0]


@contextmanager
def counted_launches(conditions: int = 0) -> Iterator[Launches]:
    """Within the block tensors are fake and may lie on a CUDA device; the cost of their operators is counted.

    Gradients are off by `no_grad`, because inference mode hides the parts of composite operators.
    """
    attention, F.scaled_dot_product_attention = F.scaled_dot_product_attention, _fused_attention
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), Launches(conditions) as launches:
            yield launches
    finally:
        F.scaled_dot_product_attention = attention
