"""Files of statistics that add up: of machines, classes or folds, each measured by itself.

A file is a reference as `dit-eval ref make` writes it, with or without images: mu, sigma, mu_s, sigma_s and,
in its provenance, n and the protocol. Sums have no images: only FID and sFID can be measured against them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dit_eval.errors import StatisticsError, UsageError
from dit_eval.evaluation.references import open_reference
from dit_eval.io import npz
from dit_eval.metrics.gaussian import Gaussian, Moments
from dit_eval.version import __version__


@dataclass(frozen=True)
class MomentFile:
    """n images' pool and spatial Gaussians, and the protocol by which they were measured."""

    path: Path
    n: int
    pool: Gaussian
    spatial: Gaussian
    protocol: dict[str, Any]


def read_moments(path: Path) -> MomentFile:
    """The statistics in a file. Raises StatisticsError if it does not say how many images they are of."""
    stored = open_reference(path)
    made = stored.provenance
    if stored.pool is None or stored.spatial is None or "n" not in made or "protocol" not in made:
        raise StatisticsError(
            f"{path} lacks mu, sigma, mu_s, sigma_s, or does not say of how many images and by which "
            "protocol they are; only files of `dit-eval ref make` and `dit-eval stats` add up."
        )
    return MomentFile(path, made["n"], stored.pool, stored.spatial, made["protocol"])


def merge(files: Sequence[Path], out: Path) -> MomentFile:
    """Write the statistics of all images of `files` together. Raises DitEvalError; see `read_moments`."""
    parts = [read_moments(path) for path in files]
    _require_one_protocol(parts)
    return _write(parts, [1] * len(parts), out)


def subtract(whole: Path, part: Path, out: Path) -> MomentFile:
    """Write the statistics of the images of `whole` that are not in `part`. Raises DitEvalError."""
    both = [read_moments(path) for path in (whole, part)]
    _require_one_protocol(both)
    if both[0].n - both[1].n < 2:
        raise StatisticsError(
            f"{whole} has {both[0].n:,} images and {part} {both[1].n:,}; at least 2 must be left."
        )
    return _write(both, [1, -1], out)


def _write(parts: Sequence[MomentFile], signs: Sequence[int], out: Path) -> MomentFile:
    if out.suffix != ".npz":
        raise UsageError(f"{out}: statistics are an .npz file; name it {out.with_suffix('.npz').name}.")
    n = sum(sign * part.n for sign, part in zip(signs, parts, strict=True))
    pool, spatial = (
        _sum([(sign, part.n, getattr(part, kind)) for sign, part in zip(signs, parts, strict=True)])
        for kind in ("pool", "spatial")
    )
    if (pool.covariance.diagonal() < 0).any() or (spatial.covariance.diagonal() < 0).any():
        raise StatisticsError(
            f"{parts[-1].path} is not a part of {parts[0].path}: a variance would be negative."
        )
    provenance = {
        "made_by": f"dit-eval {__version__}",
        "n": n,
        "parts": [
            f"{'+' if sign > 0 else '-'}{part.path.name}" for sign, part in zip(signs, parts, strict=True)
        ],
        "protocol": parts[0].protocol,
    }
    arrays = {"mu": pool.mean, "sigma": pool.covariance, "mu_s": spatial.mean, "sigma_s": spatial.covariance}
    npz.write_npz(out, {**arrays, "provenance": np.array(json.dumps(provenance, sort_keys=True))})
    return MomentFile(out, n, pool, spatial, parts[0].protocol)


def _sum(terms: Sequence[tuple[int, int, Gaussian]]) -> Gaussian:
    """The Gaussian of sums of (sign, n, Gaussian)."""
    count = sum(sign * n for sign, n, _ in terms)
    total = sum(sign * n * each.mean for sign, n, each in terms)
    # About the first mean, so that large means do not eat the digits of small variances.
    centre = terms[0][2].mean
    outer = sum(
        sign * ((n - 1) * each.covariance + n * np.outer(each.mean - centre, each.mean - centre))
        for sign, n, each in terms
    )
    moments = Moments.from_sums(count, total - count * centre, np.asarray(outer)).gaussian()
    return Gaussian(moments.mean + centre, moments.covariance)


def _require_one_protocol(parts: Sequence[MomentFile]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if part.protocol.get("fingerprint") != first.protocol.get("fingerprint"):
            raise StatisticsError(
                f"{first.path} is of protocol {first.protocol.get('name')} "
                f"({first.protocol.get('fingerprint')}) and {part.path} of {part.protocol.get('name')} "
                f"({part.protocol.get('fingerprint')}); they do not add up."
            )
