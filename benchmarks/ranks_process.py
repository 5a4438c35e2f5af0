"""One process of benchmarks/ranks.py: prints the time of a task, which begins when standard input closes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dit_eval.generation.shards import ShardFolder
from dit_eval.io import assets

SIDE, SETTINGS = 256, {"seed": 0}
STAT_S = 0.0005  # of a busy file server


def start(out: str, num: str, shard_size: str) -> Callable[[], object]:
    """What a process asks of the folder before it samples, where every stat takes half a millisecond."""
    stat = os.stat

    def slow_stat(*arguments: object, **options: object) -> os.stat_result:
        time.sleep(STAT_S)
        return stat(*arguments, **options)  # type: ignore[arg-type]

    shards = ShardFolder(Path(out), SETTINGS, num=int(num), shard_size=int(shard_size), image_size=1)

    def task() -> None:
        os.stat = slow_stat
        shards.open()
        shards.missing()

    return task


def merge(out: str, num: str, shard_size: str) -> Callable[[], object]:
    """Merge shards that are all there."""
    shards = ShardFolder(Path(out), SETTINGS, num=int(num), shard_size=int(shard_size), image_size=SIDE)
    return lambda: shards.merge(np.zeros(int(num), np.int64), {})


def verify(file: str, sha256: str) -> Callable[[], object]:
    """Verify weights and record their digest, as `sample` and `fid` do."""
    weights = assets.Asset(name="weights", kind="models", file=file, sha256=sha256)
    return lambda: assets.sha256(assets.fetch(weights))


if __name__ == "__main__":
    task = {"start": start, "merge": merge, "verify": verify}[sys.argv[1]](*sys.argv[2:])
    print("ready", flush=True)
    sys.stdin.read()
    began, busy = time.perf_counter(), time.process_time()
    task()
    print(time.perf_counter() - began, time.process_time() - busy)
