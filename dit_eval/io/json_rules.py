"""Rules for JSON values from files: a predicate, or an object with a rule for each key that will be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Rule = Callable[[Any], bool] | Mapping[str, "Rule"]

_LARGEST = 1e100  # far beyond any metric, and far below the largest float


def require(name: str, value: Any, rule: Rule) -> None:
    """Raise ValueError, naming it, unless a value keeps a rule; keys without a rule may hold anything."""
    if callable(rule):
        valid = rule(value)
    else:
        valid = isinstance(value, dict)
        for key, inner in rule.items() if valid else ():
            require(f"{name}.{key}", value.get(key), inner)
    if not valid:
        raise ValueError(f"{name} is {repr(value)[:40]}")


def fits(value: Any, rule: Rule) -> bool:
    """True if a value keeps a rule."""
    try:
        require("", value, rule)
    except ValueError:
        return False
    return True


def optional(rule: Rule) -> Rule:
    """A key that may be missing or null."""
    return lambda value: value is None or fits(value, rule)


def each(rule: Rule) -> Rule:
    """An object of which every value keeps the rule."""
    return lambda value: isinstance(value, dict) and all(fits(item, rule) for item in value.values())


def text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def boolean(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def number(value: Any) -> bool:
    """A finite number that can be computed with."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


def positive(value: Any) -> bool:
    """A number above 0."""
    return number(value) and value > 0


def count(value: Any) -> bool:
    """An integer of at least 1."""
    return isinstance(value, int) and positive(value)


def size(value: Any) -> bool:
    """Height and width."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(count, value))
