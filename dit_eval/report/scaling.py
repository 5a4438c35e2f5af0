"""The scaling figure of the DiT paper: cost against size and, for measured models, FID against cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dit_eval.errors import ResultError, UsageError
from dit_eval.published import architecture
from dit_eval.results import read_result

if TYPE_CHECKING:
    from dit_eval.flop_table import FlopRow

COLOUR = {"S": "#56b4e9", "B": "#009e73", "L": "#e69f00", "XL": "#d55e00"}  # Okabe & Ito: safe for every eye
MARKER = {"8": "s", "4": "^", "2": "o"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A model with its FID."""

    model: str
    image_size: int
    fid: float
    n: int


def plot_scaling(out: Path, rows: Sequence[FlopRow], results: Sequence[Path] = ()) -> None:
    """Write Gflops against parameters and, given results, FID against Gflops to `out` (.png or .svg).

    rows: the costs of the twelve models at one image size; results: JSON files of `dit-eval fid` whose
    samples `dit-eval sample` has drawn. Raises UsageError for another suffix or image size, ResultError for
    a file that is no result or names no DiT.
    """
    if out.suffix not in (".png", ".svg"):
        raise UsageError(f"{out}: a plot is written as .png or .svg.")
    costs = {row.model: row for row in rows}
    measured = [_measured(path) for path in results]
    for each in measured:
        if each.image_size != rows[0].image_size:
            raise UsageError(
                f"{each.model} was measured at {each.image_size} pixels, not at {rows[0].image_size}. "
                f"Choose --image-size {each.image_size}, or leave that result out."
            )
    panels = 2 if measured else 1
    figure = Figure(figsize=(5.2 * panels, 4.2), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _cost_against_size(axes[0], rows)
    if measured:
        _fid_against_cost(axes[1], measured, costs)
    figure.savefig(out, dpi=160, metadata={"Date": None} if out.suffix == ".svg" else None)


def _cost_against_size(axes: Axes, rows: Sequence[FlopRow]) -> None:
    for row in rows:
        _point(axes, row.model, row.count.params / 1e6, row.count.macs / 1e9)
    axes.set(xscale="log", yscale="log", xlabel="parameters, millions", ylabel="Gflops (multiply-adds)")
    sizes = sorted({round(row.count.params / 1e6) for row in rows if row.model.endswith("/2")})
    axes.set_xticks(sizes, labels=map(str, sizes))
    axes.set_xticks([], minor=True)
    axes.margins(x=0.15)
    axes.set_title("The design space", loc="left")


def _fid_against_cost(axes: Axes, measured: Sequence[Measured], costs: dict[str, FlopRow]) -> None:
    for each in measured:
        _point(axes, each.model, costs[each.model].count.macs / 1e9, each.fid)
    counts = sorted({each.n for each in measured})
    axes.set(
        xscale="log", xlabel="Gflops (multiply-adds)", ylabel="FID of " + ", ".join(f"{n:,}" for n in counts)
    )
    axes.margins(x=0.15)
    axes.set_title("Quality against cost", loc="left")


def _point(axes: Axes, model: str, x: float, y: float) -> None:
    size, patch = model.split("/")
    axes.plot(x, y, MARKER[patch], color=COLOUR[size], markersize=7)
    axes.annotate(model, (x, y), xytext=(6, 3), textcoords="offset points", fontsize=8)


def _measured(path: Path) -> Measured:
    """What a result says of model and FID. Raises ResultError if it is not enough."""
    result = read_result(path)
    try:
        plan, fid = result.samples["plan"], result.metrics["fid"]
    except KeyError as error:
        raise ResultError(
            f"{path}: it has no {error}. Plot the FID of batches that `dit-eval sample` drew, measured with "
            "their JSON beside them."
        ) from None
    name = architecture(plan["model"])
    if name is None:
        raise ResultError(f"{path}: its model, {plan['model']}, is none of the twelve architectures.")
    size = plan["image_size"]
    return Measured(model=name.split("-")[1], image_size=size, fid=fid, n=result.samples["n"])
