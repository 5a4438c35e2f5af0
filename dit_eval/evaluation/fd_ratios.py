"""FDr⁶: Fréchet distance ratios of samples in six spaces, against statistics of the training images."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_eval.errors import StatisticsError, UsageError, require_known
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.evaluation.references import open_reference
from dit_eval.metrics.fd_ratio import (
    PUBLISHED,
    FrechetRatio,
    Normaliser,
    frechet_ratio,
    mean_ratio,
    split_by_training,
)
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.intervals import Interval, interval
from dit_eval.report.terminal import dense_table, render_text
from dit_eval.results.result import Result

SPACES = tuple(PUBLISHED)


@dataclass(frozen=True, kw_only=True)
class FrechetRatios:
    """Ratios by space, and their means.

    normalisers: where those of the ratios come from; trained_on: spaces whose distance was a training loss;
    results: by space, the Result whose FID is the distance.
    """

    ratios: Mapping[str, FrechetRatio]
    normalisers: Mapping[str, str]
    trained_on: tuple[str, ...]
    results: Mapping[str, Result]

    def means(self) -> dict[str, FrechetRatio]:
        """FDr⁶ of all spaces; with training spaces also the means of these and of the held-out ones."""
        means = {"FDr⁶": mean_ratio(self.ratios.values())}
        trained, held_out = split_by_training(self.ratios, self.trained_on)
        if trained:
            means["trained on"] = mean_ratio(trained.values())
        if trained and held_out:
            means["held out"] = mean_ratio(held_out.values())
        return means

    def to_json(self) -> dict[str, Any]:
        """Values, intervals, distances and provenance as JSON can hold them."""
        ratios = {
            space: {
                **_numbers(ratio),
                "distance": self.results[space].metrics["fid"],
                "normaliser": self.normalisers[space],
                "trained_on": space in self.trained_on,
                "protocol": self.results[space].protocol["fingerprint"],
                "reference_sha256": self.results[space].reference["statistics_sha256"],
            }
            for space, ratio in self.ratios.items()
        }
        samples = dict(next(iter(self.results.values())).samples)
        means = {name: _numbers(ratio) for name, ratio in self.means().items()}
        return {"schema": 1, "samples": samples, "spaces": ratios, "means": means}

    def table(self, width: int = 80) -> str:
        """The ratios as text."""
        table = dense_table()
        for heading in ("space", "FDr ↓", "± 95 %", "FD", "divided by"):
            table.add_column(heading, justify="left" if heading in ("space", "divided by") else "right")
        for space, ratio in self.ratios.items():
            name = f"{space} (trained on)" if space in self.trained_on else space
            distance = f"{self.results[space].metrics['fid']:.4f}"
            table.add_row(name, *_cells(ratio), distance, self.normalisers[space])
        table.add_section()
        for name, ratio in self.means().items():
            table.add_row(name, *_cells(ratio))
        return render_text(table, width=width)


def frechet_ratios(
    samples: str | Path,
    train: str | Path,
    *,
    validation: str | Path | None = None,
    trained_on: Collection[str] = (),
    **settings: Any,
) -> FrechetRatios | None:
    """FDr of samples in the six spaces, and FDr⁶, their mean.

    samples: see `evaluate`; train: a folder with statistics of the training images, fdr-inception.npz and so
    on, each made by `make_reference` with the protocol of that name; validation: one with those of validation
    images, from which the normalisers are computed; None takes the published ones, whose printed digits widen
    the intervals; trained_on: spaces whose Fréchet distance was a training loss of the model; settings: of
    `evaluate`. The samples are read once, with all six networks in memory. Under torchrun every rank makes
    the call, and ranks other than 0 get None.
    Raises UsageError for unknown spaces or missing files, and other DitEvalErrors as `evaluate`.
    Source: FD-Loss, `eval_all_fds.py`.
    """
    require_known("space", sorted(trained_on), SPACES)
    folders = [Path(folder) for folder in (train, validation) if folder is not None]
    files = [{space: folder / f"fdr-{space}.npz" for space in SPACES} for folder in folders]
    for folder, of_space in zip(folders, files, strict=True):
        if missing := [path.name for path in of_space.values() if not path.is_file()]:
            raise UsageError(
                f"{folder} lacks {', '.join(missing)}. Make each with `dit-eval ref make IMAGES --protocol "
                "fdr-SPACE --out fdr-SPACE.npz`."
            )
    normalisers = dict(PUBLISHED)
    if validation is not None:
        normalisers = {space: _normaliser(files[1][space], files[0][space]) for space in SPACES}
    references = {f"fdr-{space}": files[0][space] for space in SPACES}
    found = evaluate(samples, references, metrics=["fid"], **settings)
    if found is None:
        return None
    results = dict(zip(SPACES, found, strict=True))
    ratios = {
        space: frechet_ratio(result.metrics["fid"], result.influence["fid"], normalisers[space])
        for space, result in results.items()
    }
    source = ", published" if validation is None else ""
    return FrechetRatios(
        ratios=ratios,
        normalisers={space: f"{normaliser.value:.6g}{source}" for space, normaliser in normalisers.items()},
        trained_on=tuple(trained_on),
        results=results,
    )


def _normaliser(validation: Path, train: Path) -> Normaliser:
    """The Fréchet distance of two files of statistics of one protocol."""
    sides = [open_reference(path) for path in (validation, train)]
    fingerprints = {side.provenance.get("protocol", {}).get("fingerprint") for side in sides}
    pools = [side.pool for side in sides]
    if len(fingerprints) > 1 or pools[0] is None or pools[1] is None:
        raise StatisticsError(f"{validation} and {train} do not hold statistics of one protocol.")
    return Normaliser(frechet_distance(pools[0], pools[1]))


def _numbers(ratio: FrechetRatio) -> dict[str, float]:
    ends = _interval(ratio)
    return {"value": ratio.value, "se": ends.se, "low": ends.low, "high": ends.high}


def _cells(ratio: FrechetRatio) -> tuple[str, str]:
    return f"{ratio.value:.4f}", f"{_interval(ratio).high - ratio.value:.4f}"


def _interval(ratio: FrechetRatio) -> Interval:
    return interval(ratio.value, ratio.standard_error(), (0.0, math.inf))
