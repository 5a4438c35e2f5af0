"""How many CPU cores there are for this process, and for what it does when the others have finished."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def available_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_per_process() -> int:
    """This process's share of the cores, at least 1: torchrun may have started several on this machine."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, available_cores() // (int(processes) if processes.isdecimal() and int(processes) else 1))


@contextmanager
def all_cores() -> Iterator[None]:
    """Within the block, torch and BLAS use all available cores; afterwards as many threads as before.

    torchrun sets OMP_NUM_THREADS=1, so that its processes do not compete; this is for the last one at work.
    """
    import torch
    from threadpoolctl import threadpool_limits

    cores, threads = available_cores(), torch.get_num_threads()
    with threadpool_limits(limits=cores, user_api="blas"):
        torch.set_num_threads(cores)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
