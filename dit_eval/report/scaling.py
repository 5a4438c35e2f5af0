"""The scaling figure of the DiT paper: cost against parameters and, given results, FID against cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dit_eval.errors import ResultError, UsageError
from dit_eval.report.figures import INK, STYLE, draw_figure
from dit_eval.report.plots import save_figure
from dit_eval.results.names import labels_by_name
from dit_eval.results.result import Result
from dit_eval.results.table2 import table2

if TYPE_CHECKING:
    from dit_eval.cost.table import FlopRow


def plot_scaling(out: Path, rows: Sequence[FlopRow], results: Sequence[Result] = ()) -> Path:
    """Write Gflops against parameters and, given results, FID against Gflops to `out` (.png, .svg, .pdf).

    rows: the costs of the twelve models at one image size; results: with samples made by `dit-eval sample`,
    which records their cost; those that cannot be compared are in different panels. Returns `out`. Raises
    UsageError for another suffix, and ResultError for results without cost or FID or if `out` cannot be
    written.
    """
    if out.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{out}: plots are written as .png, .svg or .pdf.")
    for result in results:
        _require_cost(result)
    tables, labels = table2(results).tables, labels_by_name(results)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * (1 + len(tables)), 4.2), layout="constrained")
        first, *others = figure.subplots(1, 1 + len(tables), squeeze=False)[0]
        _cost_against_parameters(first, rows)
        for axes, table in zip(others, tables, strict=True):
            draw_figure("fid-gflops", axes, table.results, labels)
            axes.set_title(f"Quality against cost\n{table.subject}", loc="left", fontsize="medium")
        return save_figure(out, figure)


def _require_cost(result: Result) -> None:
    if not {"plan", "macs"} <= result.samples.keys() or "fid" not in result.metrics:
        raise ResultError(
            f"the result of {result.samples['path']} does not record its model, or has no FID. Plot results "
            "of batches made by `dit-eval sample`, with the JSON file that it writes next to them."
        )


def _cost_against_parameters(axes: Axes, rows: Sequence[FlopRow]) -> None:
    for row in rows:
        position = row.count.params / 1e6, row.count.macs / 1e9
        axes.plot(*position, "o", color=INK, markersize=5)
        axes.annotate(row.model, position, xytext=(6, 3), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="parameters (millions)", ylabel="Gflops (multiply-adds)")
    sizes = sorted({round(row.count.params / 1e6) for row in rows if row.model.endswith("/2")})
    axes.set_xticks(sizes, labels=map(str, sizes))
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.15)
    axes.set_title("Cost against size", loc="left")
