"""Reading the recorded numbers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent


@cache
def expected() -> dict[str, Any]:
    """The contents of expected.json: numbers of the evaluator, checksums of the inputs, versions."""
    return json.loads((FOLDER / "expected.json").read_text("utf-8"))


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    """The arrays of `name`.npz."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)
