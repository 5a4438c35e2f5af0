"""How the C library treats the memory that a network frees, on the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# glibc's mallopt parameters, and the values that its own adaptation reaches once large buffers were freed.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_ADAPTED = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Within it, glibc keeps large freed buffers instead of handing them back to the kernel.

    By default each activation over 32 MB is mapped, zeroed page by page and unmapped again, which costs
    Inception on a CPU up to a third of its time (benchmarks/results). The setting is the process's, so it is
    taken back at the end, and the memory returned. Does nothing on a GPU, or where the C library is another.
    """
    if device.type != "cpu":
        yield
        return
    keep_freed_memory()
    try:
        yield
    finally:
        _set(_ADAPTED)
        _call("malloc_trim", 0)


def keep_freed_memory() -> None:
    """The first half of it, for a process that does nothing else."""
    _set(_KEEPING)


def _set(values: dict[int, int]) -> None:
    for parameter, value in values.items():
        _call("mallopt", parameter, value)


def _call(name: str, *arguments: int) -> None:
    if sys.platform.startswith("linux"):
        function = getattr(ctypes.CDLL(None), name, None)
        if function is not None:
            function(*arguments)
