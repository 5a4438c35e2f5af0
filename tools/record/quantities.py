"""How runners hand over what they recorded: one .npz of named arrays. Needs nothing but numpy.

The names are those of tests/golden: `dit/small_forward` is the array small_forward of dit.npz, and
`expected/evaluator_on_images/300/adm_evaluator/fid` is a number of expected.json, as an array without axes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Quantities = dict[str, np.ndarray]


def flatten(values: Mapping[str, Any], prefix: str) -> Quantities:
    """The arrays, numbers, texts and lists in nested mappings, by their keys joined with slashes."""
    return dict(_leaves(values, prefix))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}/{key}")
    else:
        yield name, np.asarray(value)


def save(out: Path, **files: Mapping[str, Any]) -> None:
    """Write what belongs into each of the files of tests/golden as one .npz."""
    quantities: Quantities = {}
    for file, values in files.items():
        quantities |= flatten(values, file)
    np.savez(out, **quantities)  # pyright: ignore[reportArgumentType]: names are no other argument's


def load(path: Path) -> Quantities:
    """The arrays of an .npz by name."""
    with np.load(path) as arrays:
        return dict(arrays)


def sha256(array: np.ndarray) -> str:
    """SHA-256 of the bytes of an array, in hex."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
