"""Tables of TOML files as typed records."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from dit_eval.errors import AssetError

Record = TypeVar("Record")


def read_toml(path: Path, parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """The content of a TOML file. Raises AssetError if it cannot be read."""
    try:
        return tomllib.loads(path.read_text("utf-8"), parse_float=parse_float)
    except (OSError, ValueError, RecursionError) as error:
        raise AssetError(f"{path} cannot be read as TOML ({error}).") from None


def make_record(record: type[Record], path: Path, entry: str, values: Any, /, **given: Any) -> Record:
    """The table `values`, an entry of the file `path`, as an instance of the dataclass `record`.

    given: values of further fields, which the table must not have. Raises AssetError, naming entry and key,
    for unknown keys, missing keys and values of another type than the field's.
    """
    if not isinstance(values, dict):
        raise AssetError(f"{path}: {entry!r} is not a table; expected entries such as [{entry}].")
    types = get_type_hints(record)
    known = [key for key in fields(record) if key.name not in given]  # type: ignore[arg-type]
    required = {key.name for key in known if key.default is key.default_factory is MISSING}
    for key in sorted(values.keys() - {key.name for key in known}):
        keys = ", ".join(key.name for key in known)
        raise AssetError(f"{path}: entry [{entry}] has the unknown key {key!r}; known keys are {keys}.")
    for key in sorted(required - values.keys()):
        raise AssetError(f"{path}: entry [{entry}] lacks the key {key!r}.")
    for key, value in values.items():
        if not _fits(value, types[key]):
            raise AssetError(f"{path}: entry [{entry}] has the wrong type of value in {key} = {value!r}.")
    tuples = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return record(**values | tuples | given)


def _fits(value: Any, annotation: Any) -> bool:
    """True if a value of TOML has the type that a field of a record is annotated with."""
    arguments = get_args(annotation)
    match get_origin(annotation):
        case None:
            accepted = (int, float) if annotation is float else annotation
            return annotation is Any or (isinstance(value, accepted) and not isinstance(value, bool))
        case origin if origin is Literal:
            return value in arguments
        case origin if origin is UnionType:
            return any(_fits(value, argument) for argument in arguments)
        case origin if origin is tuple:
            return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
        case _:
            return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
