"""The precision of float32 matrix products and convolutions: full, or TF32 on a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dit_eval.errors import UsageError

PRECISIONS = ("fp32", "tf32", "bf16")


@contextmanager
def matmul_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Within the block, float32 products run in full precision for "fp32", else in TF32 on a CUDA device.

    With "bf16" that concerns what stays in float32, such as the VAE. Raises UsageError for "tf32" on a CPU.
    """
    if precision == "tf32" and device.type != "cuda":
        raise UsageError("tf32 is a format of CUDA devices; choose --precision fp32 or bf16.")
    reduced = precision != "fp32" and device.type == "cuda"
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if reduced else "highest")
    torch.backends.cudnn.allow_tf32 = reduced  # torch's default allows TF32 in convolutions
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
