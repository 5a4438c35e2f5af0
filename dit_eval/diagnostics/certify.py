"""The certificate: sample batches that ADM has published, measured here, beside their published numbers.

reference_stats/certificates.toml holds batches, numbers and tolerances. Every file is there before the first
image is measured, so what is missing or damaged is known at once.
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
from dit_eval.results.result import METRICS, Result
from dit_eval.runtime.distributed import Rank, process_group

SCHEMA = 1
Verdict = Literal["holds", "off", "absent"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One number: as published, as found (None if it could not be computed), how far apart they may be."""

    metric: str
    published: float
    found: float | None
    tolerance: float

    @property
    def difference(self) -> float | None:
        """Found less published."""
        return None if self.found is None else self.found - self.published

    @property
    def verdict(self) -> Verdict:
        """Whether the difference is within its tolerance; one that is not a number is not."""
        if self.difference is None:
            return "absent"
        return "holds" if abs(self.difference) <= self.tolerance else "off"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One published batch. files: url and SHA-256 of samples, reference and weights; result: all of it."""

    name: str
    findings: tuple[Finding, ...]
    files: Mapping[str, Mapping[str, str]]
    result: Result

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "numbers": {
                each.metric: {
                    "published": each.published,
                    "found": each.found,
                    "difference": each.difference,
                    "tolerance": each.tolerance,
                    "verdict": each.verdict,
                }
                for each in self.findings
            },
            "files": self.files,
            "result": json.loads(self.result.to_json()),
        }


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was found for each batch, on one day (UTC, ISO 8601)."""

    batches: tuple[Batch, ...]
    date: str

    @property
    def failed(self) -> tuple[str, ...]:
        """The numbers that do not hold, as `batch metric`."""
        return tuple(
            f"{batch.name} {each.metric}"
            for batch in self.batches
            for each in batch.findings
            if each.verdict != "holds"
        )

    @property
    def holds(self) -> bool:
        """True if every number does."""
        return not self.failed

    def to_json(self) -> str:
        """The certificate as a JSON object with `"schema": 1`."""
        fields = {"schema": SCHEMA, "date": self.date, "holds": self.holds}
        batches = [batch.to_json() for batch in self.batches]
        return json.dumps({**fields, "batches": batches}, indent=2, ensure_ascii=False)

    def table(self, width: int = 80) -> str:
        """One row for each number, and what does not hold in a sentence below."""
        table = dense_table()
        table.add_column("batch, metric", no_wrap=True)
        for heading in ("published", "found", "difference", "tolerance"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for batch in self.batches:
            table.add_row(batch.name)
            for each in batch.findings:
                table.add_row(*_cells(each))
            table.add_section()
        outcome = f"Does not hold: {', '.join(self.failed)}." if self.failed else "Every number holds."
        return render_text(table, outcome, width=width)


def certify(
    only: str | None = None,
    *,
    device: str = "auto",
    batch_size: int = 64,
    offline: bool = False,
    measuring: Callable[[], AbstractContextManager[Callable[..., None] | None]] = nullcontext,
) -> Certificate | None:
    """Fetch ADM's published batches, measure them and compare the numbers with the published ones.

    only: the name of one batch, None for all; measuring: opens a progress bar, as for `evaluate`. An
    interrupted download goes on; under torchrun the processes share the images, and those other than rank 0
    get None. Raises the subclasses of DitEvalError.
    """
    chosen = _chosen(only)
    files = {
        name: {role: (asset, assets.fetch(asset, offline=offline)) for role, asset in _files(entry).items()}
        for name, entry in chosen.items()
    }
    rank, batches = Rank.from_environment(), []
    with process_group(rank):
        for name, entry in chosen.items():
            paths = {role: path for role, (_, path) in files[name].items()}
            with measuring() as progress:
                result = evaluate(
                    paths["samples"],
                    paths["reference"],
                    protocol=entry.about["protocol"],
                    inception=paths["weights"],
                    device=device,
                    batch_size=batch_size,
                    progress=progress,
                )
            if result is not None:
                batches.append(_batch(entry, files[name], result))
    if rank.index > 0:
        return None
    return Certificate(batches=tuple(batches), date=datetime.now(UTC).isoformat(timespec="seconds"))


def _chosen(only: str | None) -> Mapping[str, assets.Asset]:
    known = assets.manifest("reference_stats", "certificates.toml")
    if only is None:
        return known
    if only not in known:
        raise UsageError(f"no published batch is called {only!r} (there are: {', '.join(known)}).")
    return {only: known[only]}


def _files(entry: assets.Asset) -> dict[str, assets.Asset]:
    """What the numbers of one batch are made from."""
    return {
        "weights": assets.lookup("models", protocol_named(entry.about["protocol"]).weights),
        "reference": assets.lookup("reference_stats", entry.about["reference"]),
        "samples": entry,
    }


def _batch(entry: assets.Asset, files: Mapping[str, tuple[assets.Asset, Path]], result: Result) -> Batch:
    published, tolerance = entry.about["published"], entry.about["tolerance"]
    return Batch(
        name=entry.name,
        findings=tuple(
            Finding(
                metric=metric,
                published=published[metric],
                found=result.metrics.get(metric),
                tolerance=tolerance[metric],
            )
            for metric in METRICS
            if metric in published
        ),
        files={
            role: {"name": path.name, "url": next(iter(asset.urls), "bundled"), "sha256": assets.sha256(path)}
            for role, (asset, path) in files.items()
        },
        result=result,
    )


def _cells(each: Finding) -> list[str]:
    metric = METRICS[each.metric]
    return [
        f"    {metric.title}" if metric.parent else f"  {metric.title}",
        f"{each.published:.5f}",
        "absent" if each.found is None else f"{each.found:.5f}",
        "" if each.difference is None else f"{each.difference:+.5f}",
        f"{each.tolerance:g}",
        each.verdict,
    ]
