"""What evaluating more images costs in memory: the peak at two sizes, against the pool features between them.

python benchmarks/memory.py --few 1000 --many 20000
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from common import keep

from dit_eval.npz import Rows, write_npz

SIDE = 256
POOL_BYTES = 4 * 2048  # float32 features of one image


def noise(n: int) -> Iterator[np.ndarray]:
    """n images, a few at a time."""
    rng = np.random.default_rng(0)
    for start in range(0, n, 100):
        yield rng.integers(0, 256, (min(100, n - start), SIDE, SIDE, 3), dtype=np.uint8)


def peak_bytes(samples: Path, reference: Path) -> int:
    """Peak resident memory of one `dit-eval fid` in a process of its own."""
    command = [sys.executable, "-m", "dit_eval", "fid", str(samples), str(reference), "--no-cache"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise click.ClickException("dit-eval fid failed; set DIT_EVAL_INCEPTION and try it by hand.")
    return usage.ru_maxrss * 1024


@click.command()
@click.option("--few", type=click.IntRange(min=100), default=1_000, show_default=True)
@click.option("--many", type=click.IntRange(min=100), default=20_000, show_default=True)
def main(few: int, many: int) -> None:
    """Evaluate noise at both sizes and keep the result as CSV."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference.npz"
        write_npz(reference, {"arr_0": Rows((100, SIDE, SIDE, 3), np.uint8, noise(100))})
        for n in (few, many):
            samples = Path(folder) / f"{n}.npz"
            write_npz(samples, {"arr_0": Rows((n, SIDE, SIDE, 3), np.uint8, noise(n))})
            rows.append({"images": n, "peak_mb": f"{peak_bytes(samples, reference) / 1e6:.0f}"})
            samples.unlink()
    for row in rows:
        row["pool_features_mb"] = f"{row['images'] * POOL_BYTES / 1e6:.0f}"
    click.echo(keep("memory", rows))


if __name__ == "__main__":
    main()
