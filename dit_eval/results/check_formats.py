"""A check as text, as Markdown, as JUnit XML and as GitHub annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal
from xml.etree import ElementTree as xml

from dit_eval.report.terminal import dense_table, render_text
from dit_eval.results.check import Check
from dit_eval.results.metric_names import METRICS

Format = Literal["text", "markdown", "junit", "github"]
_DETECTS = "detects: the smallest loss that is called worse with a probability of 80 %."
_HEADINGS = ("metric", "value", "baseline", "change", "± 95 %", "tolerance", "detects", "verdict")


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
    warnings = (f"WARNING: {warning}" for warning in check.warnings)
    return render_text(_title(check), *warnings, table, _DETECTS, *check.notes, _outcome(check))


def as_markdown(check: Check) -> str:
    """A table with notes for a pull request or a step summary."""
    rows = map(markdown_row, (_HEADINGS, ["---"] * len(_HEADINGS), *_rows(check)))
    warnings = (f"**Warning:** {warning}\n" for warning in check.warnings)
    notes = (f"{note}\n" for note in (_DETECTS, *check.notes))
    return "\n".join([f"### {_title(check)}", "", *warnings, *rows, "", *notes, f"**{_outcome(check)}**"])


def as_junit(check: Check) -> str:
    """A test suite with a case for each metric and each limit."""
    failures = dict(_failures(check))
    items = (*check.comparisons, *check.limits)
    suite = xml.Element(
        "testsuite",
        name="dit-eval check",
        tests=str(len(items)),
        failures=str(len(failures)),
        errors="0",
        skipped="0",
    )
    for item in items:
        case = xml.SubElement(suite, "testcase", classname=check.result, name=item.name)
        if message := failures.get(item.name):
            xml.SubElement(case, "failure", message=message, type="regression").text = message
    xml.SubElement(suite, "system-out").text = as_text(check)
    suites = xml.Element("testsuites")
    suites.append(suite)
    xml.indent(suites)
    return xml.tostring(suites, encoding="unicode", xml_declaration=True)


def as_github(check: Check) -> str:
    """Workflow commands: an error for each failure, a warning for each warning, then a notice."""
    lines = [_annotation("error", message) for _, message in _failures(check)]
    lines += [_annotation("warning", warning) for warning in check.warnings]
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
    if not check.passed:
        return f"Failed: {', '.join(check.failed)}."
    verdicts = ("better", "equivalent", "undecided")
    found = [f"{verdict}: {', '.join(check.named(verdict))}" for verdict in verdicts if check.named(verdict)]
    return f"Passed: no metric is worse; {'; '.join(found)}."


def _rows(check: Check) -> list[list[str]]:
    rows = [
        [
            METRICS[comparison.name].column,
            f"{comparison.value:z.4f}",
            f"{comparison.baseline:z.4f}",
            f"{comparison.difference:+z.4f}",
            f"{comparison.half_width:.4f}{'' if comparison.paired else ' †'}",
            f"{comparison.tolerance:.4f}",
            f"{comparison.detectable:.4f}",
            comparison.verdict,
        ]
        for comparison in check.comparisons
    ]
    for limit in check.limits:
        bound = f"{'≤' if limit.side == 'upper' else '≥'} {limit.bound:.4g}"
        verdict = "met" if limit.met else "not met"
        rows.append([limit.name, f"{limit.value:.4f}", bound, "", "", "", "", verdict])
    return rows


def _failures(check: Check) -> Iterator[tuple[str, str]]:
    """Name and message of each metric that is worse and each limit that is not met."""
    for comparison in check.comparisons:
        if comparison.verdict == "worse":
            change = f"went from {comparison.baseline:z.4f} to {comparison.value:z.4f}"
            interval = f"{comparison.difference:+z.4f} ± {comparison.half_width:.4f}"
            label, tolerance = METRICS[comparison.name].label, f"{comparison.tolerance:.4f}"
            yield comparison.name, f"{label} {change}: {interval}, with a tolerance of {tolerance}."
    for limit in check.limits:
        if not limit.met:
            relation = "above" if limit.side == "upper" else "below"
            yield limit.name, f"{limit.name} is {limit.value:.4g}, {relation} the limit of {limit.bound:.4g}."


def markdown_row(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _annotation(level: str, message: str) -> str:
    """A workflow command, with percent signs and line breaks escaped as GitHub's runner expects."""
    escaped = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{level} title=dit-eval check::{escaped}"
