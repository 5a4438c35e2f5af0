"""Table 2 of the DiT paper with further rows.

Results share a table with the paper's rows, or with each other, only if `check` would compare them at equal
guidance. All others are in tables of their own, with the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dit_eval.report.terminal import dense_table, render_text
from dit_eval.results.comparability import (
    GUIDANCE_SCALE,
    comparable_groups,
    describe_measurement,
    differences,
    differences_from_papers,
)
from dit_eval.results.metric_names import HEADLINE, METRICS, columns
from dit_eval.results.names import with_distinct_names
from dit_eval.results.published import Published, architecture, published_results
from dit_eval.results.result import Result, short_count

TITLE = "Class-conditional ImageNet 256×256, Peebles & Xie 2023, table 2"
IMAGE_SIZE, NUM = 256, 50_000  # of the paper's rows

_REASONS = {  # field that differs from the papers → reason
    "protocol": "protocol {result}, not {paper}",
    "network": "custom weights of the feature network",
    "reference": "measured against {result}, not {paper}",
    "samples.size": "images of {result[0]}×{result[1]}, not {paper[0]}×{paper[1]}",
    "samples.n": "{result:,} images, not {paper:,}",
    "plan.cfg_channels": "guidance on {result} channels, not {paper}",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table.

    n: number of images; half_widths: of the 95 % intervals; paper: the paper's row of the same model and
    guidance.
    """

    name: str
    n: int
    metrics: Mapping[str, float]
    half_widths: Mapping[str, float]
    paper: Published | None = None

    def cells(self) -> dict[str, str]:
        """Every headline metric as printed, by name; a dash if it is missing."""
        return {
            name: METRICS[name].format_short(self.metrics[name]) if name in self.metrics else "–"
            for name in HEADLINE
        }

    def intervals(self) -> dict[str, str]:
        """Half of the 95 % interval, for the metrics that have one."""
        return {
            name: METRICS[name].format_half_width(self.half_widths[name])
            for name in HEADLINE
            if name in self.half_widths
        }

    def differences(self) -> dict[str, str]:
        """This row minus the paper's, for the metrics that both have."""
        paper = self.paper.metrics if self.paper else {}
        return {
            name: f"{self.metrics[name] - paper[name]:+z.{METRICS[name].column_digits}f}"
            for name in HEADLINE
            if name in paper and name in self.metrics
        }


@dataclass(frozen=True, kw_only=True)
class ComparableTable:
    """Results that can be compared with each other and, where there are any, with the paper's rows.

    subject: what they measure; notes: sentences on how, and what they cannot be compared with.
    """

    subject: str
    paper: tuple[Row, ...] = ()
    rows: tuple[Row, ...] = ()
    results: tuple[Result, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The paper's title or the subject."""
        return TITLE if self.paper else self.subject

    def text(self, width: int = 80) -> str:
        """The table for a terminal."""
        table = dense_table()
        table.title, table.title_justify = self.title, "left"
        table.add_column("model", overflow="fold")
        names = columns(row.metrics for row in self.rows)
        for heading in ("n", *(METRICS[name].column_title for name in names)):
            table.add_column(heading, justify="right", no_wrap=True)
        for rows in (self.paper, self.rows):
            for row in rows:
                table.add_row(row.name, short_count(row.n), *(row.cells()[name] for name in names))
                for label, cells in (("± 95 %", row.intervals()), ("minus the paper's", row.differences())):
                    if cells:
                        table.add_row(f"  {label}", "", *(cells.get(name, "") for name in names))
            table.add_section()
        return render_text(table, *self.notes, width=width)


@dataclass(frozen=True, kw_only=True)
class Table2:
    """The tables of all results, those with the paper's rows first."""

    tables: tuple[ComparableTable, ...]

    def text(self, width: int = 80, paper: bool = True) -> str:
        """The tables for a terminal; paper: with the paper's rows even if no result is comparable."""
        tables = self.tables
        if paper and not any(table.paper for table in tables):
            tables = (ComparableTable(subject="", paper=paper_rows()), *tables)
        return "\n\n".join(table.text(width) for table in tables)


def table2(results: Sequence[Result]) -> Table2:
    """The results in as few tables as comparability allows."""
    tables: list[ComparableTable] = []
    for group in comparable_groups(with_distinct_names(results)):
        tables.append(_table(group, tables))
    return Table2(tables=tuple(sorted(tables, key=lambda table: not table.paper)))


def paper_rows() -> tuple[Row, ...]:
    """The rows of the paper's table 2."""
    return tuple(
        Row(name=row.label, n=row.num, metrics=row.metrics, half_widths={})
        for row in published_results().values()
        if row.source.endswith("table 2")
    )


def paper_row(result: Result) -> Published | None:
    """The published row of the same architecture, image size, guidance and sampler."""
    plan = result.samples.get("plan")
    if not plan:
        return None
    key = (architecture(plan["model"]), plan["image_size"], plan.get("cfg"), plan["sampler"])
    for row in published_results().values():
        if row.model and key == (row.model, row.image_size, row.cfg, row.sampler):
            return row
    return None


def _table(results: Sequence[Result], others: Sequence[ComparableTable]) -> ComparableTable:
    """The table of comparable results; others: tables of results that are not comparable with them."""
    first = results[0]
    protocol, subject = first.protocol["name"], describe_measurement(first)
    notes = [
        f"Measured with protocol {protocol} {first.protocol['fingerprint']}; n: number of images; "
        "±: half of the 95 % confidence interval."
    ]
    reasons = dict.fromkeys(reason for result in results for reason in _reasons(result))
    if reasons:
        notes.append(f"Not comparable with table 2 of the DiT paper: {'; '.join(reasons)}.")
    for other in others:
        if other.subject == subject:
            different = differences(first, other.results[0], GUIDANCE_SCALE)
            notes.append(f"Not comparable with {other.results[0].name}: {'; '.join(different)}.")
    return ComparableTable(
        subject=subject,
        paper=() if reasons else paper_rows(),
        rows=tuple(_row(result, None if reasons else paper_row(result)) for result in results),
        results=tuple(results),
        notes=tuple(notes),
    )


def _reasons(result: Result) -> list[str]:
    """Why the result is not comparable with the paper's rows."""
    found = differences_from_papers(result, IMAGE_SIZE, NUM)
    return [_REASONS[field].format(result=value, paper=paper) for field, (value, paper) in found.items()]


def _row(result: Result, paper: Published | None) -> Row:
    return Row(
        name=result.name,
        n=result.samples["n"],
        metrics=result.metrics,
        half_widths={
            name: width for name in result.intervals if (width := result.half_width(name)) is not None
        },
        paper=paper,
    )
