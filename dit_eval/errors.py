"""Exceptions raised for wrong use and bad input.

DitEvalError            base class; the command line prints the message and exits with 2
├── UsageError          contradictory options or unknown names
├── BatchError          images that cannot be read or written: missing key, wrong dtype or shape, damaged file
├── StatisticsError     features or statistics from which a metric cannot be computed
├── AssetError          weights, references, manifests: missing, damaged, wrong checksum
│   └── UnreachableError    not in the cache, and the network is forbidden or cannot be reached
├── CheckpointError     a checkpoint that does not fit the model
├── ModelError          a plug-in that cannot be loaded, raises an exception, or returns unusable values
├── CostError           a model whose cost cannot be counted: not traceable, or an unknown operator
├── RankError           a failure of another rank, on the ranks that would wait for it
└── ResultError         results that cannot be read, written or compared

Messages say what was expected, what was found and what to do. They name an option as it is typed on the
command line; the parameter of a Python function has the same name, such as --cfg-interval and cfg_interval,
except `num`, which is --num-samples, and `model_args`, which is --model-arg.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable


class DitEvalError(Exception):
    """Base class of errors that are caused by the input or the options."""


class DitEvalWarning(UserWarning):
    """Something about the input that does not stop the work but may make its result wrong."""


class UsageError(DitEvalError):
    """Contradictory options, or a name that is not registered."""


class BatchError(DitEvalError):
    """A batch of images that cannot be read or written."""


class StatisticsError(DitEvalError):
    """Features or statistics from which a metric cannot be computed."""


class AssetError(DitEvalError):
    """Weights, references or manifests that are missing, damaged or cannot be downloaded."""


class UnreachableError(AssetError):
    """An asset that is not in the cache while the network is forbidden or cannot be reached."""


class CheckpointError(DitEvalError):
    """A checkpoint that does not fit the model."""


class ModelError(DitEvalError):
    """A plug-in that cannot be loaded, raises an exception, or returns unusable values.

    Where the plug-in raised an exception, that is the `__cause__`; the command line shows its traceback.
    """


class CostError(DitEvalError):
    """A model whose cost cannot be counted: it cannot be traced, or an operator has no registered cost."""


class RankError(DitEvalError):
    """A failure of another rank, raised on the ranks that would wait for it."""


class ResultError(DitEvalError):
    """Results that cannot be read, written or compared."""


def option_name(parameter: str) -> str:
    """The option of the command line that a parameter is: "cfg_interval" → "--cfg-interval"."""
    spelled = {"num": "num-samples", "model_args": "model-arg"}.get(parameter, parameter)
    return f"--{spelled.replace('_', '-')}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the nearest of the known names, whatever their case; empty if none is near."""
    from difflib import get_close_matches  # only for errors

    by_lower = {other.lower(): other for other in known}
    near = [by_lower[lower] for lower in get_close_matches(name.lower(), by_lower)]
    return f" Did you mean {' or '.join(near)}?" if near else ""


def require_known(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise UsageError, with the nearest and all known names, for the first name that is not known."""
    for name in names:
        if name not in known:
            listed = ", ".join(known)
            raise UsageError(f"unknown {kind} {name!r} (known: {listed}).{did_you_mean(name, known)}")


def require_choices(**options: tuple[object, Collection[object]]) -> None:
    """Raise UsageError unless the value of every option=(value, choices) is one of its choices."""
    for option, (value, choices) in options.items():
        if value not in choices:
            listed = ", ".join(map(str, choices))
            near = did_you_mean(value, map(str, choices)) if isinstance(value, str) else ""
            raise UsageError(f"{option.replace('_', ' ')} {value!r} is not one of {listed}.{near}")


def require_positive(**parameters: object) -> None:
    """Raise UsageError unless the value of every parameter is an integer of at least 1."""
    for parameter, value in parameters.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{parameter} is {value!r}; expected an integer of at least 1.")
