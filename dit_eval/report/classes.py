"""Precision and recall by class: every class if they are few, the lowest and the spread if they are many.

The share of a class is the fraction of its images inside the other set's manifold of all classes, its part of
the overall precision or recall. It is not precision or recall within the class, which would take many images
of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import bdtr
from scipy.stats import binomtest

from dit_eval.report.figures import INK, PANEL_CHARACTERS, SIZE, STYLE, panels_of, shorten, style_cycle
from dit_eval.results.metric_names import METRICS
from dit_eval.results.result import Result

MAX_NAMED_CLASSES = 20  # classes whose names fit below a figure
LOWEST = 10  # classes listed if there are more
MAX_OVERLAID = 3  # results whose classes can be told apart in one panel


@dataclass(frozen=True)
class ClassShare:
    """The share of one class with its 95 % interval, and the number of its images."""

    label: int
    share: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class ClassShares:
    """A metric of one result by class: arrays of labels, images per class, and images inside."""

    name: str
    labels: np.ndarray
    n: np.ndarray
    inside: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """Fraction inside, by class."""
        return self.inside / self.n

    @property
    def overall(self) -> float:
        """Fraction inside over all classes: the metric."""
        return self.inside.sum() / self.n.sum()

    @property
    def legend(self) -> str:
        """The metric and the name of the result."""
        return f"{self.overall:.3f}  {shorten(self.name)}"

    def intervals(self) -> np.ndarray:
        """The ends of the 95 % interval of each share: (classes, 2). Source: Wilson 1927."""
        counts = zip(self.inside.tolist(), self.n.tolist(), strict=True)
        return np.array([binomtest(*each).proportion_ci(method="wilson") for each in counts])

    def lowest(self, number: int = LOWEST) -> list[ClassShare]:
        """The classes that are surely low: those with the smallest upper ends of their intervals.

        A small share of few images may be chance, so that shares alone would list the smallest classes. Of a
        class with one image nothing is known.
        """
        intervals = self.intervals()
        order = [i for i in np.lexsort((self.labels, intervals[:, 1])).tolist() if self.n[i] > 1]
        return [
            ClassShare(int(self.labels[i]), float(self.shares[i]), *intervals[i].tolist(), n=int(self.n[i]))
            for i in order[:number]
        ]

    def expected_if_homogeneous(self) -> np.ndarray:
        """The sorted shares expected by chance if all classes had the same probability: (classes,).

        Given the other set, images fall inside independently, so that the count of a class is binomial.
        """
        sizes, classes = np.unique(self.n, return_counts=True)
        values = np.concatenate([np.arange(n + 1) / n for n in sizes])
        masses = [
            count * np.diff(bdtr(np.arange(n + 1), n, self.overall), prepend=0)
            for n, count in zip(sizes, classes, strict=True)
        ]
        order = np.argsort(values)
        cumulative = np.cumsum(np.concatenate(masses)[order])
        ranks = np.arange(len(self.n)) + 0.5
        return values[order][np.searchsorted(cumulative, ranks)]


def by_class(results: Sequence[Result]) -> dict[str, list[ClassShares]]:
    """Metric → shares of the results that have it by class; metrics that no result has are left out."""
    found: dict[str, list[ClassShares]] = {}
    for result in results:
        for metric, lists in result.classes.items():
            labels, n, inside = (np.array(lists[key]) for key in ("label", "n", "inside"))
            shares = ClassShares(name=result.name, labels=labels, n=n, inside=inside)
            found.setdefault(metric, []).append(shares)
    return found


def can_name_all(results: Sequence[ClassShares]) -> bool:
    """True if the classes are few enough to be named in a figure."""
    return len(_labels(results)) <= MAX_NAMED_CLASSES


def class_figures(results: Sequence[Result]) -> dict[str, Figure]:
    """`METRIC-classes` → figure, for the metrics that the results have by class."""
    drawn = {}
    with matplotlib.rc_context(STYLE):
        for metric, classes in by_class(results).items():
            draw = _draw_every_class if can_name_all(classes) else _draw_spread
            figure = Figure(figsize=(SIZE[0], SIZE[1] + 0.17 * len(classes)), layout="constrained")
            if len(classes) > MAX_OVERLAID:
                _draw_panels(figure, classes, draw)
                figure.supylabel(METRICS[metric].title, fontsize=9)
            else:
                axes = figure.add_subplot()
                draw(axes, classes, _labels(classes))
                axes.set(ylabel=METRICS[metric].title)
                figure.legend(loc="outside lower left", borderpad=0)
            drawn[f"{metric}-classes"] = figure
    return drawn


def _draw_panels(
    figure: Figure,
    results: Sequence[ClassShares],
    draw: Callable[[Axes, Sequence[ClassShares], np.ndarray], None],
) -> None:
    """A panel for each result; dotted: its share over all classes."""
    for axes, classes in zip(panels_of(figure, len(results)), results, strict=True):
        draw(axes, [classes], _labels(results))
        figure.supxlabel(axes.get_xlabel(), fontsize=9)
        axes.set(xlabel="")
        axes.axhline(classes.overall, color=INK, linestyle=":", linewidth=1)
        name = shorten(classes.name, PANEL_CHARACTERS - 7)
        axes.set_title(f"{classes.overall:.3f}  {name}", loc="left", fontsize=7.5)


def _draw_every_class(axes: Axes, results: Sequence[ClassShares], labels: np.ndarray) -> None:
    """A point with its 95 % interval for each class and result."""
    gap = 0.7 / len(results)
    for number, (classes, style) in enumerate(zip(results, style_cycle(), strict=False)):
        x = np.searchsorted(labels, classes.labels) + gap * (number - (len(results) - 1) / 2)
        axes.vlines(x, *classes.intervals().T, color=style["color"], alpha=0.35, linewidth=1)
        axes.plot(x, classes.shares, linestyle="none", markersize=4, label=classes.legend, **style)
    axes.set_xticks(range(len(labels)), labels=list(map(str, labels)))
    axes.grid(visible=False, axis="x")
    axes.set(xlabel="class")


def _draw_spread(axes: Axes, results: Sequence[ClassShares], labels: np.ndarray) -> None:
    """The sorted shares and, dashed, those expected by chance if the classes did not differ."""
    for classes, style in zip(results, style_cycle(), strict=False):
        rank, color = np.arange(1, len(classes.n) + 1), style["color"]
        axes.plot(rank, np.sort(classes.shares), color=color, linewidth=1.4, label=classes.legend)
        expected = classes.expected_if_homogeneous()
        axes.plot(rank, expected, color=color, linewidth=1, linestyle="--", alpha=0.6)
    axes.set(xlabel="classes, sorted by share")


def _labels(results: Sequence[ClassShares]) -> np.ndarray:
    return np.unique(np.concatenate([classes.labels for classes in results]))
