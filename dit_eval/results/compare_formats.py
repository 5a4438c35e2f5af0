"""A comparison as text, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import Any, Literal

from rich.table import Table

from dit_eval.report.latex import escape_latex, latex_table
from dit_eval.report.terminal import csv_text, dense_table, natural_width, render_text
from dit_eval.results.check_formats import markdown_row
from dit_eval.results.compare import Comparison, Group, Row, Target
from dit_eval.results.knobs import differing, knob_title
from dit_eval.results.metric_names import ADM, METRICS
from dit_eval.results.metric_names import columns as metric_columns

Format = Literal["text", "markdown", "latex", "csv", "json"]

_MARKS = {"better": "+", "worse": "−"}
_BEST = "*"
_KEYS: dict[Target, str] = {
    "first": "+ better, − worse than the first row of the table; all marks of a table hold together with "
    "95 % confidence.",
    "best": "* the best of the column, − not the best; all marks of a table hold together with 95 % "
    "confidence, and a number without a mark may be the best.",
}
_UNPAIRED = (
    "† Not compared in pairs, so that small differences go unnoticed: other seed, labels or number of "
    "images, or no per-image data."
)
_NAME_WIDTH = 22  # columns for names at least, if they need them


def render(comparison: Comparison, style: Format) -> str:
    """The comparison in one of FORMATS."""
    return FORMATS[style](comparison)


def as_text(comparison: Comparison, width: int = 80) -> str:
    """Aligned tables for a terminal; knobs for which there is no room stand below the names."""
    parts: list[str | Table] = []
    for group in comparison.groups:
        parts += _titles(group)
        parts += [
            _fitting_table(part, comparison.to, width)
            for part in _fitting_groups(group, comparison.to, width)
        ]
    return render_text(*parts, *_notes(comparison), width=width)


def as_markdown(comparison: Comparison) -> str:
    """Tables for a pull request or an issue."""
    lines = []
    for group in comparison.groups:
        title, *reasons = _titles(group)
        headings, *rows = _lines(group, comparison.to, _markdown_cell)
        rule = ["---", *["---:"] * (len(headings) - 1)]
        lines += [f"### {title}", "", *(f"{reason}\n" for reason in reasons)]
        lines += [*map(markdown_row, (headings, rule, *rows)), ""]
    return "\n".join([*lines, *(f"{note}\n" for note in _notes(comparison))]).rstrip()


def as_latex(comparison: Comparison) -> str:
    """A table environment for each group, without dates; the document needs booktabs and graphicx."""
    notes, tables = " ".join(_notes(comparison)), []
    for group in comparison.groups:
        headings, *rows = _lines(group, comparison.to, _latex_cell, escape_latex, dates=False)
        caption = escape_latex(f"{'. '.join(_titles(group)).removesuffix('.')}. {notes}".strip())
        tables.append(latex_table(caption, headings, rows))
    return "\n\n".join(tables)


def as_csv(comparison: Comparison) -> str:
    """A line for each result, with exact numbers and every knob that differs anywhere."""
    rows = [(number, row) for number, group in enumerate(comparison.groups, 1) for row in group.rows]
    keys = differing([row.knobs for _, row in rows])
    metrics = metric_columns(row.result.metrics for _, row in rows)
    return csv_text([{"group": number, **_record(row, keys, metrics)} for number, row in rows])


FORMATS: dict[Format, Callable[[Comparison], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
    "json": Comparison.to_json,
}


def _titles(group: Group) -> list[str]:
    """What a group measures and, if it is not the first, why it is a group of its own."""
    reasons = [f"Not comparable with the first table: {'; '.join(group.reasons)}."] if group.reasons else []
    return [f"{group.subject[0].upper()}{group.subject[1:]}", *reasons]


def _notes(comparison: Comparison) -> Iterator[str]:
    """How to read what the tables hold."""
    rows = [row for group in comparison.groups for row in group.rows]
    if any(row.result.intervals for row in rows):
        yield "±: half of the 95 % confidence interval."
    if any(row.comparisons for row in rows):
        yield _KEYS[comparison.to]
    if not all(row.paired for row in rows):
        yield _UNPAIRED


@dataclass(frozen=True)
class _Cell:
    """A number as printed, half of its interval, and a mark; the last two may be empty."""

    value: str
    half_width: str
    mark: str


def _cell(row: Row, metric: str, group: Group, to: Target) -> _Cell:
    if metric not in row.result.metrics:
        return _Cell("–", "", "")
    names, half_width = METRICS[metric], row.result.half_width(metric)
    compared = row.comparisons.get(metric)
    is_best = to == "best" and group.clearly_best(metric) is row
    return _Cell(
        value=names.format_short(row.result.metrics[metric]),
        half_width="" if half_width is None else names.format_half_width(half_width),
        mark=_BEST if is_best else _MARKS.get(compared.verdict, "") if compared else "",
    )


def _name(row: Row) -> str:
    return f"{row.heading}{'' if row.paired else ' †'}"


def _date(row: Row) -> str:
    """Day and minute, UTC."""
    return (row.result.date or "–")[:16].replace("T", " ")


def _settings(group: Group, keys: Sequence[str]) -> dict[str, list[str]]:
    """The columns of the training steps, if any is known, and of these knobs: heading → cells."""
    steps = [row.training.step for row in group.rows]
    known = any(step is not None for step in steps)
    columns = {"step": ["–" if step is None else f"{step:,}" for step in steps]} if known else {}
    return columns | {knob_title(key): [row.knobs.get(key, "–") for row in group.rows] for key in keys}


def _fitting_groups(group: Group, to: Target, width: int) -> list[Group]:
    """The group or, where there is no room for all of its metrics, one with ADM's and one with the others."""
    names = [" " * _NAME_WIDTH] * len(group.rows)
    if natural_width(_text_table(group, to, (), names)) <= width:
        return [group]
    parts = [
        {name: row for name, row in group.targets.items() if (name in ADM) == of_adm}
        for of_adm in (True, False)
    ]
    return [replace(group, targets=targets) for targets in parts if targets]


def _fitting_table(group: Group, to: Target, width: int) -> Table:
    """The table with as many columns of knobs as fit, and the other knobs below the names.

    Knobs that every row has come first, and of these the narrow ones.
    """
    cells = {key: [row.knobs.get(key, "") for row in group.rows] for key in group.knobs}
    preferred = sorted(
        group.knobs, key=lambda key: ("" in cells[key], max(map(len, (knob_title(key), *cells[key]))))
    )
    for count in range(len(preferred), 0, -1):
        table = _table_with_columns(group, to, width, preferred[:count])
        if natural_width(table) <= width:
            return table
    return _table_with_columns(group, to, width, ())


def _table_with_columns(group: Group, to: Target, width: int, chosen: Collection[str]) -> Table:
    """The table with columns of these knobs; names and the other knobs are wrapped in what is left."""
    columns = [key for key in group.knobs if key in chosen]
    below = [key for key in group.knobs if key not in chosen]
    others = natural_width(_text_table(group, to, columns, [""] * len(group.rows)))
    name_width = max(width - others, _NAME_WIDTH)
    return _text_table(group, to, columns, [_name_cell(row, below, name_width) for row in group.rows])


def _name_cell(row: Row, below: Sequence[str], width: int) -> str:
    """The name of a row and, indented, these knobs and the date."""
    values = ", ".join(f"{knob_title(key)}={row.knobs[key]}" for key in below if key in row.knobs)
    details = [*wrap(values, width - 2, break_on_hyphens=False), *([_date(row)] if row.result.date else [])]
    return "\n".join([*wrap(_name(row), width), *(f"  {line}" for line in details)])


def _text_table(group: Group, to: Target, keys: Sequence[str], names: Sequence[str]) -> Table:
    """Names, steps, knobs, and numbers above their intervals."""
    settings, numbers = _settings(group, keys), []
    table = dense_table()
    table.add_column("name", overflow="fold")
    for heading in settings:
        table.add_column(heading, justify="right", no_wrap=True)
    for metric in group.targets:
        cells = [_cell(row, metric, group, to) for row in group.rows]
        heading, *lines = _aligned(METRICS[metric].column_title, cells)
        table.add_column(heading, no_wrap=True)
        numbers.append(lines)
    for row in zip(names, *settings.values(), *numbers, strict=True):
        table.add_row(*row)
    return table


def _aligned(heading: str, cells: Sequence[_Cell]) -> list[str]:
    """Heading and cells, aligned at the right, with the marks beside the numbers."""
    intervals = [f"±{cell.half_width}" if cell.half_width else "" for cell in cells]
    width = max(map(len, (heading, *intervals, *(cell.value for cell in cells))))
    lines = (
        f"{cell.value:>{width}}{cell.mark}" + (f"\n{interval:>{width}}" if interval else "")
        for cell, interval in zip(cells, intervals, strict=True)
    )
    return [f"{heading:>{width}}", *lines]


def _lines(
    group: Group,
    to: Target,
    render_cell: Callable[[_Cell], str],
    escape: Callable[[str], str] = str,
    *,
    dates: bool = True,
) -> list[list[str]]:
    """The headings and the cells of every row; escape: of text that is no number."""
    columns = {"name": [_name(row) for row in group.rows]}
    if dates and any(row.result.date for row in group.rows):
        columns["date"] = [_date(row) for row in group.rows]
    columns |= _settings(group, group.knobs)
    columns = {escape(heading): list(map(escape, cells)) for heading, cells in columns.items()}
    for metric in group.targets:
        cells = (_cell(row, metric, group, to) for row in group.rows)
        columns[escape(METRICS[metric].column_title)] = [render_cell(cell) for cell in cells]
    return [list(columns), *map(list, zip(*columns.values(), strict=True))]


def _markdown_cell(cell: _Cell) -> str:
    interval = f" ± {cell.half_width}" if cell.half_width else ""
    return f"{cell.value}{interval}{f' {cell.mark}' if cell.mark else ''}".replace("*", "\\*")


def _latex_cell(cell: _Cell) -> str:
    """A number whose mark does not move it."""
    interval = rf"\,{{\scriptsize$\pm$\,{cell.half_width}}}" if cell.half_width else ""
    mark = cell.mark.replace("−", "-")
    return f"{cell.value}{interval}" + (rf"\rlap{{$^{{{mark}}}$}}" if mark else "")


def _record(row: Row, keys: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """The row as values by name of the column."""
    result = row.result
    record: dict[str, Any] = {"name": row.name, "label": result.label, "date": result.date}
    record |= {"step": row.training.step, **{key: row.knobs.get(key) for key in keys}}
    for metric in metrics:
        ends, compared = result.intervals.get(metric, {}), row.comparisons.get(metric)
        record[metric] = result.metrics.get(metric)
        record |= {f"{metric}_{end}": ends.get(end) for end in ("low", "high")}
        for field in ("difference", "half_width", "paired", "verdict"):
            record[f"{metric}_{field}"] = getattr(compared, field, None)
    return record
