"""Float32 matrix products in full precision or in TF32, for as long as a computation runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dit_eval.errors import UsageError

PRECISIONS = ("fp32", "tf32", "bf16")


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
