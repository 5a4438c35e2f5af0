"""The recorded numbers in tests/golden: read under the names that runners use, and written anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dit_eval.io.files import atomic_file, write_json
from tools.record.quantities import Quantities, flatten, load

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
ARRAYS = ("tensorflow_features", "knn_radii", "dit", "sit", "center_crop")
NUMBERS = "expected"


def read_numbers(folder: Path = GOLDEN) -> dict[str, Any]:
    """The contents of expected.json."""
    return json.loads((folder / f"{NUMBERS}.json").read_text("utf-8"))


def read(folder: Path = GOLDEN) -> Quantities:
    """Every recorded number, text and array by its name."""
    quantities = flatten(read_numbers(folder), NUMBERS)
    for file in ARRAYS:
        quantities |= flatten(load(folder / f"{file}.npz"), file)
    return quantities


def write(found: Mapping[str, np.ndarray], folder: Path = GOLDEN) -> None:
    """Write all files anew, in the order of what is stored. A quantity that was not found keeps its value.

    Raises ResultError if a file cannot be written.
    """
    quantities = read(folder) | dict(found)
    document = read_numbers(folder)
    for name, value in quantities.items():
        file, _, key = name.partition("/")
        if file == NUMBERS:
            _replace(document, key, value.tolist())
    write_json(folder / f"{NUMBERS}.json", document)
    for file in ARRAYS:
        prefix = f"{file}/"
        arrays = {
            name.removeprefix(prefix): value for name, value in quantities.items() if name.startswith(prefix)
        }
        with atomic_file(folder / f"{file}.npz") as stream:
            np.savez_compressed(stream, **arrays)  # pyright: ignore[reportArgumentType]


def _replace(document: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split("/")
    for parent in parents:
        document = document.setdefault(parent, {})
    document[last] = value
