"""The rank of this process under torchrun, its share of the work, and the exchange of arrays with rank 0.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; without them, and without a process group of the calling
program, there is one process. A rank sends its arrays to rank 0 and goes on; it waits for other ranks only
before it reads what they have written. All arrays are exchanged in host memory, by gloo.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from dit_eval.errors import RankError, UsageError

_TIMEOUT = timedelta(hours=12)  # generous: ranks may be slow, and torchrun ends the job when one dies


@dataclass(frozen=True)
class Rank:
    """Process `index` of `count` (RANK and WORLD_SIZE), number `local` on its machine (LOCAL_RANK)."""

    index: int
    count: int
    local: int

    @classmethod
    def from_environment(cls) -> Rank:
        """The rank in the program's process group, else that set by torchrun, else that of a single process.

        Raises UsageError for variables that contradict each other or are not numbers.
        """
        if dist.is_available() and dist.is_initialized():
            index, local = dist.get_rank(), os.environ.get("LOCAL_RANK", "")
            return cls(index, dist.get_world_size(), int(local) if local.isdecimal() else index)
        defaults = {"RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": "0"}
        found = {name: os.environ[name] for name in defaults if os.environ.get(name)}
        if "RANK" not in found and "WORLD_SIZE" not in found:
            defaults |= {"RANK": "0", "WORLD_SIZE": "1"}
        values = (defaults | found).values()
        if all(value.isdecimal() for value in values):
            rank = cls(*map(int, values))
            if rank.index < rank.count:
                return rank
        variables = ", ".join(f"{name}={value}" for name, value in found.items())
        raise UsageError(
            f"the environment has {variables}; expected both RANK and WORLD_SIZE, numbers with 0 ≤ RANK < "
            "WORLD_SIZE, and perhaps LOCAL_RANK. Start the processes with torchrun, which sets all three, or "
            "unset them to run a single process."
        )

    def share(self, n: int) -> tuple[int, int]:
        """This rank's half-open range of 0…n; the ranges are contiguous and in rank order."""
        return n * self.index // self.count, n * (self.index + 1) // self.count

    def device(self, device: str | torch.device) -> torch.device:
        """The device for "auto", "cpu", "cuda" or "cuda:N". Raises UsageError if there is no such device.

        One of several ranks makes a CUDA device its current one, so that nothing of it is on another rank's.
        """
        chosen = self._choose_device(device)
        if chosen.type == "cuda" and self.count > 1:
            torch.cuda.set_device(chosen)
        return chosen

    def _choose_device(self, device: str | torch.device) -> torch.device:
        name = str(device)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if name == "cpu" or (name == "auto" and count == 0):
            return torch.device("cpu")
        if name in ("auto", "cuda") and count:
            return torch.device("cuda", self.local % count)
        numbered = re.fullmatch(r"cuda:(\d+)", name)
        if numbered and int(numbered[1]) < count:
            return torch.device(name)
        if numbered or name == "cuda":
            found = f"torch finds {count} CUDA devices"
            raise UsageError(f"device {name!r} is not available: {found}. Choose another one, or cpu.")
        raise UsageError(f"device {name!r} is not supported; choose auto, cpu, cuda or cuda:N.")


_users = 0  # open blocks of `process_group` that share a group of ours
_opened = count()  # numbers the groups of ours, alike on all ranks


@contextmanager
def process_group(rank: Rank) -> Iterator[None]:
    """Within the block, the ranks can communicate. The program's process group is used and left open.

    Without one, overlapping blocks share a group, which ends with the last of them. Raises UsageError if the
    address at which the ranks meet is not set.
    """
    global _users
    if rank.count == 1 or (dist.is_initialized() and not _users):
        yield
        return
    if not _users:
        store = PrefixStore(f"dit-eval-{next(_opened)}", _store(rank))
        dist.init_process_group("gloo", store=store, rank=rank.index, world_size=rank.count, timeout=_TIMEOUT)
    _users += 1
    try:
        yield
    finally:
        _users -= 1
        if not _users:
            dist.destroy_process_group()


@cache
def _store(rank: Rank) -> Store:
    """Where the ranks find each other. A second one would be read before rank 0 has renewed it."""
    if not os.environ.get("MASTER_ADDR") or not os.environ.get("MASTER_PORT", "").isdecimal():
        raise UsageError(
            f"WORLD_SIZE={rank.count}, but MASTER_ADDR and MASTER_PORT do not give the address at which the "
            "processes meet. Start them with torchrun, or unset WORLD_SIZE and RANK to run a single one."
        )
    return next(dist.rendezvous("env://", timeout=_TIMEOUT))[0]  # pyright: ignore[reportPrivateImportUsage]


_host_groups: WeakKeyDictionary[dist.ProcessGroup, dist.ProcessGroup] = WeakKeyDictionary()


def _host_group() -> dist.ProcessGroup:
    """The process group, or one of the same ranks where it cannot exchange host memory, as with nccl.

    Every rank makes the first call at the same place.
    """
    default = dist.group.WORLD
    assert default is not None
    if "cpu" in dist.get_backend_config(default):
        return default
    if default not in _host_groups:
        group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        assert isinstance(group, dist.ProcessGroup)
        _host_groups[default] = group
    return _host_groups[default]


def wait_for_all(rank: Rank) -> None:
    """Return once every rank has made this call."""
    if rank.count > 1:
        dist.barrier(_host_group())


def broadcast_from_rank0(rank: Rank, value: int) -> int:
    """Rank 0's value, on every rank."""
    if rank.count == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.int64, device="cpu")
    dist.broadcast(tensor, 0, _host_group())
    return int(tensor)


@contextmanager
def failing_together(rank: Rank) -> Iterator[None]:
    """If the block raises an exception on any rank, the ranks on which it did not raise RankError.

    Every rank arrives at the end of the block, so none waits later for one that has failed. A rank that fails
    while another one waits for it within the block is not covered.
    """
    if rank.count == 1:
        yield
        return
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    failed = torch.tensor([failure is not None], dtype=torch.int64, device="cpu")
    dist.all_reduce(failed, dist.ReduceOp.MAX, _host_group())
    if failure:
        raise failure
    if failed:
        raise RankError("another rank has failed; its own error says why.")


def from_rank0(rank: Rank, function: Callable[[], str]) -> str:
    """What `function` returns on rank 0, on every rank; if it raises there, the others raise RankError."""
    if rank.count == 1:
        return function()
    text, failure = "", None
    if rank.index == 0:
        try:
            text = function()
        except BaseException as error:
            text, failure = f"{type(error).__name__}: {error}", error
    content = np.frombuffer(text.encode(), np.uint8)
    header = torch.tensor([len(content), failure is not None], device="cpu")
    dist.broadcast(header, 0, _host_group())
    length, failed = map(int, header)
    received = torch.from_numpy(content.copy() if rank.index == 0 else np.empty(length, np.uint8))
    dist.broadcast(received, 0, _host_group())
    if failure:
        raise failure
    text = received.numpy().tobytes().decode()
    if failed:
        raise RankError(f"rank 0 failed ({text}).")
    return text


def sum_to_rank0(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """On rank 0 the sums of the arrays of all ranks; on other ranks arrays without a meaning.

    All ranks pass the same names, dtypes and shapes.
    """
    sums = {name: np.array(array, order="C") for name, array in arrays.items()}
    for array in sums.values():
        dist.reduce(torch.from_numpy(array), 0, group=_host_group())
    return sums


def gather_to_rank0(rank: Rank, arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """On rank 0 the arrays of every rank, in rank order; on other ranks an empty list.

    All ranks pass the same names and dtypes; shapes may differ in the first axis.
    """
    if rank.count == 1:
        return [dict(arrays)]
    group = _host_group()
    if rank.index > 0:
        for array in arrays.values():
            dist.send(torch.tensor(array.shape[:1], dtype=torch.int64, device="cpu"), 0, group)
            if array.size:
                dist.send(torch.from_numpy(np.require(array, requirements=("C", "W"))), 0, group)
        return []
    gathered = [dict(arrays)]
    for sender in range(1, rank.count):
        received = {}
        for name, own in arrays.items():
            rows = torch.empty(1, dtype=torch.int64, device="cpu")
            dist.recv(rows, sender, group)
            tensor = torch.from_numpy(np.empty((int(rows), *own.shape[1:]), own.dtype))
            if tensor.numel():
                dist.recv(tensor, sender, group)
            received[name] = tensor.numpy()
        gathered.append(received)
    return gathered


@dataclass(frozen=True)
class StridedShard:
    """Worker `index` of `count`: the batches whose number is `index` modulo `count`.

    Unlike a contiguous range of what is left to do, it does not depend on which batches already exist.
    ranks: the number of consecutive workers that torchrun has started together.
    """

    index: int
    count: int
    ranks: int

    @classmethod
    def of(cls, rank: Rank, shard: tuple[int, int] | None = None) -> StridedShard:
        """A rank's batches within part K of N of a job array, `shard` = (K, N) with K from 1; None is 1 of 1.

        Raises UsageError unless 1 ≤ K ≤ N.
        """
        part, parts = shard or (1, 1)
        if not 1 <= part <= parts:
            raise UsageError(f"shard {part}/{parts} does not exist; count from 1/{parts} to {parts}/{parts}.")
        return cls((part - 1) * rank.count + rank.index, parts * rank.count, rank.count)

    def takes(self, batch: int) -> bool:
        """True if this worker computes the batch of that number."""
        return batch % self.count == self.index

    def help_order(self, missing: Sequence[int], num_batches: int) -> list[int]:
        """The missing batches of other workers, in the order in which this one takes them when it is done.

        Helpers begin at evenly spaced places of the list and go backwards, since its workers go forwards. Of
        another part of a job array at least one batch must exist: otherwise it has not begun, or it writes to
        a disk of its own.
        """
        existing = set(range(num_batches)).difference(missing)
        begun = {self._part(self.index)} | {self._part(batch % self.count) for batch in existing}
        others = [b for b in missing if not self.takes(b) and self._part(b % self.count) in begun]
        start = len(others) * self.index // self.count
        return (others[start:] + others[:start])[::-1]

    def _part(self, worker: int) -> int:
        return worker // self.ranks
