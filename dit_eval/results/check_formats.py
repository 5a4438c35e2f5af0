"""A check as text, as Markdown, as JUnit XML and as GitHub's annotations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal
from xml.etree import ElementTree as xml

from dit_eval.report.terminal import dense_table, render_text
from dit_eval.results.check import Check, Comparison, Limit
from dit_eval.results.result import METRICS

Format = Literal["text", "markdown", "junit", "github"]
_HEADINGS = ("metric", "value", "baseline", "difference", "± 95 %", "tolerance", "verdict")


def render(check: Check, style: Format) -> str:
    """The check in one of FORMATS."""
    return FORMATS[style](check)


def as_text(check: Check) -> str:
    """An aligned table with the notes below."""
    table = dense_table()
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in ("metric", "verdict") else "right")
    for row in _rows(check):
        table.add_row(*row)
    return render_text(_title(check), table, *check.notes, _outcome(check))


def as_markdown(check: Check) -> str:
    """The same for a pull request or a step summary."""
    lines = [f"### {_title(check)}", "", _line(_HEADINGS), _line(["---"] * len(_HEADINGS))]
    lines += [_line(row) for row in _rows(check)]
    lines += ["", *(f"{note}\n" for note in check.notes), f"**{_outcome(check)}**"]
    return "\n".join(lines)


def as_junit(check: Check) -> str:
    """A test suite with one case for each metric and each limit."""
    failures = sum(bool(_complaint(each)) for each in (*check.comparisons, *check.limits))
    suite = xml.Element(
        "testsuite",
        name="dit-eval check",
        tests=str(len(check.comparisons) + len(check.limits)),
        failures=str(failures),
        errors="0",
        skipped="0",
    )
    for each in (*check.comparisons, *check.limits):
        case = xml.SubElement(suite, "testcase", classname=check.result, name=each.name)
        if complaint := _complaint(each):
            xml.SubElement(case, "failure", message=complaint, type="regression").text = complaint
    xml.SubElement(suite, "system-out").text = as_text(check)
    suites = xml.Element("testsuites")
    suites.append(suite)
    xml.indent(suites)
    return xml.tostring(suites, encoding="unicode", xml_declaration=True)


def as_github(check: Check) -> str:
    """Workflow commands: an error for each thing that is wrong, then one notice."""
    complaints = [_complaint(each) for each in (*check.comparisons, *check.limits)]
    lines = [_annotation("error", complaint) for complaint in complaints if complaint]
    return "\n".join([*lines, _annotation("notice", f"{_title(check)}. {_outcome(check)}")])


FORMATS: dict[Format, Callable[[Check], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "junit": as_junit,
    "github": as_github,
}


def _title(check: Check) -> str:
    return f"{check.result} against {check.baseline}, {check.n:,} images"


def _outcome(check: Check) -> str:
    if check.passed:
        better = [each.name for each in check.comparisons if each.verdict == "better"]
        return f"Passed; better: {', '.join(better)}." if better else "Passed: nothing is worse."
    wrong = [each.name for each in (*check.comparisons, *check.limits) if _complaint(each)]
    return f"Failed: {', '.join(wrong)}."


def _rows(check: Check) -> list[list[str]]:
    rows = [
        [
            METRICS[each.name].title,
            f"{each.value:.4f}",
            f"{each.baseline:.4f}",
            f"{each.difference:+.4f}",
            f"{each.reach:.4f}{'' if each.paired else ' †'}",
            f"{each.tolerance:.4f}",
            each.verdict,
        ]
        for each in check.comparisons
    ]
    limits = [
        [each.name, f"{each.value:.4f}", _bound(each), "", "", "", "kept" if each.kept else "broken"]
        for each in check.limits
    ]
    return rows + limits


def _bound(limit: Limit) -> str:
    return f"{'≤' if limit.side == 'most' else '≥'} {limit.bound:.4g}"


def _complaint(each: Comparison | Limit) -> str:
    """What is wrong, in one sentence; empty if nothing is."""
    if isinstance(each, Limit):
        where = "above" if each.side == "most" else "below"
        return "" if each.kept else f"{each.name} is {each.value:.4g}, {where} the limit of {each.bound:.4g}."
    if each.verdict != "worse":
        return ""
    return (
        f"{METRICS[each.name].title} went from {each.baseline:.4f} to {each.value:.4f}: "
        f"{each.difference:+.4f} ± {each.reach:.4f}, with a tolerance of {each.tolerance:.4f}."
    )


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _annotation(level: str, message: str) -> str:
    """A workflow command; per cent signs and line ends are escaped as GitHub's runner expects."""
    escaped = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{level} title=dit-eval check::{escaped}"
