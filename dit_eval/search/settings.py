"""The settings of a search: which may vary, how their values are written, and the grid that they span."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import product
from typing import Any

from dit_eval.errors import UsageError
from dit_eval.sampling.options import OPTIONS

# The arguments of `generate` that change the images of a batch and not which images they are
VARIABLE = (
    *("model", "ckpt", "vae", "sampler", "steps"),
    *("cfg", "cfg_channels", "cfg_interval", "cfg_times", "rounding", "precision"),
    *dict.fromkeys(option for options in OPTIONS.values() for option in options),
)
MODEL_ARGUMENT = "model."  # before the name of an argument of a plug-in, which may vary too
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER}):({_NUMBER})", re.IGNORECASE)
_MOST = 1000  # values of a range; a longer one is a mistake

Values = Mapping[str, Any]  # of the varied settings of one candidate, by name


def split_values(text: str) -> list[str]:
    """ "1.0:2.0:0.5,3" → ["1", "1.5", "2", "3"]; commas within brackets or parentheses do not separate.

    A range START:STOP:STEP includes STOP if a step ends there. Raises UsageError for empty values and for
    ranges without end.
    """
    parts = [part.strip() for part in re.split(r",(?![^\[(]*[\])])", text)]
    if "" in parts:
        raise UsageError(f"{text!r} has an empty value; separate values by commas, e.g. 50,250.")
    return [value for part in parts for value in _expanded(part)]


def _expanded(part: str) -> list[str]:
    """The values of a range, or the one value."""
    match = _RANGE.fullmatch(part)
    if match is None:
        return [part]
    start, stop, step = map(Decimal, match.groups())
    if step <= 0 or stop < start or (stop - start) / step >= _MOST:
        raise UsageError(
            f"{part!r} is not a range of at most {_MOST} values; expected START:STOP:STEP with START ≤ STOP "
            "and a positive STEP, e.g. 1.0:3.0:0.25."
        )
    return [f"{(start + i * step).normalize():f}" for i in range(int((stop - start) / step) + 1)]


def require_axes(vary: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any]) -> None:
    """Raise UsageError unless each varied setting may vary, is not fixed too and has different values.

    fixed: the other settings, None where they are not given.
    """
    own = fixed.get("model_args") or {}
    given = {**fixed, **{f"{MODEL_ARGUMENT}{name}": value for name, value in own.items()}}
    for name, values in vary.items():
        if name not in VARIABLE and not name.startswith(MODEL_ARGUMENT):
            raise UsageError(
                f"{name} is not a setting that can vary. Choose among {', '.join(VARIABLE)}, or "
                f"{MODEL_ARGUMENT}KEY for an argument of a plug-in."
            )
        if given.get(name) is not None:
            raise UsageError(f"{name} is varied and also given as {given[name]}; give it once.")
        if len(set(values)) < len(values):
            raise UsageError(f"{name} has a value twice: {', '.join(show(value) for value in values)}.")
    if sum(len(values) - 1 for values in vary.values()) < 1 or not all(vary.values()):
        raise UsageError("nothing varies; give at least one setting with two values, e.g. cfg=1.0,1.5.")


def grid(vary: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the values; the last setting varies fastest."""
    for values in product(*vary.values()):
        yield dict(zip(vary, values, strict=True))


def generation_arguments(fixed: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """The arguments of `generate` for a candidate; fixed: those that all candidates share."""
    own = {name: value for name, value in values.items() if name.startswith(MODEL_ARGUMENT)}
    arguments = {**fixed, **{name: value for name, value in values.items() if name not in own}}
    if own:
        of_model = {name.removeprefix(MODEL_ARGUMENT): value for name, value in own.items()}
        arguments["model_args"] = {**arguments.get("model_args", {}), **of_model}
    return arguments


def show(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None:
        return "none"
    if isinstance(value, (tuple, list)):
        return " ".join(map(show, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe(values: Values) -> str:
    """ "cfg=1.5, steps=50"."""
    return ", ".join(f"{name}={show(value)}" for name, value in values.items())


def file_name(number: int, values: Values) -> str:
    """The name of a candidate's files without suffix, distinct by its number: "003-cfg-1.5-steps-50"."""
    text = re.sub(r"[^A-Za-z0-9.]+", "-", describe(values)).strip("-")
    return f"{number:03d}-{text[:80]}"
