"""Precision and recall by class: every class if they are few, the lowest and the spread if they are many.

The share of a class is the fraction of its images inside the other set's manifold of all classes, its part of
the overall precision or recall. It is not precision or recall within the class, which would take many images
of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import bdtr
from scipy.stats import binomtest

from dit_eval.report.figures import SIZE, STYLE, shorten, style_cycle
from dit_eval.results.metric_names import METRICS
from dit_eval.results.result import Result

MAX_NAMED_CLASSES = 20  # classes whose names fit below a figure
LOWEST = 10  # classes listed if there are more


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

    def lowest(self) -> str:
        """The classes with the smallest shares, as `label (share of n)`."""
        first = np.lexsort((self.labels, self.shares))[:LOWEST]
        return ", ".join(f"{self.labels[i]} ({self.shares[i]:.2f} of {self.n[i]})" for i in first)

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
            figure = Figure(figsize=(SIZE[0], SIZE[1] + 0.17 * len(classes)), layout="constrained")
            axes = figure.add_subplot()
            draw = _draw_every_class if can_name_all(classes) else _draw_spread
            draw(axes, classes)
            axes.set(ylabel=METRICS[metric].title)
            figure.legend(loc="outside lower left", borderpad=0)
            drawn[f"{metric}-classes"] = figure
    return drawn


def _draw_every_class(axes: Axes, results: Sequence[ClassShares]) -> None:
    """A point with its 95 % interval (Wilson 1927) for each class and result."""
    labels = _labels(results)
    gap = 0.7 / len(results)
    for number, (classes, style) in enumerate(zip(results, style_cycle(), strict=False)):
        x = np.searchsorted(labels, classes.labels) + gap * (number - (len(results) - 1) / 2)
        intervals = [
            binomtest(inside, n).proportion_ci(method="wilson")
            for inside, n in zip(classes.inside, classes.n, strict=True)
        ]
        axes.vlines(x, *zip(*intervals, strict=True), color=style["color"], alpha=0.35, linewidth=1)
        axes.plot(x, classes.shares, linestyle="none", markersize=4, label=classes.legend, **style)
    axes.set_xticks(range(len(labels)), labels=list(map(str, labels)))
    axes.grid(visible=False, axis="x")
    axes.set(xlabel="class")


def _draw_spread(axes: Axes, results: Sequence[ClassShares]) -> None:
    """The sorted shares and, dashed, those expected by chance if the classes did not differ."""
    for classes, style in zip(results, style_cycle(), strict=False):
        rank, color = np.arange(1, len(classes.n) + 1), style["color"]
        axes.plot(rank, np.sort(classes.shares), color=color, linewidth=1.4, label=classes.legend)
        expected = classes.expected_if_homogeneous()
        axes.plot(rank, expected, color=color, linewidth=1, linestyle="--", alpha=0.6)
    axes.set(xlabel="classes, sorted by share")


def _labels(results: Sequence[ClassShares]) -> np.ndarray:
    return np.unique(np.concatenate([classes.labels for classes in results]))
