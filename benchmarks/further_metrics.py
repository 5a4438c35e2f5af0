"""KID, density and coverage against torch-fidelity, dgm-eval and prdc: seconds and memory.

    pip install prdc
    git clone https://github.com/layer6ai-labs/dgm-eval DGM_EVAL
    git -C DGM_EVAL checkout 74c79f7527fbf38fdccfbac51f25d759bc02ab07
    export PYTHONPATH=DGM_EVAL:.
    python benchmarks/further_metrics.py                      # 50,000 samples, 10,000 reference images
    python benchmarks/further_metrics.py --samples 10000 --reference 2000

dgm-eval is not on PyPI; its two modules need scikit-learn and tqdm alone. Without the clone on the path, its
rows are left out. Every contestant runs once in a process of its own, on the same features and as many
threads. Its memory is the peak of that process, from which that of a process that only makes the features is
subtracted. A peer that its memory limit ends has no numbers. prdc, of which dgm-eval has a copy, computes
precision and recall too, which takes it distances between all samples; no peer has KID over all pairs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec

import click
import numpy as np
import torch
from common import keep
from evaluate import features

from dit_eval.metrics.density_coverage import density_coverage
from dit_eval.metrics.kid import kernel_distance, subset_kernel_distances

CHILD = "child"
FEATURES_ALONE = "features alone"
DGM_EVAL = "dgm-eval"


def ours_kid(reference: np.ndarray, samples: np.ndarray) -> list[float]:
    found = kernel_distance(reference, samples)
    return [found.value, found.standard_error]


def ours_subset_kid(reference: np.ndarray, samples: np.ndarray) -> list[float]:
    found = subset_kernel_distances(reference, samples)
    return [found.mean(), found.std()]


def torch_fidelity_kid(reference: np.ndarray, samples: np.ndarray) -> list[float]:
    from torch_fidelity.metric_kid import kid_features_to_metric

    sides = (torch.from_numpy(side) for side in (samples, reference))
    return list(kid_features_to_metric(*sides, verbose=False).values())


def dgm_eval_kid(reference: np.ndarray, samples: np.ndarray) -> list[float]:
    from dgm_eval.metrics.mmd import compute_mmd  # pyright: ignore[reportMissingImports]

    np.random.seed(2020)  # noqa: NPY002 - with the samples first, it draws torch-fidelity's subsets
    found = compute_mmd(samples, reference)
    return [float(found.mean()), float(found.std())]


def ours_density_coverage(reference: np.ndarray, samples: np.ndarray) -> list[float]:
    found = density_coverage(reference, samples)
    return [found.density, found.coverage]


def prdc_density_coverage(reference: np.ndarray, samples: np.ndarray) -> list[float]:
    from prdc import compute_prdc  # pyright: ignore[reportMissingImports]

    found = compute_prdc(reference, samples, 5)
    return [float(found[name]) for name in ("density", "coverage")]


def dgm_eval_density_coverage(reference: np.ndarray, samples: np.ndarray) -> list[float]:
    from dgm_eval.metrics.prdc import compute_prdc  # pyright: ignore[reportMissingImports]

    found = compute_prdc(reference, samples, 5)
    return [float(found[name]) for name in ("density", "coverage")]


WORK: dict[tuple[str, str], Callable[[np.ndarray, np.ndarray], list[float]]] = {
    ("KID over all pairs", "dit-eval"): ours_kid,
    ("KID of 100 subsets", "dit-eval"): ours_subset_kid,
    ("KID of 100 subsets", "torch-fidelity"): torch_fidelity_kid,
    ("KID of 100 subsets", DGM_EVAL): dgm_eval_kid,
    ("density and coverage", "dit-eval"): ours_density_coverage,
    ("density and coverage", "prdc"): prdc_density_coverage,
    ("density and coverage", DGM_EVAL): dgm_eval_density_coverage,
}


def child(task: str, contestant: str, m: int, n: int) -> None:
    """Print the seconds and the two numbers of one contestant as the last line."""
    torch.set_grad_enabled(False)
    reference, samples = features(m, n)
    work = WORK.get((task, contestant), lambda *_: [0.0, 0.0])
    began = time.perf_counter()
    numbers = work(reference, samples)
    click.echo(json.dumps([time.perf_counter() - began, *numbers]))


def run(task: str, contestant: str, m: int, n: int) -> tuple[list[float] | None, float]:
    """What `child` prints, None if it was ended, and the peak of its process in MB."""
    command = [sys.executable, __file__, CHILD, task, contestant, str(m), str(n)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
    return (None if status else json.loads(lines[-1])), usage.ru_maxrss * 1024 / 1e6


@click.command()
@click.option("--samples", type=click.IntRange(min=1000), default=50_000, show_default=True)
@click.option("--reference", type=click.IntRange(min=1000), default=10_000, show_default=True)
def main(samples: int, reference: int) -> None:
    """Run all contestants, print the result and keep it as CSV."""
    rows = []
    _, floor = run(FEATURES_ALONE, "", reference, samples)
    for task, contestant in WORK:
        if contestant == DGM_EVAL and find_spec("dgm_eval") is None:
            continue
        numbers, peak = run(task, contestant, reference, samples)
        seconds, first, second = numbers or (None, None, None)
        rows.append(
            {
                "task": f"{task}, {reference:,} × {samples:,}",
                "contestant": contestant,
                "version": "74c79f7" if contestant == DGM_EVAL else version(contestant),
                "seconds": "" if seconds is None else f"{seconds:.1f}",
                "peak_mb_beyond_features": "" if seconds is None else f"{max(peak - floor, 0):.0f}",
                "first_number": "" if first is None else f"{first:.7g}",
                "second_number": "" if second is None else f"{second:.7g}",
                "threads": torch.get_num_threads(),
            }
        )
        click.echo(rows[-1], err=True)
    click.echo(keep("further_metrics", rows))


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
