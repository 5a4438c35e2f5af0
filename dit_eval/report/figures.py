"""The figures of a report: metrics against guidance and cost, precision against recall, every result.

One colour per model, bars for 95 % intervals; published points are hollow and grey. More models than there
are colours have a panel each, with the others in grey behind it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from types import MappingProxyType
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from dit_eval.results.comparability import GUIDANCE_SCALE, differences_from_published
from dit_eval.results.metric_names import HEADLINE, METRICS
from dit_eval.results.names import curve_names
from dit_eval.results.published import Published, published_gflops, published_results
from dit_eval.results.result import Result, short_count

INK = "#161b22"  # text and axes; replaced by the page's text colour in an SVG
PUBLISHED = "#8b949e"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito: colour-blind safe
MARKERS = ("o", "^", "s", "D")
LABEL_CHARACTERS = 36  # of a name that fit below a figure
PANEL_CHARACTERS = 32  # of a name that fit above one of two panels side by side
SIZE = (4.4, 3.6)  # inches, about the width of a phone
ROW = 0.24  # inches, of a result in a figure that has a row for each
PANEL_HEIGHT = 1.6  # inches
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
    "pdf.fonttype": 42,  # text remains text
    "svg.fonttype": "none",
    "svg.hashsalt": "dit-eval",
    "text.color": INK,
    "text.parse_math": False,  # names may contain $
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What a figure shows: a metric, `cfg` or `gflops` on each axis.

    annotate: with guidance scales; log: points without lines on logarithmic axes.
    """

    x: str
    y: str
    annotate: bool = False
    log: bool = False


FIGURES = {
    "fid-guidance": Panel(x="cfg", y="fid"),
    "is-guidance": Panel(x="cfg", y="inception_score"),
    "precision-recall": Panel(x="recall", y="precision", annotate=True),
    "fid-gflops": Panel(x="gflops", y="fid", annotate=True, log=True),
}
NO_LABELS: Mapping[str, str | None] = MappingProxyType({})
_AXIS_TITLES = {name: metric.title for name, metric in METRICS.items()} | {
    "cfg": "guidance scale",
    "gflops": "Gflops (multiply-adds) of a forward pass",
}


@dataclass(frozen=True, kw_only=True)
class PlotPoint:
    """A measured or published batch.

    cfg: None for models that sample images by themselves; intervals: ends of the 95 % intervals by metric;
    gflops: 1e9 multiply-adds per forward pass, None if they are not recorded.
    """

    series: str
    published: bool
    cfg: float | None
    metrics: Mapping[str, float]
    intervals: Mapping[str, Mapping[str, float]]
    gflops: float | None

    def value(self, name: str) -> float | None:
        """A metric, `cfg` or `gflops`; None if it is not known."""
        return self.metrics.get(name) if name in METRICS else getattr(self, name)

    def error(self, name: str) -> tuple[float, float]:
        """Distances from a value to the lower and the upper end of its interval, 0 if it has none."""
        ends = self.intervals.get(name)
        if ends is None:
            return 0.0, 0.0
        return max(self.metrics[name] - ends["low"], 0.0), max(ends["high"] - self.metrics[name], 0.0)


def figures(results: Sequence[Result], labels: Mapping[str, str | None] = NO_LABELS) -> dict[str, Figure]:
    """The figures that have at least two points, and two guidance scales or costs on their axis, by name.

    results: those of one table; those without a plan (samples not made by `dit-eval sample`) are only in the
    figures `METRIC-results`, which show every result. labels: those that the user gave, by the name of the
    result; they name the curves whose results share one. Published points are included if the results can be
    compared with them.
    """
    drawn = {}
    with matplotlib.rc_context(STYLE):
        for name, panel in FIGURES.items():
            points = _points(panel, results, labels)
            if len(points if panel.x in METRICS else {point.value(panel.x) for point in points}) > 1:
                drawn[name] = _figure(panel, points)
        for metric in HEADLINE:
            having = [result for result in results if metric in result.metrics]
            if len(having) > 1:
                drawn[f"{metric}-results"] = _draw_results(metric, having)
    return drawn


def draw_figure(name: str, axes: Axes, results: Sequence[Result], labels: Mapping[str, str | None]) -> None:
    """Draw one of FIGURES, whatever the number of models; nothing without a measured point."""
    if points := _points(FIGURES[name], results, labels):
        _draw_overlaid(axes, FIGURES[name], points)


def panels_of(figure: Figure, number: int) -> list[Axes]:
    """Panels in two columns with common axes, which the figure's height is made to fit."""
    rows = math.ceil(number / 2)
    figure.set_size_inches(SIZE[0], 0.4 + PANEL_HEIGHT * rows)
    panels = list(figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).flat)
    for axes in panels[number:]:
        axes.set_axis_off()
        panels[panels.index(axes) - 2].tick_params(labelbottom=True)  # now the lowest of its column
    return panels[:number]


def _points(panel: Panel, results: Sequence[Result], labels: Mapping[str, str | None]) -> list[PlotPoint]:
    """The published and the measured points of a figure; none without a measured one."""
    sampled = [result for result in results if "plan" in result.samples]
    names = curve_names(sampled, [labels.get(result.name) for result in sampled], within=["plan.cfg"])
    measured = _with_values(list(map(_measured_point, sampled, names)), panel)
    if not measured:
        return []
    return [*_with_values([_published_point(row) for row in _comparable_rows(results[0])], panel), *measured]


def _figure(panel: Panel, points: Sequence[PlotPoint]) -> Figure:
    """All series over each other or, if they are more than there are colours, a panel for each."""
    figure = Figure(figsize=SIZE, layout="constrained")
    if len({point.series for point in points if not point.published}) > len(PALETTE):
        _draw_panels(figure, panel, points)
    else:
        _draw_overlaid(figure.add_subplot(), panel, points)
    return figure


def _draw_overlaid(axes: Axes, panel: Panel, points: Sequence[PlotPoint]) -> None:
    for series, style in _series(points):
        _draw_series(axes, series, panel, style)
    axes.set(xlabel=_AXIS_TITLES[panel.x], ylabel=_AXIS_TITLES[panel.y])
    if panel.log:
        _set_log_scales(axes)
    else:
        axes.locator_params(nbins=6)
    axes.margins(0.12)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), borderpad=0)  # below, where no error bar is


def _draw_panels(figure: Figure, panel: Panel, points: Sequence[PlotPoint]) -> None:
    """A panel for each measured series, in front of all the others in grey."""
    drawn = list(_series(points))
    measured = [series for series, _ in drawn if not series[0].published]
    for axes, series in zip(panels_of(figure, len(measured)), measured, strict=True):
        for others, style in drawn:
            if others is not series:
                x, y = zip(*((point.value(panel.x), point.value(panel.y)) for point in others), strict=True)
                line = "none" if panel.log else style.get("linestyle", "-")
                axes.plot(x, y, linestyle=line, marker=".", color=PUBLISHED, alpha=0.4, linewidth=0.8)
        style = {"label": series[0].series, "marker": "o", "markersize": 4, "linewidth": 1.4}
        _draw_series(axes, series, panel, {**style, "color": PALETTE[0]})
        axes.set_title(shorten(series[0].series, PANEL_CHARACTERS), loc="left", fontsize=7.5)
        if panel.log:
            _set_log_scales(axes)
        else:
            axes.locator_params(nbins=4)
        axes.margins(0.12)
    figure.supxlabel(_AXIS_TITLES[panel.x], fontsize=9)
    figure.supylabel(_AXIS_TITLES[panel.y], fontsize=9)


def _draw_results(metric: str, results: Sequence[Result]) -> Figure:
    """A row for each result: its value and the 95 % interval."""
    figure = Figure(figsize=(SIZE[0], 0.7 + ROW * len(results)), layout="constrained")
    axes = figure.add_subplot()
    for row, result in enumerate(results):
        value, ends = result.metrics[metric], result.intervals.get(metric)
        if ends is not None:
            axes.hlines(row, ends["low"], ends["high"], color=PALETTE[0], linewidth=2, alpha=0.45)
        axes.plot(value, row, "o", color=PALETTE[0], markersize=5, label=result.name)
    axes.set_yticks(range(len(results)), labels=[shorten(result.name) for result in results])
    axes.set(xlabel=METRICS[metric].title, ylim=(len(results) - 0.4, -0.6))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=5)
    axes.margins(x=0.06)
    return figure


def _with_values(points: Sequence[PlotPoint], panel: Panel) -> list[PlotPoint]:
    """The points whose values on both axes are known."""
    return [point for point in points if None not in (point.value(panel.x), point.value(panel.y))]


def _comparable_rows(result: Result) -> list[Published]:
    """The published rows with which the result can be compared at equal guidance."""
    return [
        row
        for row in published_results().values()
        if row.model and not differences_from_published(result, row, GUIDANCE_SCALE)
    ]


def svg(figure: Figure) -> str:
    """A figure as an SVG element for a page: text as text, without conflicting ids.

    Its colours are the page's: the text's, and --series-1 … where the page defines them.
    """
    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    element = stream.getvalue()
    element = element[element.index("<svg") :].replace(INK, "currentColor")
    for number, color in enumerate(PALETTE, 1):
        element = element.replace(color, f"var(--series-{number}, {color})")
    element = re.sub(r"\s*<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    return re.sub(r' id="[a-z0-9.]+_\d+"', "", element)


def _draw_series(axes: Axes, points: Sequence[PlotPoint], panel: Panel, style: dict[str, Any]) -> None:
    """A line with error bars; guidance scales right of measured points and left of published ones."""
    if panel.log:
        style |= {"linestyle": "none"}
    positions = [(point.value(panel.x), point.value(panel.y)) for point in points]
    errors = {
        f"{axis}err": np.transpose([point.error(name) for point in points])
        for axis, name in (("x", panel.x), ("y", panel.y))
        if any(name in point.intervals for point in points)
    }
    x, y = zip(*positions, strict=True)
    axes.errorbar(x, y, **errors, elinewidth=0.8, capsize=2.5, **style)
    for point, position in zip(points, positions, strict=True) if panel.annotate else ():
        axes.annotate(
            "" if point.cfg is None else f"{point.cfg:g}",
            position,
            xytext=(-5, -3) if point.published else (5, 1),
            textcoords="offset points",
            fontsize=7,
            color=PUBLISHED if point.published else INK,
            horizontalalignment="right" if point.published else "left",
        )


def _set_log_scales(axes: Axes) -> None:
    """Logarithmic axes with plain numbers."""
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_data_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _series(points: Sequence[PlotPoint]) -> Iterator[tuple[list[PlotPoint], dict[str, Any]]]:
    """The points of each series, sorted by guidance scale, and their style."""
    styles = style_cycle()
    for name in dict.fromkeys(point.series for point in points):
        series = sorted((point for point in points if point.series == name), key=lambda point: point.cfg or 0)
        style = {"label": name, "marker": "o", "markersize": 5, "linewidth": 1.4}
        if series[0].published:
            style |= {"color": PUBLISHED, "markerfacecolor": "none", "linestyle": "--", "linewidth": 1}
        else:
            style |= next(styles)
        yield series, style


def shorten(name: str, characters: int = LABEL_CHARACTERS) -> str:
    """The name, cut at the front if it is longer than what fits."""
    return name if len(name) <= characters else f"…{name[1 - characters :]}"


def style_cycle() -> Iterator[dict[str, Any]]:
    """Styles that differ by colour and, once all colours are used, by marker too."""
    for marker, color in cycle(product(MARKERS, PALETTE)):
        yield {"color": color, "marker": marker}


def _measured_point(result: Result, name: str) -> PlotPoint:
    plan, macs = result.samples["plan"], result.samples.get("macs")
    return PlotPoint(
        series=f"{shorten(name)}, {short_count(result.samples['n'])} images",
        published=False,
        cfg=plan.get("cfg"),
        metrics=result.metrics,
        intervals=result.intervals,
        gflops=macs / 1e9 if macs else None,  # a plug-in in closed form costs nothing, which has no logarithm
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
        intervals={},
        gflops=float(gflops),
    )
