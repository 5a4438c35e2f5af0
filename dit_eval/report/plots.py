"""Save the report's figures as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.figure import Figure

from dit_eval.errors import ResultError
from dit_eval.io.files import atomic_file, make_folder
from dit_eval.report.classes import class_figures
from dit_eval.report.figures import STYLE, figures
from dit_eval.results.comparability import comparable_groups
from dit_eval.results.names import labels_by_name, with_distinct_names
from dit_eval.results.result import Result

Format = Literal["png", "svg", "pdf"]
# Without the date, identical figures are identical files
_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def save_figures(folder: Path, results: Sequence[Result], kind: Format = "png") -> list[Path]:
    """Write every figure to `folder` as NAME.png, or in another format, and return the paths.

    Results that cannot be compared are in different figures: NAME.png, NAME-2.png and so on. Raises
    ResultError if there is nothing to draw, or if the folder cannot be written.
    """
    labels = labels_by_name(results)
    drawn = {
        f"{name}-{number}" if number > 1 else name: figure
        for number, group in enumerate(comparable_groups(with_distinct_names(results)), 1)
        for name, figure in (figures(group, labels) | class_figures(group)).items()
    }
    if not drawn:
        raise ResultError(
            "none of these results records its model and guidance scale, or has labels. Plot results of "
            "batches made by `dit-eval sample`, with the JSON file that it writes next to them."
        )
    make_folder(folder)
    return [save_figure(folder / f"{name}.{kind}", figure) for name, figure in drawn.items()]


def save_figure(path: Path, figure: Figure) -> Path:
    """Write a figure in the format of the suffix and return the path. Raises ResultError."""
    kind = path.suffix.removeprefix(".")
    with matplotlib.rc_context(STYLE), atomic_file(path) as file:
        figure.savefig(file, format=kind, dpi=160, facecolor="white", metadata=_UNDATED.get(kind))
    return path
