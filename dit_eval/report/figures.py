"""The figures of a report: quality against guidance and cost, precision against recall.

One colour for each model; the papers' own points are hollow and grey.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from dit_eval.results.published import Published, published_gflops, published_results
from dit_eval.results.result import Result, short_count
from dit_eval.results.table2 import IMAGE_SIZE, table2

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
MARKERS = ("o", "^", "s", "D")
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
    gflops: float


def figures(results: Sequence[Result]) -> dict[str, Figure]:
    """The figures that these results can fill, by name.

    Results without a plan (samples that `dit-eval sample` did not draw) are in none of them, and a figure of
    one point is none. The papers' points are there where they measure the same; against cost they always are.
    Raises ResultError for results of more than one protocol.
    """
    drawn = {}
    with matplotlib.rc_context(STYLE):
        for name in FIGURES:
            figure = Figure(figsize=SIZE, layout="constrained")
            axes = figure.add_subplot()
            if draw_figure(name, axes, results):
                axes.legend()
                drawn[name] = figure
    return drawn


def draw_figure(name: str, axes: Axes, results: Sequence[Result]) -> bool:
    """Draw one of FIGURES, without a legend; False if these results do not fill it. Raises as `figures`."""
    panel = FIGURES[name]
    ours = [_measured(result) for result in results if "plan" in result.samples]
    published = [row for row in published_results().values() if row.model]
    alike = [row for row in published if row.image_size == IMAGE_SIZE] if table2(results).ours else []
    theirs = [_as_published(row) for row in (published if panel.always_published else alike)]
    points = [point for point in (*theirs, *ours) if panel.metrics <= point.metrics.keys()]
    if len(points) < 2 or all(point.published for point in points):
        return False
    panel.draw(axes, points)
    axes.margins(0.12)
    return True


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
        axes.plot([point.cfg for point in series], [point.metrics[metric] for point in series], **style)
    axes.set(xlabel="guidance scale", ylabel=label)


def _precision_against_recall(axes: Axes, points: Sequence[Point]) -> None:
    for series, style in _series(points):
        places = [(point.metrics["recall"], point.metrics["precision"]) for point in series]
        _line(axes, series, places, style)
    axes.set(xlabel="Recall ↑", ylabel="Precision ↑")
    axes.locator_params(nbins=6)


def _fid_against_cost(axes: Axes, points: Sequence[Point]) -> None:
    for series, style in _series(points):
        places = [(point.gflops, point.metrics["fid"]) for point in series]
        _line(axes, series, places, {**style, "linestyle": "none"})
    axes.set(xscale="log", yscale="log", xlabel="Gflops (multiply-adds) of a forward pass", ylabel="FID ↓")
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_data_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _line(
    axes: Axes, series: Sequence[Point], places: Sequence[tuple[float, float]], style: dict[str, Any]
) -> None:
    """A series with its guidance scales: ours to the right of a point, the papers' to the left."""
    axes.plot(*zip(*places, strict=True), **style)
    for point, place in zip(series, places, strict=True):
        axes.annotate(
            f"{point.cfg:g}",
            place,
            xytext=(-5, -3) if point.published else (5, 1),
            textcoords="offset points",
            fontsize=7,
            color=PAPER if point.published else INK,
            horizontalalignment="right" if point.published else "left",
        )


def _series(points: Sequence[Point]) -> Iterator[tuple[list[Point], dict[str, Any]]]:
    """The points of one name by rising guidance, and how they are drawn."""
    looks = style_cycle()
    for name in dict.fromkeys(point.series for point in points):
        some = sorted((point for point in points if point.series == name), key=lambda point: point.cfg)
        style = {"label": name, "marker": "o", "markersize": 5, "linewidth": 1.4}
        if some[0].published:
            style |= {"color": PAPER, "markerfacecolor": "none", "linestyle": "--", "linewidth": 1}
        else:
            style |= next(looks)
        yield some, style


def style_cycle() -> Iterator[dict[str, Any]]:
    """How one thing after another is drawn so that each is known by its colour, then by its marker too."""
    for marker, colour in cycle(product(MARKERS, PALETTE)):
        yield {"color": colour, "marker": marker}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A figure: how it is drawn, of which metrics, and if the papers' points belong there in any case."""

    draw: Callable[[Axes, Sequence[Point]], None]
    metrics: frozenset[str]
    always_published: bool = False


FIGURES = {
    "fid-guidance": Panel(draw=_fid_against_guidance, metrics=frozenset({"fid"})),
    "is-guidance": Panel(draw=_score_against_guidance, metrics=frozenset({"inception_score"})),
    "precision-recall": Panel(draw=_precision_against_recall, metrics=frozenset({"precision", "recall"})),
    "fid-gflops": Panel(draw=_fid_against_cost, metrics=frozenset({"fid"}), always_published=True),
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
    cost = published_gflops()[row.model.split("-")[1], "adaln-zero", row.image_size]  # SiT's are DiT's
    return Point(
        series=f"{row.model} at {row.image_size}, as published",
        published=True,
        cfg=row.cfg,
        metrics=row.metrics,
        gflops=float(cost),
    )
