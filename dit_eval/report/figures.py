"""The figures of a report: metrics against guidance and cost, precision against recall.

One colour per model; published points are hollow and grey.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, product
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from dit_eval.results.metric_names import METRICS
from dit_eval.results.published import Published, published_gflops, published_results
from dit_eval.results.result import Result, short_count
from dit_eval.results.table2 import IMAGE_SIZE, table2

INK = "#161b22"  # text and axes; replaced by the page's text colour in an SVG
PUBLISHED = "#8b949e"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito: colour-blind safe
MARKERS = ("o", "^", "s", "D")
SIZE = (4.4, 3.3)  # inches, about the width of a phone
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
class PlotPoint:
    """A measured or published batch. gflops: 1e9 multiply-adds per forward pass."""

    series: str
    published: bool
    cfg: float
    metrics: Mapping[str, float]
    gflops: float

    def value(self, name: str) -> float:
        """A metric, `cfg` or `gflops`."""
        return self.metrics[name] if name in METRICS else getattr(self, name)


def figures(results: Sequence[Result]) -> dict[str, Figure]:
    """The figures for which there are at least two points, by name.

    Results without a plan (samples not made by `dit-eval sample`) are in none of them. Published points are
    included if a result is comparable with them; against cost they always are. Raises ResultError for results
    of different protocols.
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
    """Draw one of FIGURES, without a legend; False if the results do not suffice. Raises as `figures`."""
    panel = FIGURES[name]
    measured = [_measured_point(result) for result in results if "plan" in result.samples]
    comparable = bool(table2(results).comparable)
    published = [
        _published_point(row)
        for row in published_results().values()
        if row.model and (panel.always_published or (comparable and row.image_size == IMAGE_SIZE))
    ]
    points = [point for point in (*published, *measured) if panel.metrics <= point.metrics.keys()]
    if len(points) < 2 or all(point.published for point in points):
        return False
    panel.draw(axes, points)
    axes.margins(0.12)
    return True


def svg(figure: Figure) -> str:
    """A figure as an SVG element for a page: text as text, in the page's colour, without conflicting ids."""
    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    element = stream.getvalue()
    element = element[element.index("<svg") :].replace(INK, "currentColor")
    element = re.sub(r"\s*<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    return re.sub(r' id="[a-z0-9.]+_\d+"', "", element)


def _against_guidance(metric: str, axes: Axes, points: Sequence[PlotPoint]) -> None:
    _plot(axes, points, "cfg", metric)
    axes.set(xlabel="guidance scale", ylabel=METRICS[metric].title)


def _precision_against_recall(axes: Axes, points: Sequence[PlotPoint]) -> None:
    _plot(axes, points, "recall", "precision", annotate=True)
    axes.set(xlabel=METRICS["recall"].title, ylabel=METRICS["precision"].title)
    axes.locator_params(nbins=6)


def _fid_against_cost(axes: Axes, points: Sequence[PlotPoint]) -> None:
    _plot(axes, points, "gflops", "fid", annotate=True, linestyle="none")
    axes.set(xscale="log", yscale="log", ylabel=METRICS["fid"].title)
    axes.set(xlabel="Gflops (multiply-adds) of a forward pass")
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_data_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _plot(
    axes: Axes, points: Sequence[PlotPoint], x: str, y: str, annotate: bool = False, **overrides: Any
) -> None:
    """A line per series; annotate: with guidance scales, right of measured and left of published points."""
    for series, style in _series(points):
        positions = [(point.value(x), point.value(y)) for point in series]
        axes.plot(*zip(*positions, strict=True), **style | overrides)
        for point, position in zip(series, positions, strict=True) if annotate else ():
            axes.annotate(
                f"{point.cfg:g}",
                position,
                xytext=(-5, -3) if point.published else (5, 1),
                textcoords="offset points",
                fontsize=7,
                color=PUBLISHED if point.published else INK,
                horizontalalignment="right" if point.published else "left",
            )


def _series(points: Sequence[PlotPoint]) -> Iterator[tuple[list[PlotPoint], dict[str, Any]]]:
    """The points of each series, sorted by guidance scale, and their style."""
    styles = style_cycle()
    for name in dict.fromkeys(point.series for point in points):
        series = sorted((point for point in points if point.series == name), key=lambda point: point.cfg)
        style = {"label": name, "marker": "o", "markersize": 5, "linewidth": 1.4}
        if series[0].published:
            style |= {"color": PUBLISHED, "markerfacecolor": "none", "linestyle": "--", "linewidth": 1}
        else:
            style |= next(styles)
        yield series, style


def style_cycle() -> Iterator[dict[str, Any]]:
    """Styles that differ by colour and, once all colours are used, by marker too."""
    for marker, color in cycle(product(MARKERS, PALETTE)):
        yield {"color": color, "marker": marker}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """How to draw a figure, the metrics it needs, and whether published points are always included."""

    draw: Callable[[Axes, Sequence[PlotPoint]], None]
    metrics: frozenset[str]
    always_published: bool = False


FIGURES = {
    "fid-guidance": Panel(draw=partial(_against_guidance, "fid"), metrics=frozenset({"fid"})),
    "is-guidance": Panel(
        draw=partial(_against_guidance, "inception_score"), metrics=frozenset({"inception_score"})
    ),
    "precision-recall": Panel(draw=_precision_against_recall, metrics=frozenset({"precision", "recall"})),
    "fid-gflops": Panel(draw=_fid_against_cost, metrics=frozenset({"fid"}), always_published=True),
}


def _measured_point(result: Result) -> PlotPoint:
    plan = result.samples["plan"]
    return PlotPoint(
        series=f"{plan['model']}, {short_count(result.samples['n'])} images",
        published=False,
        cfg=plan["cfg"],
        metrics=result.metrics,
        gflops=result.samples["macs"] / 1e9,
    )


def _published_point(row: Published) -> PlotPoint:
    assert row.model is not None
    assert row.cfg is not None
    gflops = published_gflops()[row.model.split("-")[1], "adaln-zero", row.image_size]  # SiT has DiT's cost
    return PlotPoint(
        series=f"{row.model} at {row.image_size}, as published",
        published=True,
        cfg=row.cfg,
        metrics=row.metrics,
        gflops=float(gflops),
    )
