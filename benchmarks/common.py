"""What the benchmarks share: where results go, and how the floor is measured."""

from __future__ import annotations

import csv
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from dit_eval.runtime.onednn import linear

RESULTS = Path(__file__).parent / "results"


def keep(name: str, rows: Sequence[Mapping[str, object]], device: str = "cpu") -> str:
    """Write rows as results/NAME-DEVICE-torchVERSION.csv and return the text."""
    where = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    version = torch.__version__.split("+")[0]
    out = RESULTS / f"{name}-{where.replace(' ', '-')}-torch{version}.csv"
    out.parent.mkdir(exist_ok=True)
    with out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out.read_text()


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of large matrix products, the median of ten: the rate that bounds everything here."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    linear(a, b)
    taken = []
    for _ in range(10):
        began = time.perf_counter()
        linear(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(taken)
