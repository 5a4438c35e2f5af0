"""Which share of the work is ours, read from what torchrun and job arrays tell every process.

Nobody waits for anybody: processes meet only in the folder of shards (dit_eval/shards.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dit_eval.errors import UsageError


@dataclass(frozen=True)
class Lane:
    """One of `count` equal workers: it takes every piece of work whose number is `number` modulo `count`."""

    number: int
    count: int

    def takes(self, piece: int) -> bool:
        """True if this piece is ours."""
        return piece % self.count == self.number


def rank_and_world() -> tuple[int, int]:
    """The number of this process and of all, as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def lane(shard: tuple[int, int] | None = None) -> Lane:
    """Our lane: the ranks of torchrun within part `shard` = (K, N), K from 1 to N, of a job array."""
    part, parts = shard or (1, 1)
    if not 1 <= part <= parts:
        raise UsageError(f"shard {part}/{parts} does not exist; count from 1/{parts} to {parts}/{parts}.")
    rank, world = rank_and_world()
    return Lane((part - 1) * world + rank, parts * world)


def choose_device(name: str) -> torch.device:
    """The device behind "auto", "cpu" or "cuda": each rank of a machine has a GPU of its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is visible to torch; choose --device cpu, or look at nvidia-smi.")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device(name, local_rank) if name == "cuda" else torch.device(name)


def first_rank_alone(action: Callable[[], None]) -> None:
    """Rank 0 acts, the others go on when it has."""
    rank, world = rank_and_world()
    if world == 1:
        return action()
    torch.distributed.init_process_group("gloo")
    try:
        if rank == 0:
            action()
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
    return None
