"""What can differ between results: settings of the sampling and the evaluation, and the training step."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_eval.results.comparability import meaning, show_value
from dit_eval.results.result import Result
from dit_eval.sampling.options import OPTIONS

# Fields of a plan from the most telling one; `samples` has num and image_size too
_FIRST, _LAST, _ELSEWHERE = ("model", "cfg", "sampler", "steps"), ("weights",), ("num", "image_size")
_ENVIRONMENT = ("device", "torch", "dit_eval")
_TITLES = {
    "protocol.name": "protocol",
    "reference.name": "reference",
    "samples.n": "n",
    "samples.size": "size",
    "environment.device": "evaluated on",
    "environment.torch": "torch",
    "environment.dit_eval": "dit-eval",
}
_STEP = re.compile(r"(?<![a-z])step[-_= ]?(?P<count>\d{1,9})(?P<unit>[km]?)(?![a-z0-9])", re.IGNORECASE)
_NUMBER = re.compile(r"(?P<count>\d{5,7})(?P<unit>)")  # 0400000, as DiT names its checkpoints
_UNITS = {"": 1, "k": 1000, "m": 1_000_000}


def knobs(result: Result) -> dict[str, str]:
    """Everything that was set or that the numbers may depend on, as text: `section.field` → value.

    The most telling come first. Of the environment, it holds the device and the versions that compute.
    """
    plan = result.samples.get("plan") or {}
    others = [key for key in plan if key not in (*_FIRST, *_LAST, *_ELSEWHERE)]
    fields = {f"plan.{key}": plan[key] for key in (*_FIRST, *others, *_LAST) if key in plan}
    fields["protocol.name"] = result.protocol["name"]
    fields["reference.name"] = Path(result.reference["path"]).name
    fields |= {
        key: value
        for key, value in meaning(result.protocol, result.samples, result.reference).items()
        if key not in fields and key not in (f"plan.{name}" for name in _ELSEWHERE)
    }
    environment = result.environment
    fields |= {f"environment.{key}": environment[key] for key in _ENVIRONMENT if key in environment}
    return {key: format_knob(key, value) for key, value in fields.items()}


def differing(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The knobs that are not equal in all rows, in the order of `knobs`.

    An option that only some samplers have counts if it is not at its default wherever it is.
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if _differs(key, rows)]


def _differs(key: str, rows: Sequence[Mapping[str, str]]) -> bool:
    having = [row for row in rows if key in row]
    if len({row[key] for row in having}) > 1:
        return True
    return len(having) < len(rows) and not all(_is_default(key, row) for row in having)


def _is_default(key: str, row: Mapping[str, str]) -> bool:
    """True for an option of the row's sampler with its default value."""
    options, name = OPTIONS.get(row.get("plan.sampler", ""), {}), key.removeprefix("plan.")
    return name in options and row[key] == format_knob(key, options[name])


def knob_title(key: str) -> str:
    """The heading of a knob: the setting's name, for a knob of the plan."""
    return _TITLES.get(key, key.removeprefix("plan.").replace("_", " "))


def format_knob(key: str, value: Any) -> str:
    """The value of a knob; guidance scales with two digits or more."""
    if key == "plan.cfg" and value is not None and round(value, 2) == value:
        return f"{value:.2f}"
    return show_value(value)


@dataclass(frozen=True)
class TrainingStep:
    """The number of training steps behind a result, and what the text that names it says besides: the run."""

    step: int | None = None
    run: str = ""


def training_step(result: Result, file: Path | None = None) -> TrainingStep:
    """The training step that a result's label names, or else its file or the file of its samples.

    Recognised are "step" with a number (step-400000, step 400k, step_0400000) and a text that is nothing but
    a number of five to seven digits, as DiT names its checkpoints (0400000). A file is also known by the name
    of its folder. file: that of the result, if there is one.
    """
    for text, parent in _names(result, file):
        if match := _STEP.search(text) or _NUMBER.fullmatch(text):
            around = (part.strip(" -_=,.()") for part in (text[: match.start()], text[match.end() :]))
            run = " ".join(filter(None, around)) or parent
            return TrainingStep(int(match["count"]) * _UNITS[match["unit"].lower()], run)
    return TrainingStep()


def _names(result: Result, file: Path | None) -> Iterator[tuple[str, str]]:
    """The texts that may name a training step, each with the name of what it lies in."""
    if result.label:
        yield result.label, ""
    for path in filter(None, (file, Path(result.samples["path"]))):
        folder = path.absolute().parent
        yield path.name.removesuffix(path.suffix).removesuffix(".result"), folder.name
        yield (folder.name, folder.parent.name) if _STEP.search(folder.name) else ("", "")
