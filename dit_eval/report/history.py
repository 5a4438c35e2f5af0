"""Metrics against the training step, with their 95 % intervals as bands and bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from dit_eval.errors import UsageError
from dit_eval.report.figures import STYLE, shorten, style_cycle
from dit_eval.report.plots import save_figure
from dit_eval.results.compare import Comparison, Group, Row
from dit_eval.results.metric_names import METRICS
from dit_eval.results.names import series_names

COLUMNS = 3  # panels beside each other
_PANEL = (3.1, 2.3)  # inches
_LOG_RATIO = 10  # of the largest to the smallest value on a logarithmic axis


def plot_history(path: Path, comparison: Comparison) -> Path:
    """Write a figure with a panel for each metric and a curve for each training run; returns the path.

    Each group of the comparison has a block of panels. Raises UsageError unless two different training steps
    are known, and ResultError if the file cannot be written.
    """
    rows = [row for group in comparison.groups for row in group.rows if row.training.step is not None]
    if len({row.training.step for row in rows}) < 2:
        raise UsageError(
            "a plot against the training step needs results of two different steps. Name the steps in the "
            'labels or the files, e.g. --label "step 400000" or step-400000.json.'
        )
    figure = draw_history([group for group in comparison.groups if _curves(group)])
    return save_figure(path, figure)


def draw_history(groups: Sequence[Group]) -> Figure:
    """The figure; every group has a result with a training step."""
    heights = [math.ceil((len(group.targets) + 1) / COLUMNS) for group in groups]  # panels and legend
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(COLUMNS * _PANEL[0], sum(heights) * _PANEL[1]), layout="constrained")
        blocks = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
        for block, height, group in zip(blocks, heights, groups, strict=True):
            _draw_group(block, block.subplots(height, COLUMNS, squeeze=False).ravel(), group)
    return figure


def _draw_group(figure: SubFigure, panels: Sequence[Axes], group: Group) -> None:
    """A panel for each metric, the legend in the next one."""
    figure.suptitle(f"{group.subject}; bands and bars: 95 % intervals", x=0.01, ha="left", fontsize=9)
    number = len(group.targets)
    for axes, metric in zip(panels[:number], group.targets, strict=True):
        for (name, rows), style in zip(_curves(group).items(), style_cycle(), strict=False):
            _draw_curve(axes, metric, rows, {**style, "label": shorten(name)})
        axes.set(ylabel=METRICS[metric].title, xlabel="training step")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 400k
        axes.locator_params(axis="x", nbins=5)
        use_log_scale(axes)
    panels[number].legend(*panels[0].get_legend_handles_labels(), loc="upper left", borderpad=0)
    for axes in panels[number:]:
        axes.set_axis_off()


def _curves(group: Group) -> dict[str, list[Row]]:
    """The rows with a training step by run, sorted by step."""
    rows = [row for row in group.rows if row.training.step is not None]
    bases = [row.training.run or row.knobs.get("plan.model", "samples") for row in rows]
    names = series_names(bases, [row.result for row in rows], within=["plan.weights"])
    curves: dict[str, list[Row]] = {}
    for name, row in sorted(zip(names, rows, strict=True), key=lambda named: named[1].training.step or 0):
        curves.setdefault(name, []).append(row)
    return curves


def _draw_curve(axes: Axes, metric: str, rows: Sequence[Row], style: dict[str, Any]) -> None:
    """A line with error bars and, behind it, the band between their ends."""
    rows = [row for row in rows if metric in row.result.metrics]
    steps = [float(row.training.step or 0) for row in rows]
    values = np.array([row.result.metrics[metric] for row in rows])
    ends = [row.result.intervals.get(metric, {}) for row in rows]
    low, high = (
        np.array([end.get(side, value) for end, value in zip(ends, values, strict=True)])
        for side in ("low", "high")
    )
    axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    errors = np.maximum([values - low, high - values], 0)
    axes.errorbar(steps, values, errors, linewidth=1.4, elinewidth=0.8, capsize=2, markersize=4, **style)


def use_log_scale(axes: Axes) -> None:
    """A logarithmic y-axis with plain numbers, if everything is positive and spans more than a decade."""
    low, high = axes.dataLim.intervaly
    if 0 < low * _LOG_RATIO < high:
        axes.set_yscale("log")
        label_plainly(axes.yaxis)


def label_plainly(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis: 1, 2, 5, 10, …, or round ones within a decade."""
    low, high = axis.get_data_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 10 * low else MaxNLocator(4))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
