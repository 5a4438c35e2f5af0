"""Tables for LaTeX documents with the packages booktabs and graphicx."""

from __future__ import annotations

from collections.abc import Sequence

_GREEK = (  # without omicron, which has no command
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi "
    "chi psi omega"
)
_ESCAPED = str.maketrans(
    {sign: f"\\{sign}" for sign in "{}$&#%_"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "†": r"\textdagger{}", "…": r"\dots{}", "–": "--"}
    | {"×": r"$\times$", "±": r"$\pm$", "−": "$-$", "⌊": r"$\lfloor$", "⌋": r"$\rfloor$", "∞": r"$\infty$"}
    | {"↓": r"$\downarrow$", "↑": r"$\uparrow$", "→": r"$\rightarrow$", "≤": r"$\leq$", "≥": r"$\geq$"}
    | {"|": r"\textbar{}", "≈": r"$\approx$"}
    | {letter: rf"$\{name}$" for letter, name in zip("αβγδεζηθικλμνξπρστυφχψω", _GREEK.split(), strict=True)}
)


def escape_latex(text: str) -> str:
    """Text with the special characters of LaTeX, and those of our tables that its fonts lack, as commands."""
    return text.translate(_ESCAPED)


def latex_table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table environment, its first column aligned at the left; caption and cells are LaTeX already.

    A table that is wider than the text is scaled down.
    """
    lines = [" & ".join(cells) + r" \\" for cells in (headings, *rows)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            r"\small",
            r"\setlength{\tabcolsep}{5pt}",
            rf"\caption{{{caption}}}",
            r"\smallskip",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{",
            rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
    )
