"""Colour for the verdicts that a terminal shows; none in pipes and files, or if NO_COLOR is set."""

from __future__ import annotations

import os
import re

import click

_VERDICTS = {
    "better": "green", "worse": "red", "undecided": "yellow", "equivalent": "cyan", "met": "green",
    "not met": "red",
}  # fmt: skip
_VERDICT = re.compile(rf"(?<= )({'|'.join(sorted(_VERDICTS, key=len, reverse=True))})$", re.MULTILINE)
_OUTCOME = re.compile(r"^(Passed|Failed|WARNING)\b", re.MULTILINE)
_MARKS = {"+": "green", "−": "red", "*": "green"}
_MARK = re.compile(r"(?<=\d)([+−*])(?=\s|$)", re.MULTILINE)


def colour() -> bool | None:
    """The argument `color` of click.echo: False where NO_COLOR forbids it, else None, to ask the terminal."""
    return False if os.environ.get("NO_COLOR") else None


def colour_verdicts(text: str) -> str:
    """The text of a check, with the verdicts at the ends of its rows and the outcome in colour."""
    text = _VERDICT.sub(lambda found: click.style(found[1], fg=_VERDICTS[found[1]]), text)
    return _OUTCOME.sub(
        lambda found: click.style(found[1], fg="green" if found[1] == "Passed" else "red", bold=True), text
    )


def colour_marks(text: str) -> str:
    """The text of a comparison, with the marks behind its numbers in colour."""
    return _MARK.sub(lambda found: click.style(found[1], fg=_MARKS[found[1]], bold=True), text)
