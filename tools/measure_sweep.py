"""Does the race of `dit-eval sweep` find the winner of the full grid, and with how many of its images?

    python -m tools.measure_sweep FOLDER

samples a grid of 12 settings of the bundled flow model in FOLDER, 2,048 images of each with each of 20 seeds
(it can be interrupted), and prints the numbers that docs/sweep.md quotes. A run is raced with the functions
of `dit_eval.search.race`; its winner is measured on fresh images, those of the next seed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dit_eval.evaluation.extraction import load_extraction
from dit_eval.evaluation.references import open_reference
from dit_eval.generation.pipeline import generate
from dit_eval.io.batches import open_images
from dit_eval.metrics.frechet import frechet_distance, frechet_influence
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.metrics.intervals import Interval, interval, normal_quantile, standard_error
from dit_eval.results.result import Result
from dit_eval.search.race import compare_with_best, count_comparisons, round_sizes
from dit_eval.search.settings import describe, grid

VARY = {"cfg": [1.0, 1.25, 1.5, 2.0], "steps": [2, 4, 8]}
FIXED = {"model": "digits-sit", "sampler": "ode", "solver": "euler", "batch_size": 256}
NUM, SEEDS = 2048, range(100, 120)


@dataclass(frozen=True, kw_only=True)
class SimulatedRace:
    """The end of a race. survivors: the best first; images: of all candidates together."""

    survivors: tuple[int, ...]
    images: int


def race(features: np.ndarray, reference: Gaussian, first: int | None = None) -> SimulatedRace:
    """Race candidates by FID. features: (candidates, num, D), of which image i of all is paired."""
    sizes = round_sizes(features.shape[1], first, 1)
    comparisons = count_comparisons(len(features), len(sizes))
    alive, images = tuple(range(len(features))), 0
    for before, n in zip([0, *sizes], sizes, strict=False):
        images += len(alive) * (n - before)
        results = {number: fid_result(features[number, :n], reference) for number in alive}
        alive = compare_with_best(results, "fid", comparisons).survivors
        if len(alive) == 1:
            break
    return SimulatedRace(survivors=alive, images=images)


def fid_result(features: np.ndarray, reference: Gaussian) -> Result:
    """FID of features (n, D), with its influences and nothing else."""
    samples = gaussian(features)
    value = frechet_distance(samples, reference)
    influence = frechet_influence(features, samples, reference).astype(np.float32)
    plan = {"seed": 0, "labels": "uniform", "num": len(features), "image_size": 8}
    return Result(
        metrics={"fid": value},
        intervals={"fid": vars(interval(value, standard_error(influence)))},
        influence={"fid": influence},
        samples={"n": len(features), "plan": plan},
        measured_against={},
        missing={},
        protocol={},
        reference={},
        environment={},
    )


def gaussian(features: np.ndarray) -> Gaussian:
    """Mean and covariance of features (n, D)."""
    moments = Moments(features.shape[1])
    moments.update(features)
    return moments.gaussian()


def drawn_features(folder: Path, seed: int) -> np.ndarray:
    """Pool features of all settings, (settings, NUM, D); samples what is missing."""
    extraction, features = load_extraction("digits"), []
    for number, values in enumerate(grid(VARY)):
        batch = folder / f"{number:02d}-{seed}.npz"
        generate(**FIXED, **values, num=NUM, seed=seed, out=batch)
        stats, _ = extraction.extract(open_images(batch), "samples", None)
        assert stats is not None
        features.append(stats.features)
    return np.stack(features)


def main(folder: Path) -> None:
    """Print what the module says."""
    reference = open_reference("digits")
    extraction = load_extraction("digits")
    if reference.pool is None:
        assert reference.images is not None
        stats, _ = extraction.extract(reference.images, "reference", None)
        assert stats is not None
        target = stats.pool
    else:
        target = reference.pool
    runs = [drawn_features(folder, seed) for seed in SEEDS]
    full = [[fid_result(features, target) for features in run] for run in runs]
    values = np.array([[result.metrics["fid"] for result in run] for run in full])  # (runs, settings)
    print("setting, mean FID of the runs, its standard deviation")
    for number, settings in enumerate(grid(VARY)):
        print(f"{describe(settings)}: {values[:, number].mean():.2f}, {values[:, number].std(ddof=1):.2f}")
    run_ends = [[Interval(**result.intervals["fid"]) for result in run] for run in full]
    expected = values.mean(axis=0)
    held = np.array(
        [
            [found.low <= mean <= found.high for found, mean in zip(run, expected, strict=True)]
            for run in run_ends
        ]
    )
    print(f"intervals that hold the mean FID of all runs: {held.mean():.1%} of {held.size}")
    best = np.concatenate(runs, axis=1)[expected.argmin()]
    for n in (NUM // 8, NUM // 4, NUM // 2):
        found = [fid_result(block, target) for block in np.split(best, len(best) // n)]
        mean = np.mean([result.metrics["fid"] for result in found])
        held_mean = [
            ends["low"] <= mean <= ends["high"] for ends in (result.intervals["fid"] for result in found)
        ]
        print(f"the same of {len(found)} batches of {n} images of the best setting: {np.mean(held_mean):.1%}")
    for first in (NUM // 16, NUM // 8, NUM // 4):
        print(f"\nfirst round {first}:", *_summary(runs, full, target, first, held), sep="\n  ")


def _summary(
    runs: Sequence[np.ndarray],
    full: Sequence[Sequence[Result]],
    target: Gaussian,
    first: int,
    held: np.ndarray,
) -> list[str]:
    same = tied = best_kept = fresh_held = 0
    shares, survivors = [], []
    best = int(np.mean([[result.metrics["fid"] for result in run] for run in full], axis=0).argmin())
    for index, (features, results) in enumerate(zip(runs, full, strict=True)):
        found = race(features, target, first)
        winner = found.survivors[0]
        by_grid = min(range(len(results)), key=lambda number: results[number].metrics["fid"])
        chosen, other = results[winner], results[by_grid]
        error = standard_error(chosen.influence["fid"] - other.influence["fid"])
        same += winner == by_grid
        tied += chosen.metrics["fid"] - other.metrics["fid"] <= normal_quantile() * error
        best_kept += best in found.survivors
        fresh_held += held[(index + 1) % len(runs), winner]
        shares.append(found.images / (len(results) * NUM))
        survivors.append(len(found.survivors))
    return [
        f"the race's winner is the grid's in {same} of {len(runs)} runs, the same or tied with it in {tied}",
        f"the setting with the lowest mean FID is among the survivors in {best_kept}",
        f"images: {np.mean(shares):.1%} of the grid's on average, {min(shares):.1%} to {max(shares):.1%}, "
        f"at most 40 % in {sum(share <= 0.4 for share in shares)} runs",
        f"survivors: {np.mean(survivors):.1f} on average, {min(survivors)} to {max(survivors)}",
        f"the winner's interval on fresh images holds its setting's mean FID in {fresh_held} of {len(runs)}",
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
