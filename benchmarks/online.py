"""Online evaluation: what a second `compute` costs beyond features and tail, and a small evaluation.

    python benchmarks/online.py [--reference-images 500]

Synthetic Inception weights and procedural images; medians of several interleaved rounds, seconds. The floor
of an evaluation is the features of its images plus the metrics of features already known.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import numpy as np
from common import keep

import dit_eval
from dit_eval.diagnostics.recorded import images
from dit_eval.diagnostics.recorded.networks import save_inception
from dit_eval.io.npz import write_npz

ROUNDS = 5


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@click.command()
@click.option("--reference-images", default=500, show_default=True)
def main(reference_images: int) -> None:
    """Print and write the times."""
    batch, few = images.build("samples", 128, 64), images.build("samples", 8, 64)
    with tempfile.TemporaryDirectory() as folder:
        weights = save_inception(Path(folder, "inception.safetensors"))
        reference = Path(folder, "ref.npz")
        write_npz(reference, {"arr_0": images.build("reference", reference_images, 64)})
        options = {"inception": weights, "protocol": "adm"}
        first = seconds(lambda: evaluate_once(dit_eval.Evaluator(reference, **options), batch))
        rows = {name: [] for name in ("features", "tail", "whole", "8 images, values only")}
        with (
            dit_eval.Evaluator(reference, **options) as evaluator,
            dit_eval.Evaluator(reference, **options, intervals=False) as small,
        ):
            evaluate_once(evaluator, batch)
            evaluate_once(small, few)
            for _ in range(ROUNDS):
                evaluator.reset()
                rows["features"].append(seconds(lambda: evaluator.update(batch)))
                rows["tail"].append(seconds(evaluator.compute))
                rows["whole"].append(seconds(lambda: evaluate_once(evaluator, batch)))
                rows["8 images, values only"].append(seconds(lambda: evaluate_once(small, few)))
    floor = median(np.add(rows["features"], rows["tail"]))
    found = {
        "first, with loading and the reference": first,
        **{name: median(row) for name, row in rows.items()},
    }
    found["whole over features plus tail"] = found["whole"] / floor
    for name, value in found.items():
        click.echo(f"{name:40} {value:8.3f}")
    keep("online", [{"measurement": name, "value": round(value, 4)} for name, value in found.items()])


def evaluate_once(evaluator: dit_eval.Evaluator, batch: np.ndarray) -> None:
    evaluator.reset()
    evaluator.update(batch)
    evaluator.compute()


if __name__ == "__main__":
    main()
