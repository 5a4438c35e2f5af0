"""Names of results that say what differs between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dit_eval.results.comparability import SUBJECT
from dit_eval.results.knobs import differing, knob_title, knobs
from dit_eval.results.result import Result

_PATH = "samples.path"


def with_distinct_names(results: Sequence[Result]) -> list[Result]:
    """The results, each with a label that no other has; see `distinct_names`."""
    names = distinct_names(results)
    return [replace(result, label=name) for result, name in zip(results, names, strict=True)]


def distinct_names(results: Sequence[Result], shown: Collection[str] = ()) -> list[str]:
    """A name for each result that no other has.

    It is the label; without one the model and its guidance scale; without these the end of the path of the
    samples, as long as needed. Where results share this, the knobs that tell them apart follow in
    parentheses, as few as needed, or else a number. shown: knobs that stand beside the names, which need not
    repeat them.
    """
    paths = _short_paths([Path(result.samples["path"]) for result in results])
    facts = [{**knobs(result), _PATH: path} for result, path in zip(results, paths, strict=True)]
    names = _distinguish([_base(*each) for each in zip(results, paths, strict=True)], facts, shown)
    beside = [(name, *(row.get(key) for key in shown)) for name, row in zip(names, facts, strict=True)]
    counts, seen = Counter(beside), Counter()
    for i, key in enumerate(beside):
        seen[key] += 1
        if counts[key] > 1:
            names[i] += f" #{seen[key]}"
    return names


def series_names(bases: Sequence[str], results: Sequence[Result], within: Collection[str]) -> list[str]:
    """The name of the curve to which each result belongs: its base, with what differs between curves.

    bases: for instance the models; within: knobs that differ within a curve, such as `plan.cfg`. Curves are
    told apart by model, weights, guidance and sampler; the seed, for example, may differ within one.
    """
    keys = {f"plan.{key}" for key in (*SUBJECT, "model", "weights", "cfg")} - set(within)
    facts = [{key: value for key, value in knobs(result).items() if key in keys} for result in results]
    return _distinguish([(base, ()) for base in bases], facts)


def labels_by_name(results: Sequence[Result]) -> dict[str, str | None]:
    """The label that the user gave each result, by its distinct name."""
    return dict(zip(distinct_names(results), (result.label for result in results), strict=True))


def curve_names(
    results: Sequence[Result], labels: Sequence[str | None], within: Collection[str]
) -> list[str]:
    """`series_names` with the label that all results of a curve share, or else with the model.

    results: made by `dit-eval sample`; labels: those that the user gave them.
    """
    models = [result.samples["plan"]["model"] for result in results]
    curves = series_names(models, results, within)
    labels_of: dict[str, set[str | None]] = {}
    for curve, label in zip(curves, labels, strict=True):
        labels_of.setdefault(curve, set()).add(label)
    bases = [
        label if label and len(labels_of[curve]) == 1 else model
        for curve, label, model in zip(curves, labels, models, strict=True)
    ]
    return series_names(bases, results, within)


def _base(result: Result, path: str) -> tuple[str, tuple[str, ...]]:
    """What a result is called first, and the knobs that always follow."""
    plan = result.samples.get("plan")
    if result.label:
        return " ".join(result.label.split()), ()
    if not plan:
        return path, ()
    return plan["model"], ("plan.cfg",) if plan.get("cfg") is not None else ()


def _distinguish(
    bases: Sequence[tuple[str, tuple[str, ...]]],
    facts: Sequence[Mapping[str, str]],
    shown: Collection[str] = (),
) -> list[str]:
    """Each base with those of its facts that set it apart from equal bases with equal facts in `shown`."""
    details = [[key for key in always if key not in shown] for _, always in bases]
    pending = _groups(
        range(len(bases)),
        [
            (base, *(row.get(key) for key in (*shown, *keys)))
            for base, row, keys in zip(bases, facts, details, strict=True)
        ],
    )
    while pending:
        members = pending.pop()
        if different := differing([facts[i] for i in members]):
            key = different[0]
            for i in members:
                details[i].append(key)
            pending += _groups(members, [facts[i].get(key) for i in members])
    return [
        _name(base, [f"{knob_title(key)}={row[key]}" for key in keys if key in row])
        for (base, _), row, keys in zip(bases, facts, details, strict=True)
    ]


def _name(base: str, details: Sequence[str]) -> str:
    return f"{base} ({', '.join(details)})" if details else base


def _groups(members: Iterable[int], keys: Iterable[Hashable]) -> list[list[int]]:
    """The members with equal keys, together."""
    groups: dict[Hashable, list[int]] = {}
    for i, key in zip(members, keys, strict=True):
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _short_paths(paths: Sequence[Path]) -> list[str]:
    """The end of each path that no other path has, at least the file's name."""
    different, short = set(paths), []
    for path in paths:
        lengths = range(1, len(path.parts))
        ends = (path.parts[-length:] for length in lengths)
        unique = (end for end in ends if sum(other.parts[-len(end) :] == end for other in different) == 1)
        short.append(str(Path(*next(unique, path.parts))))
    return short
