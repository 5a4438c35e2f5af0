"""Precision and recall by class: every class where they are few, lowest and spread where they are many.

A class counts by what of it lies inside the other side's manifold of all classes: its part in the precision
or recall of the whole. That is not precision or recall within the class, which takes many images of it.
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

from dit_eval.report.figures import SIZE, STYLE, style_cycle
from dit_eval.results.result import METRICS, Result

FEW = 20  # classes that fit into a figure by name
LOWEST = 10
NAMED = 36  # letters of a result's name that fit under a figure


@dataclass(frozen=True, kw_only=True)
class Shares:
    """A metric of one result by class, side by side: labels, images n and the share of them inside."""

    name: str
    labels: np.ndarray
    n: np.ndarray
    inside: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """Of each class."""
        return self.inside / self.n

    @property
    def overall(self) -> float:
        """Of all classes together: the metric."""
        return self.inside.sum() / self.n.sum()

    def lowest(self) -> str:
        """The classes of the smallest shares, each as `label (share of n)`."""
        first = np.lexsort((self.labels, self.shares))[:LOWEST]
        return ", ".join(f"{self.labels[i]} ({self.shares[i]:.2f} of {self.n[i]})" for i in first)

    def expected_if_homogeneous(self) -> np.ndarray:
        """The shares in rising order that chance gives if no class differs from another: (classes,).

        The other side taken as given, images fall inside independently: each class is binomial.
        """
        sizes, classes = np.unique(self.n, return_counts=True)
        values = np.concatenate([np.arange(n + 1) / n for n in sizes])
        masses = [
            k * np.diff(bdtr(np.arange(n + 1), n, self.overall), prepend=0)
            for n, k in zip(sizes, classes, strict=True)
        ]
        order = np.argsort(values)
        reached = np.cumsum(np.concatenate(masses)[order])
        middles = np.arange(len(self.n)) + 0.5
        return values[order][np.searchsorted(reached, middles)]


def by_class(results: Sequence[Result]) -> dict[str, list[Shares]]:
    """Metric → what the results know of it by class; metrics and results that know nothing are left out."""
    found: dict[str, list[Shares]] = {}
    for result in results:
        for metric, lists in result.classes.items():
            labels, n, inside = (np.array(lists[key]) for key in ("label", "n", "inside"))
            found.setdefault(metric, []).append(Shares(name=result.name, labels=labels, n=n, inside=inside))
    return found


def are_few(some: Sequence[Shares]) -> bool:
    """True if every class of these can be shown by name."""
    return len(_labels(some)) <= FEW


def class_figures(results: Sequence[Result]) -> dict[str, Figure]:
    """`METRIC-classes` → its figure, for the metrics that the results know by class."""
    drawn = {}
    with matplotlib.rc_context(STYLE):
        for metric, some in by_class(results).items():
            figure = Figure(figsize=(SIZE[0], SIZE[1] + 0.17 * len(some)), layout="constrained")
            axes = figure.add_subplot()
            draw = _every_class if are_few(some) else _spread_of_classes
            draw(axes, some)
            axes.set(ylabel=METRICS[metric].title)
            for text in figure.legend(loc="outside lower left", borderpad=0).get_texts():
                text.set_parse_math(False)  # names of files may hold a $
            drawn[f"{metric}-classes"] = figure
    return drawn


def _every_class(axes: Axes, some: Sequence[Shares]) -> None:
    """A point for each class and result, with its 95 % interval (Wilson 1927)."""
    labels = _labels(some)
    gap = 0.7 / len(some)
    for number, (each, look) in enumerate(zip(some, style_cycle(), strict=False)):
        places = np.searchsorted(labels, each.labels) + gap * (number - (len(some) - 1) / 2)
        ends = [
            binomtest(k, n).proportion_ci(method="wilson") for k, n in zip(each.inside, each.n, strict=True)
        ]
        axes.vlines(places, *zip(*ends, strict=True), color=look["color"], alpha=0.35, linewidth=1)
        axes.plot(places, each.shares, linestyle="none", markersize=4, label=_legend(each), **look)
    axes.set_xticks(range(len(labels)), labels=list(map(str, labels)))
    axes.grid(visible=False, axis="x")
    axes.set(xlabel="class")


def _spread_of_classes(axes: Axes, some: Sequence[Shares]) -> None:
    """The shares in rising order and, dashed, what chance alone would make of classes that are all alike."""
    for each, look in zip(some, style_cycle(), strict=False):
        rank, colour = np.arange(1, len(each.n) + 1), look["color"]
        axes.plot(rank, np.sort(each.shares), color=colour, linewidth=1.4, label=_legend(each))
        axes.plot(rank, each.expected_if_homogeneous(), color=colour, linewidth=1, linestyle="--", alpha=0.6)
    axes.set(xlabel="classes, the lowest first")


def _labels(some: Sequence[Shares]) -> np.ndarray:
    return np.unique(np.concatenate([each.labels for each in some]))


def _legend(each: Shares) -> str:
    name = each.name if len(each.name) <= NAMED else f"…{each.name[1 - NAMED :]}"
    return f"{each.overall:.3f}  {name}"
