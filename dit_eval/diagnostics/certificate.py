"""Certificates: numbers found on this machine beside published or recorded ones, as JSON and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dit_eval.report.terminal import dense_table, render_text
from dit_eval.results.metric_names import METRICS

SCHEMA = 1

Kind = Literal["published", "recorded"]
_MEASURES = (
    "Differences are relative; those of features are of L2 norms, those of networks and chains the largest "
    "over the largest value. Those of softmax, precision and recall are absolute."
)
_SECTION = {"published": "batches", "recorded": "checks"}  # what the JSON calls the groups


@dataclass(frozen=True, kw_only=True)
class CertifiedNumber:
    """A number as expected and as found (None if it could not be computed), and the accepted difference.

    expected, found: the numbers themselves, the norm or the largest value of arrays, or a SHA-256; measure:
    of the difference, see `recorded.comparison`, or "" for found minus expected.
    """

    name: str
    expected: float | str
    found: float | str | None
    difference: float | None
    tolerance: float
    measure: str = ""

    @property
    def outcome(self) -> Literal["holds", "off", "absent"]:
        """Whether the difference is within the tolerance; NaN is not."""
        if self.difference is None:
            return "absent"
        return "holds" if abs(self.difference) <= self.tolerance else "off"

    def to_json(self, kind: Kind) -> dict[str, Any]:
        """As JSON values, without the name; NaN and infinity as null."""
        values = {kind: self.expected, "found": self.found, "difference": self.difference}
        return {
            **{name: _finite(value) for name, value in values.items()},
            "tolerance": self.tolerance,
            **({"measure": self.measure} if self.measure else {}),
            "verdict": self.outcome,
        }


def subtracted(name: str, expected: float, found: float | None, tolerance: float) -> CertifiedNumber:
    """A number whose difference is found minus expected."""
    return CertifiedNumber(
        name=name,
        expected=expected,
        found=found,
        difference=None if found is None else found - expected,
        tolerance=tolerance,
    )


@dataclass(frozen=True, kw_only=True)
class CertifiedGroup:
    """The numbers of a published batch or of a check. details: further keys of its JSON."""

    name: str
    numbers: tuple[CertifiedNumber, ...]
    details: Mapping[str, Any]

    def to_json(self, kind: Kind) -> dict[str, Any]:
        """As JSON values."""
        numbers = {number.name: number.to_json(kind) for number in self.numbers}
        return {"name": self.name, "numbers": numbers, **self.details}


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """All groups, with the date (UTC, ISO 8601).

    kind: "published" for ADM's batches, "recorded" for the numbers in the package; environment: machine and
    versions of a recorded one (a published batch has them in its result).
    """

    kind: Kind
    groups: tuple[CertifiedGroup, ...]
    date: str
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[str, ...]:
        """The numbers that do not hold, as `group number`."""
        return tuple(
            f"{group.name} {number.name}"
            for group in self.groups
            for number in group.numbers
            if number.outcome != "holds"
        )

    @property
    def holds(self) -> bool:
        """True if every number holds."""
        return not self.failed

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with `"schema": 1`."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "date": self.date,
            "holds": self.holds,
            **({"environment": self.environment} if self.environment else {}),
            _SECTION[self.kind]: [group.to_json(self.kind) for group in self.groups],
        }

    def table(self, width: int = 80) -> str:
        """A row per number, followed by a sentence that names those that do not hold."""
        table = dense_table()
        table.add_column({"published": "batch, metric", "recorded": "check, number"}[self.kind], no_wrap=True)
        for heading in (self.kind, "found", "difference", "tolerance"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for group in self.groups:
            table.add_row(group.name)
            for number in group.numbers:
                table.add_row(*_cells(number))
            table.add_section()
        outcome = f"Does not hold: {', '.join(self.failed)}." if self.failed else "Every number holds."
        return render_text(table, *self._notes(), outcome, width=width)

    def _notes(self) -> list[str]:
        """How to read a recorded certificate, and its machine and versions."""
        if not self.environment:
            return []
        return [_MEASURES, "", "; ".join(f"{name} {value}" for name, value in self.environment.items()), ""]


def _cells(number: CertifiedNumber) -> list[str]:
    metric = METRICS.get(number.name)
    indent = "    " if metric and metric.parent else "  "
    return [
        indent + (metric.title if metric else number.name),
        _number(number.expected, number),
        "absent" if number.found is None else _number(number.found, number),
        _difference(number),
        f"{number.tolerance:.2g}",
        number.outcome,
    ]


def _number(value: float | str, number: CertifiedNumber) -> str:
    if isinstance(value, str):
        return value[:8] + "…"
    return f"{value:.7g}" if number.measure else f"{value:z.5f}"


def _difference(number: CertifiedNumber) -> str:
    if number.difference is None:
        return ""
    if number.measure:
        return f"{number.difference:.1e}" if number.difference else "0"
    return f"{number.difference:+z.5f}"


def _finite(value: float | str | None) -> float | str | None:
    return value if not isinstance(value, float) or math.isfinite(value) else None
