"""Result: the numbers with their circumstances, as JSON and as a table.

A metric that could not be computed is absent, with the reason; it is never shown as 0.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dit_eval.errors import ResultError
from dit_eval.report.terminal import render_text

SCHEMA = 1
# The numbers of a list, which stand in one line; a string in JSON holds no line break.
_NUMBERS = re.compile(r"(?<=\[)\n[-+.\deE,\s]+(?=\])")

_CIRCUMSTANCES = {  # what no number goes without
    "protocol": ("name", "fingerprint", "weights"),
    "samples": ("path", "n", "size"),
    "reference": ("path",),
}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a number is called and which way is better."""

    title: str
    digits: int  # after the point, in the table
    parent: str = ""  # the headline metric that this one stands beside

    @property
    def lower_is_better(self) -> bool:
        """True for distances."""
        return self.title.endswith("↓")


METRICS = {
    "fid": Metric(title="FID ↓", digits=4),
    "fid_infinity": Metric(title="FID∞", digits=4, parent="fid"),
    "sfid": Metric(title="sFID ↓", digits=4),
    "inception_score": Metric(title="Inception score ↑", digits=4),
    "inception_score_order_free": Metric(title="order-free", digits=4, parent="inception_score"),
    "precision": Metric(title="Precision ↑", digits=4),
    "precision_float16": Metric(title="ADM's float16", digits=4, parent="precision"),
    "recall": Metric(title="Recall ↑", digits=4),
    "recall_float16": Metric(title="ADM's float16", digits=4, parent="recall"),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One evaluation.

    metrics: value by name, names of METRICS; against: what each was measured against; absent: the reason for
    each metric that is missing; protocol, samples, reference, environment: the circumstances; fingerprint: of
    those that change what the numbers mean; intervals: `se, low, high` of 95 % by metric; classes: how
    precision is made up of the samples' classes and recall of the reference's, where labels are there, as
    lists `label`, `n` and `inside` (what lies inside the other side's manifold of all classes, so it is not
    precision and recall of one class); influence: by metric, what each image does to it, which stays out of
    the JSON (`dit_eval.influence`).
    """

    metrics: Mapping[str, float]
    measured_against: Mapping[str, str]
    missing: Mapping[str, str]
    protocol: Mapping[str, Any]
    samples: Mapping[str, Any]
    reference: Mapping[str, Any]
    environment: Mapping[str, Any]
    warnings: tuple[str, ...] = field(default=())
    fingerprint: str = ""
    intervals: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    classes: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    influence: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> str:
        """The result as a JSON object with `"schema": 1`, its keys in a fixed order."""
        fields = asdict(replace(self, influence={}))
        del fields["influence"]
        text = json.dumps({"schema": SCHEMA, **fields}, indent=2, ensure_ascii=False)
        return _NUMBERS.sub(lambda found: " ".join(found[0].split()), text)

    @classmethod
    def from_json(cls, text: str) -> Result:
        """The inverse of `to_json`. Raises ResultError if the text is not a result of this schema."""
        try:
            fields = json.loads(text)
            schema = fields.pop("schema")
            fields["warnings"] = tuple(fields["warnings"])
            if schema == SCHEMA:
                result = cls(**fields)
                _ = [getattr(result, part)[key] for part, keys in _CIRCUMSTANCES.items() for key in keys]
                return result
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ResultError("not a result of dit-eval; expected the JSON that `--json` writes.") from None
        raise ResultError(f"a result of schema {schema}; this version reads schema {SCHEMA}.")

    @property
    def name(self) -> str:
        """What the samples are called in a table: model and guidance, or the file where these are unknown."""
        plan = self.samples.get("plan")
        return f"{plan['model']} (cfg={plan['cfg']:.2f})" if plan else Path(self.samples["path"]).name

    def _repr_html_(self) -> str:
        """The metrics as a table, for notebooks."""
        rows = [
            f"<tr><td>{metric.title}</td><td>{self.metrics[name]:.{metric.digits}f}</td>"
            f"<td>{escape(self.measured_against[name])}</td></tr>"
            for name, metric in METRICS.items()
            if name in self.metrics
        ]
        rows += [
            f"<tr><td>{METRICS[name].title}</td><td>absent</td><td>{escape(reason)}</td></tr>"
            for name, reason in self.missing.items()
        ]
        about = f"{self.name}: {self.samples['n']:,} images, protocol {self.protocol['name']}"
        head = "<tr><th>metric</th><th>value</th><th>measured against</th></tr>"
        fingerprint = self.protocol["fingerprint"]
        return f"<table><caption>{escape(about)} {fingerprint}</caption>{head}{''.join(rows)}</table>"

    def table(self, width: int = 80, colour: bool = False) -> str:
        """The result for a terminal of `width` columns."""
        return render_text(self._numbers(), self._circumstances(), width=width, colour=colour)

    def _numbers(self) -> Table:
        title = f"FID-{short_count(self.samples['n'])}, protocol {self.protocol['name']}"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        table.add_column("metric", no_wrap=True)
        table.add_column("value", justify="right", no_wrap=True)
        if self.intervals:
            table.add_column("± 95 %", justify="right", no_wrap=True)
        table.add_column("measured against", overflow="fold")
        for name, metric in METRICS.items():
            title = f"  {metric.title}" if metric.parent else metric.title
            if name in self.metrics:
                style = "dim" if metric.parent else "bold"
                value = f"{self.metrics[name]:.{metric.digits}f}"
                table.add_row(title, value, *self._reach(name), self.measured_against[name], style=style)
            elif name in self.missing:
                table.add_row(title, "absent", *self._reach(name), self.missing[name])
        return table

    def _reach(self, name: str) -> list[str]:
        """The cell of the column of intervals, where there is such a column."""
        if not self.intervals:
            return []
        ends = self.intervals.get(name)
        return [f"{(ends['high'] - ends['low']) / 2:.{METRICS[name].digits}f}" if ends else ""]

    def _circumstances(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, side in (("samples", self.samples), ("reference", self.reference)):
            grid.add_row(name, _describe_side(side))
        weights = self.protocol["weights"]
        mark = "" if weights["official"] else " (custom: not the numbers of the literature)"
        grid.add_row("network", f"{self.protocol['network']}, SHA-256 {weights['sha256'][:12]}…{mark}")
        whole = f", with samples and reference {self.fingerprint}" if self.fingerprint else ""
        grid.add_row("fingerprint", f"protocol {self.protocol['fingerprint']}{whole}")
        where = self.environment
        versions = f"dit-eval {where['dit_eval']}, torch {where['torch']}"
        grid.add_row("run", f"{versions}, {where['device']}, {where['seconds']:.1f} s")
        return grid


def read_result(path: Path) -> Result:
    """The result in a JSON file. Raises ResultError, naming the file, if there is none."""
    try:
        return Result.from_json(path.read_bytes().decode("utf-8", "replace"))
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from None


def write_result(path: Path, result: Result) -> None:
    """Write a result as JSON; it appears when it is whole. Raises ResultError if it cannot be written."""
    write_text(path, result.to_json() + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a small file that appears when it is whole. Raises ResultError if it cannot be written."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(path)
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def short_count(n: int) -> str:
    """A number of images as in "FID-50K"."""
    return f"{n // 1000}K" if n % 1000 == 0 else f"{n:,}"


def _describe_side(side: Mapping[str, Any]) -> str:
    parts = [str(side["path"])]
    if side.get("n") is not None:
        height, width = side["size"]
        parts.append(f"{side['n']:,} images of {height}×{width}")
    if side.get("statistics") == "stored":
        parts.append("stored statistics")
    if side.get("digest"):
        parts.append(f"SHA-256 {side['digest'][:12]}…")
    return ", ".join(parts)
