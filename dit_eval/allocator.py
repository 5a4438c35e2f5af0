"""How the C library treats the memory that a network frees, on the CPU."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Keep glibc from handing large freed buffers back to the kernel after every layer.

    By default each activation over 32 MB is mapped, zeroed page by page and unmapped again, which costs
    Inception on a CPU up to a third of its time (benchmarks/results). The setting holds for the process,
    whose peak memory it does not raise. Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
