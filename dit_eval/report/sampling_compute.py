"""FID against the compute of sampling, a curve for each model: figure 10 of the DiT paper.

Peebles & Xie 2023, section 5: more sampling steps do not make up for a smaller model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dit_eval.errors import ResultError
from dit_eval.io.files import make_folder
from dit_eval.report.figures import STYLE, shorten, style_cycle
from dit_eval.report.history import label_plainly, use_log_scale
from dit_eval.report.plots import save_figure
from dit_eval.results.comparability import comparable_groups, describe_measurement
from dit_eval.results.metric_names import METRICS
from dit_eval.results.names import curve_names
from dit_eval.results.result import Result
from dit_eval.results.sampling_cost import gflops_per_image


def plot_sampling_compute(path: Path, results: Sequence[Result]) -> Path:
    """Write FID against Gflops per image in the format of the suffix; returns the path.

    A curve joins the results of one model that differ in their steps only; results that cannot be compared
    are in different panels. Raises ResultError for results without FID or without a record of what sampling
    an image cost, or if the file cannot be written.
    """
    for result in results:
        if gflops_per_image(result) is None or "fid" not in result.metrics:
            raise ResultError(
                f"the result of {result.samples['path']} does not record the cost of sampling, or has no "
                "FID. Plot results of batches made by this version of `dit-eval sample`, with the JSON file "
                "that it writes next to them."
            )
    groups = comparable_groups(results)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8 * len(groups), 4.2), layout="constrained")
        for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
            _draw_curves(axes, group)
            axes.set_title(describe_measurement(group[0]), loc="left", fontsize="small")
        make_folder(path.parent)
        return save_figure(path, figure)


def _draw_curves(axes: Axes, results: Sequence[Result]) -> None:
    names = curve_names(results, [result.label for result in results], within=["plan.steps"])
    for name, style in zip(dict.fromkeys(names), style_cycle(), strict=False):
        curve = [
            (gflops_per_image(result), result.metrics["fid"], result.samples["plan"]["steps"] or "adaptive")
            for own_name, result in zip(names, results, strict=True)
            if own_name == name
        ]
        x, y, steps = zip(*sorted(curve), strict=True)
        axes.plot(x, y, linewidth=1.4, markersize=5, label=shorten(name), **style)
        for gflops, fid, text in zip(x, y, steps, strict=True):
            axes.annotate(text, (gflops, fid), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set(xscale="log", xlabel="Gflops (multiply-adds) per image, all steps", ylabel=METRICS["fid"].title)
    label_plainly(axes.xaxis)
    use_log_scale(axes)
    axes.legend()
