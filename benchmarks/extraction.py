"""The host's part of an evaluation: digests, Pillow's resize and the last step, before a change and after it.

    python benchmarks/extraction.py --inception WEIGHTS                    # this checkout alone
    python benchmarks/extraction.py --inception WEIGHTS --before CHECKOUT  # and another one, in turns

Every contestant lives in a process of its own and they take turns, round after round, so that a slow minute
of the machine slows them alike. A ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np

HERE = Path(__file__).resolve().parents[1]
DIMENSION, ROWS = 2048, 10_000

Work = Callable[[], object]


def extraction(
    folder: Path, weights: Path, protocol: str, samples: str, *, digest: bool, device: str
) -> Work:
    """Features of the images of `samples`, with or without the digest of their pixels."""
    from dit_eval.evaluation.extraction import load_extraction
    from dit_eval.io import batches

    loaded = load_extraction(protocol, inception=weights, device=device, cache=False)
    images = batches.open_images(folder / samples)

    def work() -> object:
        with ExitStack() as patches:
            for name, attribute, value in () if digest else without_digest(batches):
                patches.enter_context(patch.object(getattr(batches, name), attribute, value))
            return loaded.extract(batches.open_images(images.path), "samples", None)[0]

    return work


def without_digest(batches: Any) -> tuple[tuple[str, str, object], ...]:
    """What to replace so that no pixel is hashed: class, attribute, value."""
    if hasattr(batches, "PixelDigest"):
        return (("PixelDigest", "watch", lambda _, blocks: blocks), ("PixelDigest", "finish", lambda _: ""))
    return (("NpzImages", "digest", lambda _: ""), ("ImageFiles", "digest", lambda _: ""))


def frechet(device: str) -> Work:
    """The distance of two Gaussians of full rank and the influences of 10,000 samples, as on rank 0."""
    from dit_eval.metrics.frechet import frechet_distance, frechet_influence
    from dit_eval.metrics.gaussian import Gaussian

    features = np.random.default_rng(0).standard_normal((2, ROWS, DIMENSION), np.float32)
    features *= np.logspace(-2, 0, DIMENSION, dtype=np.float32)
    moments = [(rows.mean(axis=0, dtype=float), np.cov(rows, rowvar=False)) for rows in features]
    options = {} if device == "cpu" else {"device": device}

    def work() -> object:
        a, b = (Gaussian(*each) for each in moments)  # without a factor that is kept
        with cores_of_rank_0():
            return frechet_distance(a, b, **options), frechet_influence(features[0], a, b, **options)

    return work


def cores_of_rank_0() -> AbstractContextManager[None]:
    """What rank 0 uses when the other ranks have finished; nothing in checkouts that did not do so."""
    try:
        from dit_eval.runtime.cores import all_cores
    except ImportError:
        return nullcontext()
    return all_cores()


def serve(checkout: Path, task: str, arguments: dict[str, Any], pipe: Connection) -> None:
    """In a contestant's own process: prepare with that checkout, then run a round whenever asked."""
    sys.path.insert(0, str(checkout))
    work = {"extraction": extraction, "frechet": frechet}[task](**arguments)
    work()  # warm up
    while pipe.recv():
        began = time.perf_counter()
        work()
        pipe.send(time.perf_counter() - began)


def race(contestants: dict[str, tuple[Path, str, dict[str, Any]]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant (checkout, task, arguments) in each round."""
    context, pipes = mp.get_context("spawn"), {}
    for name, contestant in contestants.items():
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(*contestant, theirs), daemon=True).start()
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(rounds):
        for name in list(contestants) if i % 2 == 0 else reversed(contestants):
            pipes[name].send(True)
            taken[name].append(pipes[name].recv())
    for pipe in pipes.values():
        pipe.send(False)
    return taken


def save_images(folder: Path, n: int, size: int) -> None:
    """n images of noise that PNG compresses a little, as a batch and as a folder of PNG files."""
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 64, (n, size, size, 3), dtype=np.uint8)
    np.savez(folder / "batch.npz", images)
    (folder / "png").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / "png" / f"{number}.png")


@click.command()
@click.option("--inception", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--before", type=click.Path(exists=True, path_type=Path), help="Another checkout.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--images", "n", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
def main(inception: Path, before: Path | None, device: str, n: int, rounds: int) -> None:
    """Race, print and keep the result as CSV."""
    from common import keep

    checkouts = {"after": HERE, **({"before": before.resolve()} if before else {})}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_images(folder, n, 256)

        def task(protocol: str, samples: str, digest: bool) -> tuple[str, dict[str, Any]]:
            settings = {"protocol": protocol, "samples": samples, "digest": digest, "device": device}
            return "extraction", {"folder": folder, "weights": inception.resolve(), **settings}

        tasks = {
            "adm, npz": task("adm", "batch.npz", True),
            "adm, npz, no digest": task("adm", "batch.npz", False),
            "adm, PNG": task("adm", "png", True),
            "adm, PNG, no digest": task("adm", "png", False),
            "clean, npz": task("clean", "batch.npz", True),
            "Fréchet distance and influences": ("frechet", {"device": device}),
        }
        groups = (list(tasks)[:2], list(tasks)[2:4], ["clean, npz", "adm, npz"], list(tasks)[-1:])
        for group in groups:
            contestants = {
                f"{name} ({when})": (checkout, *tasks[name])
                for name in group
                for when, checkout in checkouts.items()
            }
            taken = race(contestants, rounds)
            rows += [row(group, name, taken, n) for name in taken]
    click.echo(keep("extraction", rows, device))


def row(group: list[str], name: str, taken: dict[str, list[float]], n: int) -> dict[str, object]:
    """A line of the table: a contestant beside the last task of its group, in the same checkout."""
    when = name.rsplit(" (", 1)[1]
    ratios = {
        "time_over_other": f"{group[-1]} ({when}",
        "time_over_after": f"{name.rsplit(' (', 1)[0]} (after)",
    }
    return {
        "contestant": name,
        "seconds": f"{statistics.median(taken[name]):.3f}",
        "other": group[-1],
        **{
            key: f"{statistics.median(np.divide(taken[name], taken[other])):.3f}"
            for key, other in ratios.items()
        },
        "images": n,
        "rounds": len(taken[name]),
        "cores": len(os.sched_getaffinity(0)),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
    }


if __name__ == "__main__":
    main()
