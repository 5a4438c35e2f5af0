"""Tables for LaTeX documents with the package booktabs."""

from __future__ import annotations

from collections.abc import Sequence

_ESCAPED = str.maketrans(
    {sign: f"\\{sign}" for sign in "{}$&#%_"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "†": r"\textdagger{}", "…": r"\dots{}", "–": "--"}
    | {"×": r"$\times$", "±": r"$\pm$", "−": "$-$", "⌊": r"$\lfloor$", "⌋": r"$\rfloor$", "σ": r"$\sigma$"}
    | {"↓": r"$\downarrow$", "↑": r"$\uparrow$"}
)


def escape_latex(text: str) -> str:
    """Text with the special characters of LaTeX, and those of our tables that its fonts lack, as commands."""
    return text.translate(_ESCAPED)


def latex_table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table environment, its first column aligned at the left; caption and cells are LaTeX already."""
    lines = [" & ".join(cells) + r" \\" for cells in (headings, *rows)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
