"""The table from which the DiT paper argues: what each architecture costs, beside the paper's own figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from rich.table import Table

from dit_eval.cost.counter import FlopCount, count_decoder, count_flops
from dit_eval.dit import BLOCKS, DIT
from dit_eval.report.terminal import dense_table, render_text
from dit_eval.results.published import published_gflops

Format = Literal["text", "markdown", "csv", "json"]

NAMES = ("model", "block")  # headings of what a row is about; the others are numbers
STEPS = 250  # of the paper's sampler
GUIDANCE = 2  # forward passes in a guided step
CONVENTION = (
    "MACs: multiply-adds in one forward pass of one image, the paper's “Gflops”; FLOPs count both. "
    "Guidance doubles a step and is not in them. "
    f"Per image: {STEPS} steps and the VAE's decoder."
)


@dataclass(frozen=True, kw_only=True)
class FlopRow:
    """One architecture: its cost, and the paper's figure where it gives one."""

    model: str
    block: str
    image_size: int
    count: FlopCount
    published: Decimal | None  # 1e9 MACs, as printed

    @property
    def difference(self) -> float | None:
        """Our figure less the paper's, in 1e9 MACs."""
        return None if self.published is None else self.count.macs / 1e9 - float(self.published)

    def per_image(self, passes: int) -> int:
        """MACs of a sampled image, with this many forward passes in a step."""
        return STEPS * passes * self.count.macs + count_decoder(self.image_size).macs

    def note(self) -> str | None:
        """Why the figure, rounded as the paper's, is not the paper's; None if it is."""
        if self.published is None or _rounded(self.count.macs, self.published) == self.published:
            return None
        ours = f"{self.count.macs / 1e9:.2f} G, {self.difference:+.2f} against the paper's {self.published}"
        norms = self.count.layer_norm
        with_norms = f"{(self.count.macs + norms) / 1e9:.2f}"
        agrees = _rounded(self.count.macs + norms, self.published) == self.published
        verdict = "which rounds to the paper's" if agrees else "which does not explain it"
        return (
            f"{self.model} {self.block} at {self.image_size}: {ours}. With LayerNorm as fvcore counts it, "
            f"4 or 5 per element (+{norms / 1e9:.2f}), it is {with_norms}, {verdict}."
        )

    def record(self) -> dict[str, Any]:
        """The row as numbers, by name."""
        kinds = {f"{kind}_macs": macs for kind, macs in self.count.by_operator.items()}
        return {
            "model": self.model,
            "block": self.block,
            "image_size": self.image_size,
            "params": self.count.params,
            "macs": self.count.macs,
            "flops": self.count.flops,
            **kinds,
            "paper_gmacs": None if self.published is None else float(self.published),
            "difference_gmacs": self.difference,
            "macs_per_image": self.per_image(1),
            "macs_per_guided_image": self.per_image(GUIDANCE),
        }

    def names(self) -> dict[str, str]:
        """What the row is about, by heading."""
        return dict(zip(NAMES, (f"DiT-{self.model}", self.block), strict=True))

    def costs(self) -> dict[str, str]:
        """What it costs, by heading."""
        return {
            "params M": f"{self.count.params / 1e6:.1f}",
            "MACs G": f"{self.count.macs / 1e9:.2f}",
            "paper": "" if self.published is None else str(self.published),
            "diff.": "" if self.difference is None else f"{self.difference:+z.2f}",
            "FLOPs G": f"{self.count.flops / 1e9:.2f}",
            "image T": f"{self.per_image(1) / 1e12:.2f}",
            "guided T": f"{self.per_image(GUIDANCE) / 1e12:.2f}",
        }

    def kinds(self) -> dict[str, str]:
        """Of what its MACs are made, in 1e9, by heading."""
        return {name: f"{macs / 1e9:.3f}" for name, macs in self.count.by_operator.items()}


def flop_rows(*, image_size: int = 256, block: str = "adaln-zero") -> list[FlopRow]:
    """The twelve architectures with one block, or XL/2 with each block for "all".

    Raises UsageError for an unknown block or an image size that does not divide.
    """
    chosen = [("XL/2", each) for each in BLOCKS] if block == "all" else [(model, block) for model in DIT]
    published = published_gflops()
    return [
        FlopRow(
            model=model,
            block=block,
            image_size=image_size,
            count=count_flops(model, image_size=image_size, block=block),
            published=published.get((model, block, image_size)),
        )
        for model, block in chosen
    ]


def render(rows: Sequence[FlopRow], style: Format) -> str:
    """The rows as tables in text or Markdown, with notes below, or as numbers in CSV or JSON."""
    notes = [CONVENTION, *filter(None, (row.note() for row in rows))]
    records = [row.record() for row in rows]
    if style == "json":
        return json.dumps({"rows": records, "notes": notes}, indent=2, ensure_ascii=False)
    if style == "csv":
        stream = io.StringIO()
        writer = csv.DictWriter(stream, records[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return stream.getvalue().rstrip()
    return _markdown(rows, notes) if style == "markdown" else _text(rows, notes)


def _text(rows: Sequence[FlopRow], notes: Sequence[str]) -> str:
    """Two tables for 80 columns; what all rows have in common is said above them."""
    names = [row.names() for row in rows]
    common = [value for head, value in names[0].items() if all(each[head] == value for each in names)]
    own = [{head: value for head, value in each.items() if value not in common} for each in names]
    costs = [name | row.costs() for name, row in zip(own, rows, strict=True)]
    kinds = [name | row.kinds() for name, row in zip(own, rows, strict=True)]
    size = rows[0].image_size
    title = f"{', '.join(common)}, images of {size}×{size}"
    return render_text(title, _table(costs), "MACs by kind, G", _table(kinds), *notes)


def _table(rows: Sequence[dict[str, str]]) -> Table:
    table = dense_table()
    for head in rows[0]:
        table.add_column(head, justify="left" if head in NAMES else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    return table


def _markdown(rows: Sequence[FlopRow], notes: Sequence[str]) -> str:
    cells = [row.names() | row.costs() | row.kinds() for row in rows]
    rule = ["---" if head in NAMES else "---:" for head in cells[0]]
    lines = [list(cells[0]), rule, *(list(row.values()) for row in cells)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *(f"- {note}" for note in notes)])


def _rounded(macs: int, like: Decimal) -> Decimal:
    return (Decimal(macs) / 10**9).quantize(like)
