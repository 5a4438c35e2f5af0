"""Result: the numbers of one evaluation with their metadata, as JSON and as a table.

A metric that could not be computed is listed in `missing` with the reason; it is never shown as 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path
from textwrap import indent
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dit_eval.errors import ResultError
from dit_eval.io.files import write_text
from dit_eval.metrics.intervals import normal_quantile
from dit_eval.report.terminal import render_text
from dit_eval.results.influence import decode_influence, encode_influence
from dit_eval.results.metric_names import HEADLINE, METRICS, SHARE, MetricName, bounds
from dit_eval.results.protocol_record import upgraded_protocol
from dit_eval.results.result_schema import require_schema

SCHEMA = 1

_RENAMED = {"against": "measured_against", "absent": "missing"}  # keys of results that 0.1.0 wrote


@dataclass(frozen=True, kw_only=True, repr=False)
class Result:
    """The numbers of one evaluation, with their intervals and everything needed to repeat it.

    metrics: value by name, names of METRICS; measured_against: what each was measured against; missing: the
    reason for each metric that could not be computed; protocol, samples, reference, environment: metadata;
    fingerprint: of the metadata that change what the numbers mean; intervals: `se, low, high` of the 95 %
    interval by metric; classes: for precision the samples and for recall the reference images by class, where
    labels are known, as lists `label`, `n` and `inside` (how many lie inside the other set's manifold of all
    classes, so it is not the precision or recall of one class); influence: by metric, float32 arrays for
    paired comparisons (see `results.influence`); label: the name that the user gave; date: when it was
    computed, ISO 8601 in UTC; command: the command line that computed it, None from Python.

    >>> result.save("result.json").name
    'result.json'
    >>> dit_eval.Result.load("result.json")["fid"] == result["fid"]
    True
    >>> result
    Result('digits (cfg=1.50)', FID 56... ± ..., sFID ..., IS ..., Prec. ..., Rec. ..., n=64)
    """

    label: str | None = None
    date: str | None = field(default=None, compare=False)
    command: str | None = field(default=None, compare=False)
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
    influence: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def to_json(self) -> str:
        """The result as a JSON object with `"schema": 1`, its keys in a fixed order, influences last."""
        values = {key.name: getattr(self, key.name) for key in fields(self)}
        sections = {"schema": SCHEMA, **values, "influence": encode_influence(self.influence)}
        lines = []
        for key, value in sections.items():
            # One line for the lists of a thousand classes
            text = json.dumps(value, indent=None if key == "classes" else 2, ensure_ascii=False)
            lines.append(f"  {json.dumps(key)}: {indent(text, '  ').lstrip()}")
        return "{\n" + ",\n".join(lines) + "\n}"

    @classmethod
    def from_json(cls, text: str) -> Result:
        """The inverse of `to_json`. Raises ResultError if the text is not a result of this schema."""
        try:
            sections: dict[str, Any] = json.loads(text, parse_constant=_refuse)
            for old, new in _RENAMED.items():
                if old in sections:
                    sections[new] = sections.pop(old)
            schema = sections.pop("schema")
            if schema == SCHEMA:
                sections["warnings"] = tuple(sections["warnings"])
                sections["protocol"] = upgraded_protocol(sections["protocol"])
                sections["influence"] = decode_influence(sections.get("influence", {}))
                result = cls(**sections)
                _validate(result)
                return result
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ResultError("not a result of dit-eval; expected the JSON that `--json` writes.") from None
        raise ResultError(f"a result of schema {schema}; this version reads schema {SCHEMA}.")

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """The result in a JSON file. Raises ResultError, naming the file, if there is none."""
        return read_result(Path(path))

    def save(self, path: str | Path) -> Path:
        """Write the result as JSON, influences included; returns the path. Raises ResultError."""
        write_text(Path(path), self.to_json() + "\n")
        return Path(path)

    def scalars(self, prefix: str = "") -> dict[str, float]:
        """Every metric and, as NAME_half_width, half of its 95 % interval, for loggers of training runs.

        >>> result.scalars("eval/")
        {'eval/fid': 9.62, 'eval/fid_half_width': 0.11, …}
        """
        scalars = {}
        for name, value in self.metrics.items():
            scalars[prefix + name] = value
            if (half_width := self.half_width(name)) is not None:
                scalars[f"{prefix}{name}_half_width"] = half_width
        return scalars

    @property
    def name(self) -> str:
        """The label; without one, model and guidance of the samples, or their file name."""
        plan = self.samples.get("plan")
        if self.label:
            return self.label
        if not plan:
            return Path(self.samples["path"]).name
        cfg = plan.get("cfg")  # none for models that sample images by themselves
        return plan["model"] if cfg is None else f"{plan['model']} (cfg={cfg:.2f})"

    def half_width(self, metric: str) -> float | None:
        """Half of the 95 % interval, before its ends are cut to the metric's bounds; None without one.

        The score interval of a share needs no cut, and is not symmetric.
        """
        ends = self.intervals.get(metric)
        if ends is None:
            return None
        if bounds(metric) == SHARE:
            return (ends["high"] - ends["low"]) / 2
        return normal_quantile() * ends["se"]

    def __getitem__(self, metric: str) -> float:
        """The value of a metric. Raises KeyError, with the reason, for a missing one."""
        if metric not in self.metrics:
            known = f"no such metric; there are {', '.join(self.metrics)}"
            raise KeyError(f"{metric}: {self.missing.get(metric, known)}")
        return self.metrics[metric]

    def __repr__(self) -> str:
        """The name, the headline metrics with half of their intervals, and the number of images."""
        numbers = []
        for name in filter(self.metrics.__contains__, HEADLINE):
            metric, half_width = METRICS[name], self.half_width(name)
            interval = "" if half_width is None else f" ± {metric.format_half_width(half_width)}"
            numbers.append(f"{metric.column} {metric.format_short(self.metrics[name])}{interval}")
        return f"Result({', '.join([repr(self.name), *numbers])}, n={self.samples['n']:,})"

    def _repr_html_(self) -> str:
        """The metrics as a table with the warnings below it, for notebooks."""
        caption = f"{self.name}: {self.samples['n']:,} images, protocol {self.protocol['name']}"
        caption += f" {self.protocol['fingerprint']}"
        head = "".join(f"<th>{heading}</th>" for heading in self._headings())
        rows = ([metric.title, *cells] for metric, cells in self._rows())
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        warnings = "".join(f"<p>Warning: {escape(warning)}</p>" for warning in self.warnings)
        return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{body}</table>{warnings}"

    def table(self, width: int = 80) -> str:
        """The result for a terminal of `width` columns."""
        return render_text(self._metric_table(), self._metadata(), width=width)

    def _metric_table(self) -> Table:
        title = f"FID-{short_count(self.samples['n'])}, protocol {self.protocol['name']}"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        metric_heading, *number_headings, explanation_heading = self._headings()
        table.add_column(metric_heading, no_wrap=True)
        for heading in number_headings:
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column(explanation_heading, overflow="fold")
        for metric, cells in self._rows():
            table.add_row(f"  {metric.title}" if metric.parent else metric.title, *cells)
        return table

    def _headings(self) -> list[str]:
        return ["metric", "value", *(["± 95 %"] if self.intervals else []), "measured against"]

    def _rows(self) -> Iterator[tuple[MetricName, list[str]]]:
        """The cells of every metric; those of a missing one give the reason, once for it and its variants."""
        for name, metric in METRICS.items():
            if name in self.metrics:
                value, explanation = f"{self.metrics[name]:z.{metric.digits}f}", self.measured_against[name]
            elif name in self.missing and metric.parent not in self.missing:
                value, explanation = "absent", self.missing[name]
            else:
                continue
            yield metric, [value, *self._interval_cell(name), explanation]

    def _interval_cell(self, name: str) -> list[str]:
        """The cell of the interval column, if there is such a column."""
        if not self.intervals:
            return []
        half_width = self.half_width(name)
        return ["" if half_width is None else f"{half_width:.{METRICS[name].digits}f}"]

    def _metadata(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, section in (("samples", self.samples), ("reference", self.reference)):
            grid.add_row(name, _describe(section))
        weights = self.protocol["weights"]
        mark = "" if weights["official"] else " (custom: not the numbers of the literature)"
        grid.add_row("network", f"{self.protocol['network']}, SHA-256 {weights['sha256'][:12]}…{mark}")
        comparable = f", with samples and reference {self.fingerprint}" if self.fingerprint else ""
        grid.add_row("fingerprint", f"protocol {self.protocol['fingerprint']}{comparable}")
        run = self.environment
        versions = f"dit-eval {run['dit_eval']}, torch {run['torch']}"
        grid.add_row("run", f"{versions}, {run['device']}, {run['seconds']:.1f} s")
        return grid


def read_result(path: Path) -> Result:
    """The result in a JSON file. Raises ResultError, naming the file, if there is none."""
    try:
        return Result.from_json(path.read_bytes().decode("utf-8", "replace"))
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from None


def _validate(result: Result) -> None:
    """Raise ResultError for a number that is not finite, TypeError, KeyError or ValueError otherwise."""
    for name, value in result.metrics.items():
        _require_finite(name, value)
    for name, ends in result.intervals.items():
        for key in ("se", "low", "high"):
            _require_finite(f"{key} of the interval of {name}", ends[key])
    if not all(isinstance(warning, str) for warning in result.warnings):
        raise TypeError("warnings")
    require_schema(vars(result))


def _require_finite(name: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ResultError(f"{name} is {value}; every number of a result must be finite. Evaluate again.")


def _refuse(constant: str) -> float:
    raise ResultError(f"it contains {constant}; every number of a result must be finite. Evaluate again.")


def short_count(n: int) -> str:
    """A number of images as in "FID-50K"."""
    return f"{n // 1000}K" if n % 1000 == 0 else f"{n:,}"


def _describe(section: Mapping[str, Any]) -> str:
    parts = [str(section["path"])]
    if section.get("n") is not None:
        height, width = section["size"]
        parts.append(f"{section['n']:,} images of {height}×{width}")
    if section.get("statistics") == "stored":
        parts.append("stored statistics")
    if section.get("digest"):
        parts.append(f"SHA-256 {section['digest'][:12]}…")
    return ", ".join(parts)
