"""Any number of processes, killed at any time, samples the same bytes or leaves no file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dit_eval.io.assets import sha256
from tests.e2e.draw import BATCHES
from tests.tiny import save_tiny

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(
    out: Path, weights: Path, *, ranks: int = 0, shard: str = "1/1", rank: tuple[int, int] = (0, 1)
) -> subprocess.Popen[bytes]:
    """Start one process, or torchrun with this many ranks, as the leader of a process group.

    rank: the process's RANK and WORLD_SIZE, as if torchrun had started it.
    """
    program = ["-m", "tests.e2e.draw", str(out), str(weights), shard]
    if ranks:
        program = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *program]
    return subprocess.Popen(
        [sys.executable, *program],
        cwd=ROOT,
        env=ENVIRONMENT | ({} if ranks else dict(zip(("RANK", "WORLD_SIZE"), map(str, rank), strict=True))),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def expected(weights, tmp_path_factory):
    """The digest of the batch that a single uninterrupted process samples."""
    out = tmp_path_factory.mktemp("whole") / "b.npz"
    assert start(out, weights).wait() == 0
    return sha256(out)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_samples_the_same_bytes(weights, expected, tmp_path, ranks):
    assert start(tmp_path / "b.npz", weights, ranks=ranks).wait() == 0
    assert sha256(tmp_path / "b.npz") == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "b.npz"]


@pytest.mark.slow
def test_concurrent_shards_sample_the_same_bytes(weights, expected, tmp_path):
    processes = [start(tmp_path / "b.npz", weights, shard=f"{k}/3") for k in (1, 2, 3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert sha256(tmp_path / "b.npz") == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "kills"),
    [(2, 3), *(pytest.param(count, KILLS, marks=pytest.mark.simulation) for count in (1, 2, 3))],
)
def test_batch_survives_kills_at_random_times(weights, expected, tmp_path, count, kills):
    out = tmp_path / "b.npz"
    folder = tmp_path / "b.partial"
    generator = random.Random(count)
    killed = midway = 0
    while killed < kills:
        ranks = [start(out, weights, rank=(index, count)) for index in range(count)]
        pattern = generator.choice(["*", "0*.npz", "0*.npz", "0*.npz"])  # any file, or a shard
        before = len(list(folder.glob(pattern)))
        while any(rank.poll() is None for rank in ranks) and len(list(folder.glob(pattern))) == before:
            time.sleep(0.002)  # until they have written one
        time.sleep(generator.uniform(0, 0.3))
        generator.shuffle(ranks)
        number = generator.randint(1, count)
        victims, survivors = ranks[:number], ranks[number:]
        for victim in victims:
            if victim.poll() is None:
                kill(victim)
                killed += 1
                midway += 0 < len(list(folder.glob("0*.npz"))) < BATCHES
        assert [survivor.wait() for survivor in survivors] == [0] * len(survivors)
        assert out.exists() or not survivors  # they have finished the work of the others
        if out.exists():  # then it is complete
            assert sha256(out) == expected
            out.unlink()
    assert midway >= kills // 2
    assert start(out, weights).wait() == 0
    assert sha256(out) == expected
    assert not folder.exists()


@pytest.mark.slow
def test_batch_survives_a_kill_during_the_merge(weights, expected, tmp_path):
    out = tmp_path / "b.npz"
    folder = tmp_path / "b.partial"
    assert start(out, weights, shard="1/2").wait() == 0
    process = start(out, weights, shard="2/2")
    while process.poll() is None and not list(folder.glob("whole.npz*")):
        time.sleep(0.0001)
    if process.poll() is None:
        kill(process)
    assert not out.exists() or sha256(out) == expected
    assert start(out, weights).wait() == 0
    assert sha256(out) == expected
