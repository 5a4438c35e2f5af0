"""What evaluating more images costs in memory: the peak at two sizes, against the pool features between them.

    python benchmarks/memory.py --few 5000 --many 20000

Inception would take a CPU twenty minutes and needs the same memory for any number of images, so a stand-in
gives features of its shape: everything else is what `dit-eval fid` runs.
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
import torch
from common import keep
from torch import nn

from dit_eval.cli import run
from dit_eval.features.extractor import NETWORKS
from dit_eval.features.inception import Activations
from dit_eval.io.npz import Rows, write_npz

SIDE = 256
CHILD = "child"


class StandIn(nn.Module):
    """Pixels as features, in Inception's shapes."""

    dimensions = (2048, 2023, 1008)

    def forward(self, x: torch.Tensor) -> Activations:
        """Resized images (N, 3, 299, 299) → what Inception would give, in shape."""
        pixels = x.flatten(1)
        pool, spatial, classes = (pixels[:, :n].clone() for n in self.dimensions)
        return Activations(pool, spatial, torch.softmax(classes, dim=1))


def noise(n: int) -> Iterator[np.ndarray]:
    """n images, a few at a time."""
    rng = np.random.default_rng(0)
    for start in range(0, n, 100):
        yield rng.integers(0, 256, (min(100, n - start), SIDE, SIDE, 3), dtype=np.uint8)


def save(path: Path, n: int) -> Path:
    """A stored npz of n images."""
    write_npz(path, {"arr_0": Rows((n, SIDE, SIDE, 3), np.uint8, noise(n))})
    return path


def peak_bytes(samples: Path, reference: Path) -> int:
    """Peak resident memory of one `dit-eval fid` in a process of its own."""
    options = ["fid", samples, reference, "--inception", __file__, "--no-cache", "--batch-size", 16]
    with subprocess.Popen(
        [sys.executable, __file__, CHILD, *map(str, options)], stdout=subprocess.DEVNULL
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise click.ClickException("dit-eval fid failed.")
    return usage.ru_maxrss * 1024


@click.command()
@click.option("--few", type=click.IntRange(min=100), default=5_000, show_default=True)
@click.option("--many", type=click.IntRange(min=100), default=20_000, show_default=True)
def main(few: int, many: int) -> None:
    """Evaluate noise at both sizes and keep the result as CSV."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        reference = save(Path(folder) / "reference.npz", 100)
        for n in (few, many):
            samples = save(Path(folder) / f"{n}.npz", n)
            peak = peak_bytes(samples, reference)
            rows.append(
                {
                    "images": n,
                    "images_mb": f"{samples.stat().st_size / 1e6:.0f}",
                    "pool_features_mb": f"{4 * StandIn.dimensions[0] * n / 1e6:.0f}",
                    "peak_mb": f"{peak / 1e6:.0f}",
                }
            )
            samples.unlink()
    click.echo(keep("memory", rows))


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        NETWORKS["inception-2015-12-05"] = lambda _: StandIn()
        del sys.argv[1]
        run()
    else:
        main()
