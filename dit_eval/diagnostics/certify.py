"""Evaluate the sample batches that ADM has published and compare with the published numbers.

reference_stats/certificates.toml holds batches, numbers and tolerances. All files are fetched before the
first evaluation, so that a missing or damaged one is reported at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from dit_eval.diagnostics.certificate import Certificate, CertifiedGroup, subtracted
from dit_eval.errors import require_known
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.features.protocols import protocol_named
from dit_eval.io import assets
from dit_eval.results.metric_names import METRICS
from dit_eval.results.result import Result
from dit_eval.runtime.distributed import Rank, process_group


def certify(
    only: str | None = None,
    *,
    device: str = "auto",
    batch_size: int = 64,
    offline: bool = False,
    open_progress: Callable[[], AbstractContextManager[Callable[..., None] | None]] = nullcontext,
) -> Certificate | None:
    """Fetch ADM's published batches, evaluate them and compare with the published numbers.

    only: the name of one batch, None for all; open_progress: a context manager that gives the callback for
    `evaluate`. Interrupted downloads are resumed. Under torchrun the processes share the images, and ranks
    other than 0 get None. Raises subclasses of DitEvalError.
    """
    entries = _entries(only)
    files = {
        name: {role: (asset, assets.fetch(asset, offline=offline)) for role, asset in _files(entry).items()}
        for name, entry in entries.items()
    }
    rank, groups = Rank.from_environment(), []
    with process_group(rank):
        for name, entry in entries.items():
            paths = {role: path for role, (_, path) in files[name].items()}
            with open_progress() as progress:
                result = evaluate(
                    paths["samples"],
                    paths["reference"],
                    protocol=entry.protocol,
                    inception=paths["weights"],
                    device=device,
                    batch_size=batch_size,
                    progress=progress,
                )
            if result is not None:
                groups.append(_certified_batch(entry, files[name], result))
    if rank.index > 0:
        return None
    return Certificate(
        kind="published", groups=tuple(groups), date=datetime.now(UTC).isoformat(timespec="seconds")
    )


def _entries(only: str | None) -> Mapping[str, assets.CertificateEntry]:
    entries = assets.certificates()
    if only is None:
        return entries
    require_known("batch", (only,), entries)
    return {only: entries[only]}


def _files(entry: assets.CertificateEntry) -> dict[str, assets.Asset]:
    """The assets from which the numbers of a batch are computed."""
    return {
        "weights": assets.lookup("models", protocol_named(entry.protocol).weights),
        "reference": assets.lookup("reference_stats", entry.reference),
        "samples": entry,
    }


def _certified_batch(
    entry: assets.CertificateEntry, files: Mapping[str, tuple[assets.Asset, Path]], result: Result
) -> CertifiedGroup:
    """The numbers of a batch, with name, URL and SHA-256 of samples, reference and weights."""
    published, tolerance = entry.published, entry.tolerance
    return CertifiedGroup(
        name=entry.name,
        numbers=tuple(
            subtracted(metric, published[metric], result.metrics.get(metric), tolerance[metric])
            for metric in METRICS
            if metric in published
        ),
        details={
            "files": {
                role: {
                    "name": path.name,
                    "url": next(iter(asset.urls), "bundled"),
                    "sha256": assets.sha256(path),
                }
                for role, (asset, path) in files.items()
            },
            "result": json.loads(result.to_json()),
        },
    )
