"""The figure of a search: the metric against each varied setting, and quality against cost.

A value is that of the winner plus the difference from the winner on the same images, the most that both have:
values of other numbers of images would have another bias. Bands and bars: intervals of these differences that
hold for the whole search together with 95 % confidence. Dropped candidates are grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dit_eval.report.figures import INK, PALETTE, PUBLISHED, STYLE
from dit_eval.report.history import label_plainly, use_log_scale
from dit_eval.report.plots import save_figure
from dit_eval.search.outcome import Candidate, Sweep
from dit_eval.search.settings import show

_PANEL = (3.6, 3.3)  # inches
_MOST_TICKS = 9
_COLORS = {"winner": PALETTE[1], "tied": PALETTE[0], "dropped": PUBLISHED}
_MARKERS = {"winner": "*", "tied": "o", "dropped": "o"}


def plot_sweep(path: Path, sweep: Sweep) -> Path:
    """Write the figure in the format of the suffix and return the path. Raises ResultError."""
    names = [name for name, values in sweep.search["vary"].items() if len(values) > 1]
    with_cost = all(candidate.gflops for candidate in sweep.candidates)
    count = len(names) + with_cost
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_PANEL[0] * count, _PANEL[1]), layout="constrained")
        panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=False):
            _draw_setting(axes, name, sweep)
        if with_cost:
            _draw_cost(panels[-1], sweep)
        panels[0].set_ylabel(sweep.metric.title)
        figure.suptitle(
            f"Winner's value on {sweep.winner.n:,} images plus the difference from it on the same images",
            x=0.01,
            ha="left",
            fontsize="medium",
        )
        use_log_scale(panels[0])
        handles = [
            panels[0].plot([], [], _MARKERS[verdict], color=color, label=verdict)[0]
            for verdict, color in _COLORS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        return save_figure(path, figure)


def _draw_setting(axes: Axes, name: str, sweep: Sweep) -> None:
    """All candidates; a line with a band through those that differ from the winner in this setting alone."""
    values, winner = sweep.search["vary"][name], sweep.winner
    positions = _positions(values)
    if positions is None:
        positions = list(map(float, range(len(values))))
    if len(values) <= _MOST_TICKS:
        axes.set_xticks(positions, labels=list(map(show, values)))
    place = dict(zip(map(show, values), positions, strict=True))
    line = sorted(
        (found for found in sweep.candidates if _others(found, name) == _others(winner, name)),
        key=lambda found: place[show(found.values[name])],
    )
    x = [place[show(found.values[name])] for found in line]
    y = np.array([_value(found, winner, sweep) for found in line])
    half_widths = np.array([found.relative.half_width for found in line])
    axes.fill_between(x, y - half_widths, y + half_widths, color=PALETTE[0], alpha=0.15, linewidth=0)
    axes.plot(x, y, color=PALETTE[0], linewidth=1.2)
    for found in reversed(sweep.candidates):  # the winner above the others
        _draw_candidate(axes, place[show(found.values[name])], found, sweep)
    axes.set(xlabel=name)
    axes.margins(0.08)


def _draw_cost(axes: Axes, sweep: Sweep) -> None:
    """All candidates against their cost, and the front: those than which no cheaper one is better."""
    for found in reversed(sweep.candidates):
        _draw_candidate(axes, found.gflops or 0.0, found, sweep)
    by_cost = sorted(sweep.candidates, key=lambda found: (found.gflops, _value(found, sweep.winner, sweep)))
    values = [_value(found, sweep.winner, sweep) for found in by_cost]
    best = accumulate(values, min if sweep.metric.lower_is_better else max)
    front = [
        (found.gflops, value) for found, value, top in zip(by_cost, values, best, strict=True) if value == top
    ]
    axes.step(*zip(*front, strict=True), where="post", color=INK, linewidth=0.9, linestyle=":", zorder=1)
    axes.set(xscale="log", xlabel="Gflops (multiply-adds) per image; dotted: Pareto front")
    label_plainly(axes.xaxis)


def _draw_candidate(axes: Axes, x: float, found: Candidate, sweep: Sweep) -> None:
    color = _COLORS[found.verdict]
    axes.errorbar(
        x,
        _value(found, sweep.winner, sweep),
        found.relative.half_width or None,
        color=color,
        marker=_MARKERS[found.verdict],
        markersize=10 if found.verdict == "winner" else 4.5,
        elinewidth=0.8,
        capsize=2,
        linestyle="none",
    )


def _value(found: Candidate, winner: Candidate, sweep: Sweep) -> float:
    return winner.result.metrics[sweep.search["metric"]] + found.relative.difference


def _others(found: Candidate, name: str) -> dict[str, str]:
    """The values of the other settings."""
    return {key: show(value) for key, value in found.values.items() if key != name}


def _positions(values: Sequence[object]) -> list[float] | None:
    """The values as numbers; None if they are not."""
    try:
        return [float(str(value)) for value in values]
    except ValueError:
        return None
