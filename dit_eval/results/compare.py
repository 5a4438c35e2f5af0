"""Compare any number of results: a table in which differences that are real are marked.

Results that measure different things (see `results.comparability`) are in different groups; guidance scales
may differ within one. In a group, each result is compared with the first, or each metric with its best value.
All comparisons of a group hold together with 95 %, however many results there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dit_eval.errors import UsageError, require_choices
from dit_eval.results.comparability import GUIDANCE_SCALE, describe_measurement, differences, group_numbers
from dit_eval.results.folders import results_at
from dit_eval.results.knobs import TrainingStep, differing, knobs, training_step
from dit_eval.results.metric_comparison import MetricComparison, baseline_of, compare_metric
from dit_eval.results.metric_names import HEADLINE, METRICS
from dit_eval.results.names import distinct_names
from dit_eval.results.result import Result

Target = Literal["first", "best"]
Order = Literal["given", "step"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One result of a comparison.

    name: distinct among all results; heading: the name beside the knobs that differ; knobs: see
    `results.knobs`; comparisons: by metric, with the group's target.
    """

    result: Result
    training: TrainingStep
    name: str
    heading: str
    knobs: Mapping[str, str]
    comparisons: Mapping[str, MetricComparison]

    @property
    def paired(self) -> bool:
        """True if every comparison is in pairs."""
        return all(comparison.paired for comparison in self.comparisons.values())


@dataclass(frozen=True, kw_only=True)
class Group:
    """Results that measure the same thing.

    subject: what they measure; reasons: why they cannot be compared with the first group, in words; knobs:
    the keys of those that differ and are shown; targets: by metric, the row with which the others are
    compared.
    """

    subject: str
    reasons: tuple[str, ...]
    knobs: tuple[str, ...]
    rows: tuple[Row, ...]
    targets: Mapping[str, Row]

    def clearly_best(self, metric: str) -> Row | None:
        """The row that is better than every other, in a group that is compared with the best values.

        None if any difference may be chance or is not known.
        """
        target = self.targets[metric]
        others = [row for row in self.rows if row is not target and metric in row.result.metrics]
        verdicts = [row.comparisons[metric].verdict for row in others if metric in row.comparisons]
        return target if others and verdicts == ["worse"] * len(others) else None


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """Results in groups, each compared with the first or the best one of its group.

    to: with what rows are compared; warnings: what was left out of folders.
    """

    to: Target
    groups: tuple[Group, ...]
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The number of results and groups, and with what the results are compared."""
        results = sum(len(group.rows) for group in self.groups)
        groups = f" in {len(self.groups)} groups" if len(self.groups) > 1 else ""
        return f"Comparison({results} results{groups}, to={self.to!r})"

    def table(self, width: int = 80) -> str:
        """The comparison for a terminal of `width` columns."""
        from dit_eval.results.compare_formats import as_text  # imports this module

        return as_text(self, width)

    def to_json(self) -> str:
        """The comparison as a JSON object with exact numbers.

        In a row, `comparison` is with the group's target of that metric: difference, half-width of its 95 %
        interval, which holds for all comparisons of the group together, and verdict as in `check`.
        """
        groups = [
            {
                "subject": group.subject,
                "not_comparable_with_the_first_group": list(group.reasons),
                "targets": {metric: row.name for metric, row in group.targets.items()},
                "rows": [_row_as_json(row, group.knobs) for row in group.rows],
            }
            for group in self.groups
        ]
        return json.dumps({"schema": 1, "to": self.to, "groups": groups}, indent=2, ensure_ascii=False)


def compare(*results: Result | str | Path, to: Target = "first", by: Order = "given") -> Comparison:
    """Compare any number of results, given as Results, as JSON files or as folders of these.

    to: compare each result with the first of its group, or each metric with its best value in the group; by:
    the order of the rows, as given (the files of a folder by name) or by training step (see `training_step`).
    What is given twice counts once. Raises ResultError for files that are no results, and UsageError for no
    results or, in order of training steps, for results without one.

    >>> comparison = dit_eval.compare("result.json", result)
    >>> [row.name for row in comparison.groups[0].rows]
    ['digits (cfg=1.50) #1', 'digits (cfg=1.50) #2']
    >>> print(comparison.table())  # also to_json()
    64 images of 8×8 against digits, protocol digits
    ...
    """
    require_choices(to=(to, ("first", "best")), by=(by, ("given", "step")))
    warnings: list[str] = []
    entries = list(dict(_read(results, warnings)).values())
    if not entries:
        raise UsageError("no results to compare; give JSON files that `dit-eval fid … --json` writes.")
    if by == "step":
        entries = _in_order_of_steps(entries)
    results_in_order = [entry.result for entry in entries]
    names = distinct_names(results_in_order)
    groups: dict[int, list[tuple[_Entry, str]]] = {}
    for number, entry, name in zip(group_numbers(results_in_order), entries, names, strict=True):
        groups.setdefault(number, []).append((entry, name))
    return Comparison(
        to=to,
        groups=tuple(_group(members, entries[0].result, to) for members in groups.values()),
        warnings=tuple(warnings),
    )


class _Entry(NamedTuple):
    result: Result
    training: TrainingStep


def _read(given: Iterable[Result | str | Path], warnings: list[str]) -> Iterator[tuple[int | Path, _Entry]]:
    """Every result with a key by which it is recognised; adds to the warnings what folders hold besides."""
    for item in given:
        if isinstance(item, Result):
            yield id(item), _Entry(item, training_step(item))
        else:
            for file, result in results_at(Path(item), warnings):
                yield file.resolve(), _Entry(result, training_step(result, file))


def _in_order_of_steps(entries: Sequence[_Entry]) -> list[_Entry]:
    """The entries sorted by training step. Raises UsageError for one without."""
    for result, training in entries:
        if training.step is None:
            raise UsageError(
                f"the training step of {result.name} ({result.samples['path']}) is not known. Name it in the "
                'label or the file, e.g. --label "step 400000" or step-400000.json.'
            )
    return sorted(entries, key=lambda entry: entry.training.step or 0)


def _group(members: Sequence[tuple[_Entry, str]], first: Result, to: Target) -> Group:
    """Comparable results, with their names, as a group. first: a result of the first group."""
    results = [entry.result for entry, _ in members]
    facts = [_knobs(entry) for entry, _ in members]
    different = differing(facts)
    targets = _targets(results, to)
    rows = tuple(
        Row(
            result=entry.result,
            training=entry.training,
            name=name,
            heading=heading,
            knobs=row,
            comparisons=comparisons,
        )
        for (entry, name), heading, row, comparisons in zip(
            members, distinct_names(results, different), facts, _comparisons(results, targets), strict=True
        )
    )
    return Group(
        subject=describe_measurement(results[0]),
        reasons=tuple(differences(results[0], first, GUIDANCE_SCALE)),
        knobs=tuple(key for key in different if not _is_told(key, rows)),
        rows=rows,
        targets={metric: rows[i] for metric, i in targets.items()},
    )


def _knobs(entry: _Entry) -> dict[str, str]:
    """The knobs of a result and, where no label names it, the training run."""
    unlabelled = entry.training.step is not None and not entry.result.label
    return {**({"run": entry.training.run} if unlabelled else {}), **knobs(entry.result)}


def _is_told(key: str, rows: Sequence[Row]) -> bool:
    """True for the model if the headings name it, and for weights that model, run and step tell apart."""
    if key == "plan.model":
        return not any(row.result.label for row in rows)
    if key == "plan.weights":
        told = {(row.knobs.get("plan.model"), row.training) for row in rows}
        with_weights = {(row.knobs.get("plan.model"), row.training, row.knobs.get(key)) for row in rows}
        return len(told) == len(with_weights)
    return False


def _targets(results: Sequence[Result], to: Target) -> dict[str, int]:
    """By metric, the index of the result with which the others are compared."""
    targets = {}
    for metric in HEADLINE:
        having = [i for i, result in enumerate(results) if metric in result.metrics]
        if to == "best" and having:
            best = min if METRICS[metric].lower_is_better else max
            targets[metric] = best(having, key=lambda i: results[i].metrics[metric])
        elif 0 in having:
            targets[metric] = 0
    return targets


def _comparisons(results: Sequence[Result], targets: Mapping[str, int]) -> list[dict[str, MetricComparison]]:
    """By result, its comparison with the target of each metric, where both have an interval."""
    pairs = [
        (i, metric)
        for metric, target in targets.items()
        for i, result in enumerate(results)
        if i != target and all(metric in both.intervals for both in (result, results[target]))
    ]
    compared: list[dict[str, MetricComparison]] = [{} for _ in results]
    for i, metric in pairs:
        baseline = baseline_of(results[i], results[targets[metric]])
        compared[i][metric] = compare_metric(metric, results[i], baseline, simultaneous=len(pairs))
    return compared


def _row_as_json(row: Row, keys: Sequence[str]) -> dict[str, Any]:
    metrics = {}
    for name in HEADLINE:
        if name in row.result.metrics:
            metrics[name] = {"value": row.result.metrics[name], **row.result.intervals.get(name, {})}
        if compared := row.comparisons.get(name):
            metrics[name]["comparison"] = {
                "difference": compared.difference,
                "half_width": compared.half_width,
                "paired": compared.paired,
                "verdict": compared.verdict,
            }
    return {
        "name": row.name,
        "label": row.result.label,
        "date": row.result.date,
        "step": row.training.step,
        "knobs": {key: row.knobs.get(key) for key in keys},
        "metrics": metrics,
    }
