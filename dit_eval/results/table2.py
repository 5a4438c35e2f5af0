"""Table 2 of the DiT paper with further rows.

A result is listed with the paper's rows if it measures the same thing: protocol, weights of the network,
reference, size and number of images. Others are listed separately, with the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dit_eval.errors import ResultError
from dit_eval.report.terminal import render_text
from dit_eval.results.comparability import differences_from_papers
from dit_eval.results.metric_names import HEADLINE, METRICS
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
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    n: number of images; paper: the paper's row of the same model and guidance; reasons: why the result is not
    comparable with the paper's rows.
    """

    name: str
    n: int
    metrics: Mapping[str, float]
    paper: Published | None = None
    reasons: tuple[str, ...] = ()

    def cells(self) -> dict[str, str]:
        """Every headline metric as printed, by name; a dash if it is missing."""
        return {
            name: f"{self.metrics[name]:.{METRICS[name].column_digits}f}" if name in self.metrics else "–"
            for name in HEADLINE
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
class Table2:
    """The paper's rows, the results comparable with them, and the others; protocol: of all results."""

    paper: tuple[Row, ...]
    comparable: tuple[Row, ...]
    others: tuple[Row, ...]
    protocol: str

    @property
    def title(self) -> str:
        """The paper's title if a result is comparable with it or if there is none, else the protocol."""
        if self.comparable or not self.others:
            return TITLE
        return f"Measured with protocol {self.protocol.split()[0]}"

    def reasons(self) -> list[str]:
        """A sentence for each set of reasons, with the rows that are not comparable because of it."""
        names: dict[tuple[str, ...], list[str]] = {}
        for row in self.others:
            names.setdefault(row.reasons, []).append(row.name)
        return [
            f"Not comparable with the paper's rows: {', '.join(rows)} ({'; '.join(reasons)})."
            for reasons, rows in names.items()
        ]

    def text(self, width: int = 80, paper: bool = True) -> str:
        """The table for a terminal; paper: with the paper's rows even if no result is comparable."""
        with_paper = paper or bool(self.comparable)
        table = Table(title=TITLE if with_paper else self.title, title_justify="left", box=SIMPLE_HEAD)
        table.add_column("model", overflow="fold")
        for heading in ("n", *(METRICS[name].column_title for name in HEADLINE)):
            table.add_column(heading, justify="right", no_wrap=True)
        for rows in (self.paper if with_paper else (), self.comparable, self.others):
            for row in rows:
                table.add_row(row.name, short_count(row.n), *row.cells().values())
                if differences := row.differences():
                    cells = (differences.get(name, "") for name in HEADLINE)
                    table.add_row("  minus the paper's", "", *cells)
            table.add_section()
        legend = [f"Results measured with protocol {self.protocol}; n: number of images."]
        return render_text(table, *(legend if self.protocol else ()), *self.reasons(), width=width)


def table2(results: Sequence[Result]) -> Table2:
    """The table with these results. Raises ResultError if they were measured with different protocols."""
    paths: dict[str, str] = {}
    for result in results:
        protocol = f"{result.protocol['name']} {result.protocol['fingerprint']}"
        paths.setdefault(protocol, result.samples["path"])
    if len(paths) > 1:
        measured = " and ".join(f"{path} with protocol {protocol}" for protocol, path in paths.items())
        raise ResultError(
            f"a table holds results of a single protocol, but {measured} were given. Leave one out, or "
            "evaluate it again."
        )
    rows = [_row(result) for result in results]
    return Table2(
        paper=tuple(
            Row(name=row.label, n=row.num, metrics=row.metrics)
            for row in published_results().values()
            if row.source.endswith("table 2")
        ),
        comparable=tuple(row for row in rows if not row.reasons),
        others=tuple(row for row in rows if row.reasons),
        protocol=next(iter(paths), ""),
    )


def paper_row(result: Result) -> Published | None:
    """The published row of the same architecture, image size, guidance and sampler."""
    plan = result.samples.get("plan")
    if not plan:
        return None
    key = (architecture(plan["model"]), plan["image_size"], plan["cfg"], plan["sampler"])
    for row in published_results().values():
        if row.model and key == (row.model, row.image_size, row.cfg, row.sampler):
            return row
    return None


def _row(result: Result) -> Row:
    reasons = tuple(
        _REASONS[field].format(result=value, paper=paper_value)
        for field, (value, paper_value) in differences_from_papers(result, IMAGE_SIZE, NUM).items()
    )
    paper = None if reasons else paper_row(result)
    return Row(name=result.name, n=result.samples["n"], metrics=result.metrics, paper=paper, reasons=reasons)
