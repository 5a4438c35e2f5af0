"""The recorded numbers: read under the names that runners use, and written anew.

What `dit-eval certify --recorded` needs is in the package, the rest in tests/golden; an .npz may have arrays
in both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dit_eval.diagnostics.recorded import numbers
from dit_eval.io.files import atomic_file, write_json
from tools.record.quantities import Quantities, flatten, load

FOLDERS = (numbers.FOLDER, Path(__file__).resolve().parents[2] / "tests" / "golden")
ARRAYS = ("tensorflow_features", "knn_radii", "dit", "sit", "center_crop", "repa_jit_samplers", "encoders")
NUMBERS = "expected"


def read_numbers(folders: Sequence[Path] = FOLDERS) -> dict[str, Any]:
    """The contents of expected.json."""
    return json.loads(_find(f"{NUMBERS}.json", folders)[0].read_text("utf-8"))


def read(folders: Sequence[Path] = FOLDERS) -> Quantities:
    """Every recorded number, text and array by its name."""
    quantities = flatten(read_numbers(folders), NUMBERS)
    for file in ARRAYS:
        for path in _find(f"{file}.npz", folders):
            quantities |= flatten(load(path), file)
    return quantities


def write(found: Mapping[str, np.ndarray], folders: Sequence[Path] = FOLDERS) -> None:
    """Write all files anew, in the order of what is stored. A quantity that was not found keeps its value.

    Arrays that are not stored yet are added to the last folder that has their file. Raises ResultError if a
    file cannot be written.
    """
    quantities = read(folders) | dict(found)
    document = read_numbers(folders)
    for name, value in quantities.items():
        file, _, key = name.partition("/")
        if file == NUMBERS:
            _replace(document, key, value.tolist())
    write_json(_find(f"{NUMBERS}.json", folders)[0], document)
    for file in ARRAYS:
        prefix = f"{file}/"
        arrays = {
            name.removeprefix(prefix): value for name, value in quantities.items() if name.startswith(prefix)
        }
        *others, last = _find(f"{file}.npz", folders)
        for path in others:
            _save(path, {name: arrays.pop(name) for name in load(path)})
        _save(last, arrays)


def _find(file: str, folders: Sequence[Path]) -> list[Path]:
    return [folder / file for folder in folders if (folder / file).is_file()]


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with atomic_file(path) as stream:
        np.savez_compressed(stream, **arrays)  # pyright: ignore[reportArgumentType]


def _replace(document: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split("/")
    for parent in parents:
        document = document.setdefault(parent, {})
    document[last] = value
