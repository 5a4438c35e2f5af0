"""The figures of a report: quality against guidance and cost, precision against recall.

One colour for each model; the papers' own points are hollow and grey.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from dit_eval.errors import ResultError
from dit_eval.published import Published, published_gflops, published_results
from dit_eval.results import Result, short_count
from dit_eval.table2 import IMAGE_SIZE, table2

INK = "#161b22"  # text and axes; becomes the page's own text colour in an SVG
PAPER = "#8b949e"
PALETTE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe & Ito: safe for every eye
SIZE = (4.4, 3.3)  # inches: about 1:1 on a phone
STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "dit-eval",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measured or published batch: what the figures draw of it. gflops: multiply-adds, in 1e9."""

    series: str
    published: bool
    cfg: float
    metrics: Mapping[str, float]
    gflops: float | None


def figures(results: Sequence[Result]) -> dict[str, Figure]:
    """The figures that these results can fill, by name.

    Results without a plan (samples that `dit-eval sample` did not draw) are in none of them. The papers'
    points are there where they measure the same; against cost they always are.
    Raises ResultError for results of more than one protocol.
    """
    ours = [_measured(result) for result in results if "plan" in result.samples]
    if not ours:
        return {}
    published = [row for row in published_results().values() if row.model]
    alike = [row for row in published if row.image_size == IMAGE_SIZE] if table2(results).ours else []
    drawn = {}
    with matplotlib.rc_context(STYLE):
        for name, (draw, whatever_was_measured) in FIGURES.items():
            theirs = map(_as_published, published if whatever_was_measured else alike)
            figure = Figure(figsize=SIZE, layout="constrained")
            axes = figure.add_subplot()
            draw(axes, [*theirs, *ours])
            axes.margins(0.12)
            axes.legend()
            drawn[name] = figure
    return drawn


def save_figures(folder: Path, results: Sequence[Result]) -> list[Path]:
    """Write every figure to `folder` as NAME.png; their paths.

    Raises ResultError if there is nothing to draw, or if the folder cannot be written.
    """
    drawn = figures(results)
    if not drawn:
        raise ResultError(
            "none of these results says which model and guidance it measures. "
            "Plot results of batches that `dit-eval sample` drew, with their JSON beside them."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            figure.savefig(folder / f"{name}.png", dpi=160, facecolor="white")
    except OSError as error:
        raise ResultError(f"{folder} cannot be written: {error.strerror or error}.") from None
    return [folder / f"{name}.png" for name in drawn]


def svg(figure: Figure) -> str:
    """A figure as an SVG element for a page: text as text, in the page's colour, and no ids that clash."""
    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    element = stream.getvalue()
    element = element[element.index("<svg") :].replace(INK, "currentColor")
    element = re.sub(r"\s*<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    return re.sub(r' id="[a-z0-9.]+_\d+"', "", element)


def _fid_against_guidance(axes: Axes, points: Sequence[Point]) -> None:
    _against_guidance(axes, points, "fid", "FID ↓")


def _score_against_guidance(axes: Axes, points: Sequence[Point]) -> None:
    _against_guidance(axes, points, "inception_score", "Inception score ↑")


def _against_guidance(axes: Axes, points: Sequence[Point], metric: str, label: str) -> None:
    for series, style in _series(points):
        some = sorted((point.cfg, point.metrics[metric]) for point in series if metric in point.metrics)
        if some:
            axes.plot(*zip(*some, strict=True), **style)
    axes.set(xlabel="guidance scale", ylabel=label)


def _precision_against_recall(axes: Axes, points: Sequence[Point]) -> None:
    for series, style in _series(points):
        some = sorted(
            (p.cfg, p.metrics["recall"], p.metrics["precision"]) for p in series if "recall" in p.metrics
        )
        if not some:
            continue
        axes.plot([recall for _, recall, _ in some], [precision for *_, precision in some], **style)
        for cfg, recall, precision in some:
            _note(axes, cfg, (recall, precision), series[0].published)
    axes.set(xlabel="Recall ↑", ylabel="Precision ↑")
    axes.locator_params(nbins=6)


def _fid_against_cost(axes: Axes, points: Sequence[Point]) -> None:
    for series, style in _series(points):
        some = sorted((p.gflops, p.metrics["fid"], p.cfg) for p in series if p.gflops and "fid" in p.metrics)
        if not some:
            continue
        axes.plot([cost for cost, *_ in some], [fid for _, fid, _ in some], **{**style, "linestyle": "none"})
        for cost, fid, cfg in some:
            _note(axes, cfg, (cost, fid), series[0].published)
    axes.set(xscale="log", yscale="log", xlabel="Gflops (multiply-adds) of a forward pass", ylabel="FID ↓")
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_data_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _note(axes: Axes, cfg: float, point: tuple[float, float], published: bool) -> None:
    """The guidance scale at a point: ours to the right, the papers' to the left."""
    axes.annotate(
        f"{cfg:g}",
        point,
        xytext=(-5, -3) if published else (5, 1),
        textcoords="offset points",
        fontsize=7,
        color=PAPER if published else INK,
        horizontalalignment="right" if published else "left",
    )


def _series(points: Sequence[Point]) -> Iterator[tuple[list[Point], dict[str, Any]]]:
    """The points of one name, and how they are drawn."""
    colours = cycle(PALETTE)
    for name in dict.fromkeys(point.series for point in points):
        some = [point for point in points if point.series == name]
        style = {"label": name, "marker": "o", "markersize": 5, "linewidth": 1.4}
        if some[0].published:
            style |= {"color": PAPER, "markerfacecolor": "none", "linestyle": "--", "linewidth": 1}
        else:
            style["color"] = next(colours)
        yield some, style


FIGURES: dict[str, tuple[Callable[[Axes, Sequence[Point]], None], bool]] = {
    # name → how it is drawn, and whether the papers' points belong in it whatever was measured
    "fid-guidance": (_fid_against_guidance, False),
    "is-guidance": (_score_against_guidance, False),
    "precision-recall": (_precision_against_recall, False),
    "fid-gflops": (_fid_against_cost, True),
}


def _measured(result: Result) -> Point:
    plan = result.samples["plan"]
    return Point(
        series=f"{plan['model']}, {short_count(result.samples['n'])} images",
        published=False,
        cfg=plan["cfg"],
        metrics=result.metrics,
        gflops=result.samples["macs"] / 1e9,
    )


def _as_published(row: Published) -> Point:
    assert row.model is not None
    assert row.cfg is not None
    cost = published_gflops().get((row.model.split("-")[1], "adaln-zero", row.image_size))
    return Point(
        series=f"{row.model} at {row.image_size}, as published",
        published=True,
        cfg=row.cfg,
        metrics=row.metrics,
        gflops=float(cost) if cost is not None else None,
    )
