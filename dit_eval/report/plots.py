"""The report's figures as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from dit_eval.errors import ResultError
from dit_eval.report.classes import class_figures
from dit_eval.report.figures import figures
from dit_eval.results.result import Result


def save_figures(folder: Path, results: Sequence[Result]) -> list[Path]:
    """Write every figure to `folder` as NAME.png; their paths.

    Raises ResultError if there is nothing to draw, or if the folder cannot be written.
    """
    drawn = figures(results) | class_figures(results)
    if not drawn:
        raise ResultError(
            "none of these results says which model and guidance it measures, or knows its classes. "
            "Plot results of batches that `dit-eval sample` drew, with their JSON beside them."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(f"{folder} cannot be written: {error.strerror or error}.") from None
    return [save_figure(folder / f"{name}.png", figure) for name, figure in drawn.items()]


def save_figure(path: Path, figure: Figure) -> Path:
    """Write a figure as its suffix says; its path. Raises ResultError if it cannot be written."""
    dated = {"Date": None} if path.suffix == ".svg" else None  # the same figure is the same file
    try:
        figure.savefig(path, dpi=160, facecolor="white", metadata=dated)
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror or error}.") from None
    return path
