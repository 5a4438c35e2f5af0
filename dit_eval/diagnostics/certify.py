"""Evaluate the sample batches that ADM has published and compare with the published numbers.

reference_stats/certificates.toml holds batches, numbers and tolerances. All files are fetched before the
first evaluation, so that a missing or damaged one is reported at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from dit_eval.errors import UsageError
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.features.protocols import protocol_named
from dit_eval.io import assets
from dit_eval.report.terminal import dense_table, render_text
from dit_eval.results.metric_names import METRICS
from dit_eval.results.result import Result
from dit_eval.runtime.distributed import Rank, process_group

SCHEMA = 1


@dataclass(frozen=True)
class CertifiedNumber:
    """One metric: as published, as found (None if it could not be computed), and the accepted difference."""

    metric: str
    published: float
    found: float | None
    tolerance: float

    @property
    def difference(self) -> float | None:
        """Found minus published."""
        return None if self.found is None else self.found - self.published

    @property
    def outcome(self) -> Literal["holds", "off", "absent"]:
        """Whether the difference is within the tolerance; NaN is not."""
        if self.difference is None:
            return "absent"
        return "holds" if abs(self.difference) <= self.tolerance else "off"

    def to_json(self) -> dict[str, Any]:
        """As JSON values, without the name of the metric."""
        values = {name: getattr(self, name) for name in ("published", "found", "difference", "tolerance")}
        return {**values, "verdict": self.outcome}


@dataclass(frozen=True, kw_only=True)
class CertifiedBatch:
    """One published batch. files: name, URL and SHA-256 of samples, reference and weights."""

    name: str
    numbers: tuple[CertifiedNumber, ...]
    files: Mapping[str, Mapping[str, str]]
    result: Result

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "numbers": {number.metric: number.to_json() for number in self.numbers},
            "files": self.files,
            "result": json.loads(self.result.to_json()),
        }


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """All batches, with the date (UTC, ISO 8601)."""

    batches: tuple[CertifiedBatch, ...]
    date: str

    @property
    def failed(self) -> tuple[str, ...]:
        """The numbers that do not hold, as `batch metric`."""
        return tuple(
            f"{batch.name} {number.metric}"
            for batch in self.batches
            for number in batch.numbers
            if number.outcome != "holds"
        )

    @property
    def holds(self) -> bool:
        """True if every number holds."""
        return not self.failed

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with `"schema": 1`."""
        batches = [batch.to_json() for batch in self.batches]
        return {"schema": SCHEMA, "date": self.date, "holds": self.holds, "batches": batches}

    def table(self, width: int = 80) -> str:
        """A row per number, followed by a sentence that names those that do not hold."""
        table = dense_table()
        table.add_column("batch, metric", no_wrap=True)
        for heading in ("published", "found", "difference", "tolerance"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for batch in self.batches:
            table.add_row(batch.name)
            for number in batch.numbers:
                table.add_row(*_cells(number))
            table.add_section()
        outcome = f"Does not hold: {', '.join(self.failed)}." if self.failed else "Every number holds."
        return render_text(table, outcome, width=width)


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
    rank, batches = Rank.from_environment(), []
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
                batches.append(_certified_batch(entry, files[name], result))
    if rank.index > 0:
        return None
    return Certificate(batches=tuple(batches), date=datetime.now(UTC).isoformat(timespec="seconds"))


def _entries(only: str | None) -> Mapping[str, assets.CertificateEntry]:
    entries = assets.certificates()
    if only is None:
        return entries
    if only not in entries:
        raise UsageError(f"unknown batch {only!r} (known: {', '.join(entries)}).")
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
) -> CertifiedBatch:
    published, tolerance = entry.published, entry.tolerance
    return CertifiedBatch(
        name=entry.name,
        numbers=tuple(
            CertifiedNumber(metric, published[metric], result.metrics.get(metric), tolerance[metric])
            for metric in METRICS
            if metric in published
        ),
        files={
            role: {"name": path.name, "url": next(iter(asset.urls), "bundled"), "sha256": assets.sha256(path)}
            for role, (asset, path) in files.items()
        },
        result=result,
    )


def _cells(number: CertifiedNumber) -> list[str]:
    metric = METRICS[number.metric]
    return [
        f"    {metric.title}" if metric.parent else f"  {metric.title}",
        f"{number.published:.5f}",
        "absent" if number.found is None else f"{number.found:z.5f}",
        "" if number.difference is None else f"{number.difference:+z.5f}",
        f"{number.tolerance:g}",
        number.outcome,
    ]
