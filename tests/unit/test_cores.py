"""How many threads a process uses, alone and beside others."""

from __future__ import annotations

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from dit_eval.runtime import cores
from dit_eval.runtime.cores import all_cores, cores_per_process


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize(
    ("processes", "expected"), [("", 8), ("1", 8), ("3", 2), ("8", 1), ("64", 1), ("0", 8), ("x", 8)]
)
def test_processes_of_one_machine_share_its_cores(
    monkeypatch: pytest.MonkeyPatch, processes: str, expected: int
) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert cores_per_process() == expected


def test_all_cores_are_used_within_the_block_even_if_one_thread_was_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import scipy.linalg  # noqa: F401  its BLAS is another one than NumPy's

    monkeypatch.setattr(cores, "available_cores", lambda: 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            with all_cores():
                assert (torch.get_num_threads(), blas_threads()) == (2, {2})
            assert (torch.get_num_threads(), blas_threads()) == (1, {1})
    finally:
        torch.set_num_threads(threads)
