"""What many ranks cost on the host, before and after: starting, verifying weights, merging.

    python benchmarks/ranks.py --before 6c1645a

`before` is the package at an earlier commit. Both take turns, round after round; seconds are medians, and
ratios are medians of the rounds' ratios. The floors of the merge are writing its bytes to the disk, and
hashing them twice in two threads.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click
import numpy as np
from common import keep
from ranks_process import SETTINGS, SIDE

from dit_eval.generation.shards import ShardFolder
from dit_eval.io.assets import sha256

ROOT = Path(__file__).resolve().parents[1]
BLOCK = 1 << 22

Task = Callable[[], tuple[str, ...]]  # prepares the files, returns the arguments of ranks_process.py


def seconds_of(tree: Path, count: int, arguments: tuple[str, ...]) -> tuple[float, float]:
    """Wall-clock seconds until the last of `count` processes is done, and the sum of their CPU seconds."""
    script = str(Path(__file__).with_name("ranks_process.py"))
    environment = {"PYTHONPATH": str(tree), "LOCAL_WORLD_SIZE": str(count), "TORCHELASTIC_RUN_ID": str(tree)}
    processes = [
        subprocess.Popen(
            [sys.executable, script, *arguments],
            env=os.environ | environment | {"LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    times = [process.communicate()[0].split() for process in reversed(processes)]
    return max(float(wall) for wall, _ in times), sum(float(busy) for _, busy in times)


def noise(n: int, side: int) -> Iterator[tuple[int, np.ndarray]]:
    """Shards of n images."""
    rng = np.random.default_rng(0)
    for shard, first in enumerate(range(0, n, 32)):
        yield shard, rng.integers(0, 256, (min(32, n - first), side, side, 3), dtype=np.uint8)


def start_task(folder: Path, shards: int) -> Task:
    """Processes that start on a folder in which all but the last shard exist."""
    out = folder / "start.npz"
    empty = ShardFolder(out, SETTINGS, num=8 * shards, shard_size=8, image_size=1)
    empty.open()
    for shard in range(shards - 1):
        (empty.folder / f"{8 * shard:08d}.npz").touch()
    return lambda: ("start", str(out), str(8 * shards), "8")


def verify_task(folder: Path, megabytes: int) -> Task:
    """Processes that verify the same weights, which have not changed for a while."""
    weights = folder / "weights"
    weights.write_bytes(np.random.default_rng(0).bytes(megabytes << 20))
    digest = sha256(weights)
    time.sleep(3)

    def prepare() -> tuple[str, ...]:
        shutil.rmtree(folder / "private", ignore_errors=True)  # what processes of an earlier round have noted
        (folder / "private").mkdir()
        return "verify", str(weights), digest

    return prepare


def merge_task(folder: Path, images: int) -> Task:
    """One process that merges shards."""
    out = folder / "merge.npz"
    whole = ShardFolder(out, SETTINGS, num=images, shard_size=32, image_size=SIDE)
    whole.open()
    for shard, block in noise(images, SIDE):
        whole.write(shard, block)
    kept = whole.folder.rename(folder / "kept")

    def prepare() -> tuple[str, ...]:
        whole.clear()
        shutil.copytree(kept, whole.folder, copy_function=os.link)
        os.sync()
        return "merge", str(out), str(images), "32"

    return prepare


def write_seconds(path: Path, size: int) -> float:
    """Writing so many bytes to the disk."""
    block = memoryview(np.random.default_rng(0).bytes(BLOCK))
    began = time.perf_counter()
    with path.open("wb") as file:
        for first in range(0, size, BLOCK):
            file.write(block[: size - first])
        file.flush()
        os.fsync(file.fileno())
    taken = time.perf_counter() - began
    path.unlink()
    return taken


def hash_seconds(size: int) -> float:
    """Hashing so many bytes twice, in two threads."""
    block = memoryview(np.random.default_rng(0).bytes(BLOCK))

    def hash_once() -> None:
        digest = hashlib.sha256()
        for first in range(0, size, BLOCK):
            digest.update(block[: size - first])

    threads = [threading.Thread(target=hash_once) for _ in range(2)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def compare(
    name: str,
    count: int,
    task: Task,
    trees: Mapping[str, Path],
    rounds: int,
    floors: Callable[[], list[float]],
) -> dict[str, object]:
    """One row: both contestants and the floors in turn."""
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        measured: dict[str, float] = dict(zip(("write", "hash"), floors(), strict=False))
        for contestant, tree in trees.items():
            wall, busy = seconds_of(tree, count, task())
            measured |= {contestant: wall, f"{contestant} cpu": busy}
        found.append(measured)

    def median(value: Callable[[dict[str, float]], float], digits: int = 3) -> str:
        return f"{statistics.median(map(value, found)):.{digits}f}"

    has_floor = "write" in found[0]
    return {
        "task": name,
        "processes": count,
        "seconds_before": median(lambda m: m["before"]),
        "seconds": median(lambda m: m["now"]),
        "before_over_now": median(lambda m: m["before"] / m["now"], 2),
        "cpu_seconds_before": median(lambda m: m["before cpu"]),
        "cpu_seconds": median(lambda m: m["now cpu"]),
        "seconds_of_writing": median(lambda m: m["write"]) if has_floor else "",
        "seconds_of_hashing": median(lambda m: m["hash"]) if has_floor else "",
        "time_over_floor": median(lambda m: m["now"] / max(m["write"], m["hash"]), 2) if has_floor else "",
        "rounds": rounds,
        "cores": os.cpu_count(),
    }


@click.command()
@click.option("--before", metavar="COMMIT", required=True, help="Commit to compare with.")
@click.option("--processes", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--shards", type=click.IntRange(min=1), default=6250, show_default=True)
@click.option("--images", type=click.IntRange(min=1), default=5000, show_default=True)
@click.option(
    "--megabytes", type=click.IntRange(min=64), default=512, show_default=True, help="Of the weights."
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--folder", type=Path, help="Where the files are written.  [default: a temporary folder]")
def main(
    before: str, processes: int, shards: int, images: int, megabytes: int, rounds: int, folder: Path | None
) -> None:
    """Measure all three and keep the result as CSV."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        temporary = Path(name)
        archive = subprocess.run(["git", "archive", before], cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(temporary / "before", filter="data")
        trees = {"before": temporary / "before", "now": ROOT}
        os.environ["TMPDIR"] = str(temporary / "private")
        size = images * SIDE * SIDE * 3
        rows = []
        for task, count, prepare, floors in (
            (f"start, {shards} shards", processes, start_task(temporary, shards), list),
            (f"verify {megabytes} MB", processes, verify_task(temporary, megabytes), list),
            (
                f"merge {images} images of {SIDE}×{SIDE}",
                1,
                merge_task(temporary, images),
                lambda: [write_seconds(temporary / "floor", size), hash_seconds(size)],
            ),
        ):
            rows.append(compare(task, count, prepare, trees, rounds, floors))
            click.echo(rows[-1])
        click.echo(keep("ranks", rows))


if __name__ == "__main__":
    main()
