"""Table 2 of the DiT paper, with rows of one's own beside the paper's.

A result stands beside the paper's rows if it measures the same thing: protocol, weights of the network,
reference, size and number of images. Any other stands apart, with the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dit_eval.errors import ResultError
from dit_eval.report.terminal import render_text
from dit_eval.results.comparability import differences_from_papers
from dit_eval.results.published import Published, architecture, published_results
from dit_eval.results.result import Result, short_count

TITLE = "Class-conditional ImageNet 256×256, Peebles & Xie 2023, table 2"
IMAGE_SIZE, NUM = 256, 50_000  # of the paper's rows

COLUMNS = {  # metric → heading and digits after the point, as the paper prints them
    "fid": ("FID↓", 2),
    "sfid": ("sFID↓", 2),
    "inception_score": ("IS↑", 2),
    "precision": ("Prec.↑", 2),
    "recall": ("Rec.↑", 2),
}

_REASONS = {  # what differs from the papers → why a row stands apart
    "protocol": "protocol {here}, not {there}",
    "network": "custom weights of the feature network",
    "reference": "measured against {here}, not {there}",
    "samples.size": "images of {here[0]}×{here[1]}, not {there[0]}×{there[1]}",
    "samples.n": "{here:,} images, not {there:,}",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    n: images behind the FID; paper: the paper's row of the same model and guidance; reasons: why it cannot
    stand beside the paper's.
    """

    name: str
    n: int
    metrics: Mapping[str, float]
    paper: Published | None = None
    reasons: tuple[str, ...] = ()

    def cells(self) -> dict[str, str]:
        """Every metric as printed, by name; a dash where there is none."""
        return {
            name: f"{self.metrics[name]:.{digits}f}" if name in self.metrics else "–"
            for name, (_, digits) in COLUMNS.items()
        }

    def differences(self) -> dict[str, str]:
        """Ours less the paper's, of the metrics that both have."""
        theirs = self.paper.metrics if self.paper else {}
        return {
            name: f"{self.metrics[name] - theirs[name]:+z.{digits}f}"
            for name, (_, digits) in COLUMNS.items()
            if name in theirs and name in self.metrics
        }


@dataclass(frozen=True, kw_only=True)
class Table2:
    """The paper's rows, ours beside them and ours apart; `protocol` says what ours measure."""

    paper: tuple[Row, ...]
    ours: tuple[Row, ...]
    apart: tuple[Row, ...]
    protocol: str

    @property
    def title(self) -> str:
        """What the rows have measured: as the paper where one of ours has, too."""
        return TITLE if self.ours or not self.apart else f"Measured by protocol {self.protocol.split()[0]}"

    def reasons(self) -> list[str]:
        """A sentence for the rows that stand apart, one for each set of reasons."""
        names: dict[tuple[str, ...], list[str]] = {}
        for row in self.apart:
            names.setdefault(row.reasons, []).append(row.name)
        return [
            f"Not comparable with the paper's rows: {', '.join(some)} ({'; '.join(reasons)})."
            for reasons, some in names.items()
        ]

    def text(self, width: int = 80, colour: bool = False, paper: bool = True) -> str:
        """The table for a terminal of `width` columns; paper: with the paper's rows even if none compares."""
        with_paper = paper or bool(self.ours)
        table = Table(title=TITLE if with_paper else self.title, title_justify="left", box=SIMPLE_HEAD)
        table.add_column("model", overflow="fold")
        table.add_column("n", justify="right", no_wrap=True)
        for heading, _ in COLUMNS.values():
            table.add_column(heading, justify="right", no_wrap=True)
        for rows in (self.paper if with_paper else (), self.ours, self.apart):
            for row in rows:
                table.add_row(row.name, short_count(row.n), *row.cells().values())
                if differences := row.differences():
                    cells = (differences.get(name, "") for name in COLUMNS)
                    table.add_row("  less the paper's", "", *cells, style="dim")
            table.add_section()
        ours = [f"Ours by protocol {self.protocol}; n: images behind the FID."] if self.protocol else []
        return render_text(table, *ours, *self.reasons(), width=width, colour=colour)


def table2(results: Sequence[Result]) -> Table2:
    """The table with these results. Raises ResultError if they are of more than one protocol."""
    protocols = {f"{each.protocol['name']} {each.protocol['fingerprint']}": each for each in results}
    if len(protocols) > 1:
        one, other = list(protocols)[:2]
        raise ResultError(
            f"{protocols[one].samples['path']} was measured by protocol {one} and "
            f"{protocols[other].samples['path']} by {other}; one table holds numbers of one protocol. "
            "Leave one of them out, or measure it again."
        )
    rows = [_row(result) for result in results]
    return Table2(
        paper=tuple(
            Row(name=each.label, n=each.num, metrics=each.metrics)
            for each in published_results().values()
            if each.source.endswith("table 2")
        ),
        ours=tuple(row for row in rows if not row.reasons),
        apart=tuple(row for row in rows if row.reasons),
        protocol=next(iter(protocols), ""),
    )


def paper_row(result: Result) -> Published | None:
    """The published row of the same architecture, image size, guidance and sampler."""
    plan = result.samples.get("plan")
    if not plan:
        return None
    key = (architecture(plan["model"]), plan["image_size"], plan["cfg"], plan["sampler"])
    for each in published_results().values():
        if each.model and key == (each.model, each.image_size, each.cfg, each.sampler):
            return each
    return None


def _row(result: Result) -> Row:
    reasons = tuple(
        _REASONS[field].format(here=here, there=there)
        for field, (here, there) in differences_from_papers(result, IMAGE_SIZE, NUM).items()
    )
    paper = None if reasons else paper_row(result)
    return Row(name=result.name, n=result.samples["n"], metrics=result.metrics, paper=paper, reasons=reasons)
