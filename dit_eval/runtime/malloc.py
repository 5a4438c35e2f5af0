"""How glibc's allocator treats large buffers that a network frees on the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# mallopt's parameters, and the values that glibc itself adapts to once large buffers have been freed.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_ADAPTED = ((_MMAP_MAX, 65_536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))
_KEEP = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))


@contextmanager
def keep_freed_memory(device: torch.device) -> Iterator[None]:
    """Within the block, glibc reuses large freed buffers instead of returning them to the kernel.

    By default every activation over 32 MB is mapped, zeroed page by page and unmapped again, which costs
    Inception on a CPU up to a third of its time (benchmarks/results). The setting applies to the whole
    process, so it is reset at the end and the memory returned. No effect on a GPU or with another C library.
    """
    if device.type != "cpu":
        yield
        return
    keep_freed_memory_until_exit()
    try:
        yield
    finally:
        _call_glibc("mallopt", *_ADAPTED)
        _call_glibc("malloc_trim", (0,))


def keep_freed_memory_until_exit() -> None:
    """The same for the rest of the process."""
    _call_glibc("mallopt", *_KEEP)


def _call_glibc(name: str, *calls: tuple[int, ...]) -> None:
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
    if function is not None:
        for arguments in calls:
            function(*arguments)
