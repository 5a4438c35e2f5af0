"""Who this process is among others, and how its part of a sum reaches rank 0.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; without them there is one process. A rank sends what it has and
is done; it waits for the others only where it needs what they have written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from dit_eval.errors import UsageError

_PATIENCE = timedelta(hours=12)  # a slow rank is no dead rank; torchrun ends the others when one dies


@dataclass(frozen=True)
class Rank:
    """One process of `count`, on this machine the one numbered `local`."""

    index: int
    count: int
    local: int

    @classmethod
    def from_environment(cls) -> Rank:
        """As torchrun says; a lone process otherwise."""
        index, count, local = (
            int(os.environ.get(key, default))
            for key, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
        return cls(index, count, local)

    def share(self, n: int) -> tuple[int, int]:
        """The half-open range of 0…n that is this rank's: contiguous, in rank order."""
        return n * self.index // self.count, n * (self.index + 1) // self.count

    def device(self, name: str) -> torch.device:
        """The device that "auto", "cpu" or "cuda" means here. Raises UsageError if it is not there."""
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cuda":
            if not torch.cuda.is_available():
                raise UsageError("--device cuda: torch sees no CUDA device here. Use --device cpu.")
            return torch.device("cuda", self.local % torch.cuda.device_count())
        return torch.device(name)


@contextmanager
def process_group(rank: Rank) -> Iterator[None]:
    """The process group, where there is more than one process; the one that is there, if we are in it."""
    if rank.count == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def wait_for_all(rank: Rank) -> None:
    """Return once every rank has come here."""
    if rank.count > 1:
        dist.barrier()


def broadcast_from_rank0(rank: Rank, answer: bool) -> bool:
    """Rank 0's answer, on every rank."""
    if rank.count == 1:
        return answer
    told = torch.tensor([answer])
    dist.broadcast(told, 0)
    return bool(told)


def gather_to_rank0(rank: Rank, arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The arrays of every rank, in rank order, on rank 0; an empty list elsewhere.

    The ranks' arrays have the same names and dtypes; shapes may differ in the first axis.
    """
    if rank.index > 0:
        for array in arrays.values():
            dist.send(torch.tensor(array.shape[:1], dtype=torch.int64), 0)
            if array.size:
                dist.send(torch.from_numpy(np.ascontiguousarray(array)), 0)
        return []
    everyone = [dict(arrays)]
    for sender in range(1, rank.count):
        theirs = {}
        for name, like in arrays.items():
            rows = torch.empty(1, dtype=torch.int64)
            dist.recv(rows, sender)
            array = torch.from_numpy(np.empty((int(rows), *like.shape[1:]), like.dtype))
            if array.numel():
                dist.recv(array, sender)
            theirs[name] = array.numpy()
        everyone.append(theirs)
    return everyone


@dataclass(frozen=True)
class StridedShard:
    """One of `count` equal workers, who takes every piece whose number is `index` modulo `count`.

    Unlike a contiguous share, a lane means the same whatever others have done already.
    """

    index: int
    count: int

    @classmethod
    def of(cls, rank: Rank, shard: tuple[int, int] | None = None) -> StridedShard:
        """The lane of a rank within part K of N, `shard` = (K, N), of a job array; K counts from 1."""
        part, parts = shard or (1, 1)
        if not 1 <= part <= parts:
            raise UsageError(f"shard {part}/{parts} does not exist; count from 1/{parts} to {parts}/{parts}.")
        return cls((part - 1) * rank.count + rank.index, parts * rank.count)

    def takes(self, piece: int) -> bool:
        """True if this piece is ours."""
        return piece % self.count == self.index
