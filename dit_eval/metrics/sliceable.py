"""What a metric that goes through its rows in blocks needs of them."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Sliceable(Protocol):
    """Rows (N, D) that are sliced as an array is, wherever they lie."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...
