"""Files of statistics that can be merged and subtracted, such as those of machines, classes or folds.

A file is a reference as `dit-eval ref make` writes it, with or without images: mu, sigma and, where the
network has spatial features, mu_s, sigma_s; in its provenance, n and the protocol. Merged files hold no
images: only FID and sFID can be measured against them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dit_eval.errors import StatisticsError, UsageError
from dit_eval.evaluation.references import open_reference, statistics_arrays
from dit_eval.io import npz
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.version import __version__


@dataclass(frozen=True)
class StatsFile:
    """Gaussians of n images, and the record of the protocol that measured them.

    spatial: None for a network without spatial features.
    """

    path: Path
    n: int
    pool: Gaussian
    spatial: Gaussian | None
    protocol: dict[str, Any]

    def describe_features(self) -> str:
        """Such as "2,048 pool and 2,023 spatial features"."""
        spatial = "" if self.spatial is None else f" and {len(self.spatial.mean):,} spatial"
        return f"{len(self.pool.mean):,} pool{spatial} features"


def read_stats(path: Path) -> StatsFile:
    """The statistics in a file. Raises StatisticsError if it does not say how many images they are of."""
    stored = open_reference(path)
    provenance = stored.provenance
    if not (stored.pool and "n" in provenance and "protocol" in provenance):
        raise StatisticsError(
            f"{path} lacks mu and sigma, or does not say of how many images and by which protocol they are. "
            "Only files of `dit-eval ref make` and `dit-eval stats` can be merged."
        )
    return StatsFile(path, provenance["n"], stored.pool, stored.spatial, provenance["protocol"])


def merge(files: Sequence[Path], out: Path) -> StatsFile:
    """Write the statistics of all images of `files` together. Raises DitEvalError; see `read_stats`."""
    parts = [read_stats(path) for path in files]
    _require_one_protocol(parts)
    return _write([(1, part) for part in parts], out)


def subtract(whole: Path, part: Path, out: Path) -> StatsFile:
    """Write the statistics of the images of `whole` that are not in `part`. Raises DitEvalError."""
    minuend, subtrahend = read_stats(whole), read_stats(part)
    _require_one_protocol([minuend, subtrahend])
    if minuend.n - subtrahend.n < 2:
        raise StatisticsError(
            f"{whole} has {minuend.n:,} images and {part} {subtrahend.n:,}; at least 2 must be left."
        )
    return _write([(1, minuend), (-1, subtrahend)], out)


def _write(terms: Sequence[tuple[int, StatsFile]], out: Path) -> StatsFile:
    """Write the sum of the terms, each with its sign."""
    if out.suffix != ".npz":
        raise UsageError(f"{out}: statistics are an .npz file; name it {out.with_suffix('.npz').name}.")
    n = sum(sign * part.n for sign, part in terms)
    pool = _sum([(sign, part.n, part.pool) for sign, part in terms])
    spatial_terms = [(sign, part.n, part.spatial) for sign, part in terms if part.spatial]
    spatial = _sum(spatial_terms) if spatial_terms else None
    first, last = terms[0][1], terms[-1][1]
    if any((found.covariance.diagonal() < 0).any() for found in (pool, spatial) if found):
        raise StatisticsError(f"{last.path} is not a part of {first.path}: a variance would be negative.")
    provenance = {
        "made_by": f"dit-eval {__version__}",
        "n": n,
        "parts": [f"{'+' if sign > 0 else '-'}{part.path.name}" for sign, part in terms],
        "protocol": first.protocol,
    }
    arrays = statistics_arrays(pool, spatial)
    npz.write_npz(out, {**arrays, "provenance": np.array(json.dumps(provenance, sort_keys=True))})
    return StatsFile(out, n, pool, spatial, first.protocol)


def _sum(terms: Sequence[tuple[int, int, Gaussian]]) -> Gaussian:
    """The Gaussian of the sum of (sign, n, Gaussian)."""
    # Sums are taken about the first mean, so that large means do not cancel the digits of small variances.
    centre = terms[0][2].mean
    count = sum(sign * n for sign, n, _ in terms)
    total = sum(sign * n * gaussian.mean for sign, n, gaussian in terms)
    outer = sum(
        sign * ((n - 1) * gaussian.covariance + n * np.outer(gaussian.mean - centre, gaussian.mean - centre))
        for sign, n, gaussian in terms
    )
    centred = Moments.from_sums(count, total - count * centre, np.asarray(outer)).gaussian()
    return Gaussian(centred.mean + centre, centred.covariance)


def _require_one_protocol(parts: Sequence[StatsFile]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if part.describe_features() != first.describe_features():
            raise StatisticsError(
                f"{first.path} holds statistics of {first.describe_features()} and {part.path} of "
                f"{part.describe_features()}; only those of the same features can be added."
            )
        if part.protocol.get("fingerprint") != first.protocol.get("fingerprint"):
            raise StatisticsError(
                f"{first.path} is of protocol {first.protocol.get('name')} "
                f"({first.protocol.get('fingerprint')}) and {part.path} of {part.protocol.get('name')} "
                f"({part.protocol.get('fingerprint')}); statistics of different protocols cannot be added."
            )
