"""The cost of each architecture next to the figures of the DiT paper."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from rich.table import Table

from dit_eval.cost.counter import FlopCount, count_decoder, count_flops
from dit_eval.dit import BLOCKS, DIT
from dit_eval.report.terminal import csv_text, dense_table, render_text
from dit_eval.results.published import published_gflops

Format = Literal["text", "markdown", "csv", "json"]

LABELS = ("model", "block")  # headings of columns that are not numbers
STEPS = 250  # sampling steps in the paper
GUIDED_PASSES = 2  # forward passes per guided step
CONVENTION = (
    "MACs: multiply-adds of a forward pass of one image without guidance, the paper's “Gflops”; FLOPs: twice "
    f"that. image, guided: sampling one image with {STEPS} steps and the VAE's decoder, without and with "
    "guidance."
)


@dataclass(frozen=True, kw_only=True)
class FlopRow:
    """The cost of an architecture. published: the paper's figure as printed, in 1e9 MACs, if it gives one."""

    model: str
    block: str
    image_size: int
    count: FlopCount
    published: Decimal | None

    @property
    def difference(self) -> float | None:
        """MACs minus the paper's figure, in 1e9."""
        return None if self.published is None else self.count.macs / 1e9 - float(self.published)

    def per_image(self, passes: int) -> int:
        """MACs of sampling an image, with this many forward passes per step."""
        return STEPS * passes * self.count.macs + count_decoder(self.image_size).macs

    def note(self) -> str | None:
        """An explanation if the rounded figure differs from the paper's, else None."""
        if self.published is None or _rounded(self.count.macs, self.published) == self.published:
            return None
        macs, norms = self.count.macs, self.count.layer_norm
        agrees = _rounded(macs + norms, self.published) == self.published
        conclusion = (
            "which rounds to the paper's figure" if agrees else "which does not explain the difference"
        )
        return (
            f"{self.model} {self.block} at {self.image_size}: {macs / 1e9:.2f} G, {self.difference:+z.2f} "
            f"against the paper's {self.published}. With fvcore's count for LayerNorm, 4 or 5 per element "
            f"(+{norms / 1e9:.2f}), it is {(macs + norms) / 1e9:.2f}, {conclusion}."
        )

    def record(self) -> dict[str, Any]:
        """The row as exact numbers by name."""
        return {
            "model": self.model,
            "block": self.block,
            "image_size": self.image_size,
            "params": self.count.params,
            "macs": self.count.macs,
            "flops": self.count.flops,
            **{f"{operator}_macs": macs for operator, macs in self.count.by_operator.items()},
            "paper_gmacs": None if self.published is None else float(self.published),
            "difference_gmacs": self.difference,
            "macs_per_image": self.per_image(1),
            "macs_per_guided_image": self.per_image(GUIDED_PASSES),
        }

    def labels(self) -> dict[str, str]:
        """Model and block by heading."""
        return dict(zip(LABELS, (f"DiT-{self.model}", self.block), strict=True))

    def costs(self) -> dict[str, str]:
        """Formatted costs by heading."""
        return {
            "params M": f"{self.count.params / 1e6:.1f}",
            "MACs G": f"{self.count.macs / 1e9:.2f}",
            "paper": "" if self.published is None else str(self.published),
            "diff.": "" if self.difference is None else f"{self.difference:+z.2f}",
            "FLOPs G": f"{self.count.flops / 1e9:.2f}",
            "image T": f"{self.per_image(1) / 1e12:.2f}",
            "guided T": f"{self.per_image(GUIDED_PASSES) / 1e12:.2f}",
        }

    def macs_by_operator(self) -> dict[str, str]:
        """MACs in 1e9 by operator."""
        return {name: f"{macs / 1e9:.3f}" for name, macs in self.count.by_operator.items()}


def flop_rows(*, image_size: int = 256, block: str = "adaln-zero") -> list[FlopRow]:
    """The twelve architectures with one block, or XL/2 with every block for "all".

    Raises UsageError for an unknown block or an image size that a model cannot process.
    """
    variants = [("XL/2", name) for name in BLOCKS] if block == "all" else [(name, block) for name in DIT]
    published = published_gflops()
    return [
        FlopRow(
            model=model,
            block=block,
            image_size=image_size,
            count=count_flops(model, image_size=image_size, block=block),
            published=published.get((model, block, image_size)),
        )
        for model, block in variants
    ]


def render(rows: Sequence[FlopRow], style: Format) -> str:
    """The rows as text or Markdown tables with notes, or as exact numbers in CSV or JSON."""
    notes = [CONVENTION, *filter(None, (row.note() for row in rows))]
    records = [row.record() for row in rows]
    if style == "json":
        return json.dumps({"rows": records, "notes": notes}, indent=2, ensure_ascii=False)
    if style == "csv":
        return csv_text(records)
    return _markdown(rows, notes) if style == "markdown" else _text(rows, notes)


def _text(rows: Sequence[FlopRow], notes: Sequence[str]) -> str:
    """Two tables for 80 columns, below a title with the model or block that all rows share."""
    labels = [row.labels() for row in rows]
    shared = [cell for cell in labels[0].values() if all(cell in cells.values() for cells in labels)]
    labels = [{heading: cell for heading, cell in cells.items() if cell not in shared} for cells in labels]
    costs = [cells | row.costs() for cells, row in zip(labels, rows, strict=True)]
    operators = [cells | row.macs_by_operator() for cells, row in zip(labels, rows, strict=True)]
    size = rows[0].image_size
    title = f"{', '.join(shared)}, images of {size}×{size}"
    return render_text(title, _table(costs), "MACs by operator, G", _table(operators), *notes)


def _table(rows: Sequence[dict[str, str]]) -> Table:
    table = dense_table()
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading in LABELS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    return table


def _markdown(rows: Sequence[FlopRow], notes: Sequence[str]) -> str:
    cells = [row.labels() | row.costs() | row.macs_by_operator() for row in rows]
    rule = ["---" if heading in LABELS else "---:" for heading in cells[0]]
    lines = [list(cells[0]), rule, *(list(row.values()) for row in cells)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *(f"- {note}" for note in notes)])


def _rounded(macs: int, published: Decimal) -> Decimal:
    """MACs in 1e9 with as many digits as the published figure."""
    return (Decimal(macs) / 10**9).quantize(published)
