"""Rows that are needed once more but must not fill the memory: a file that is sliced like an array."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator

import numpy as np

from dit_eval.npz import Rows

_BLOCK = 2000  # rows that are read at once


class Spool:
    """Rows of one width as float16, which a standard error does not feel, in a file without a name.

    `spool[start:stop]` reads those rows, (n, width); values beyond float16 are clipped.
    """

    def __init__(self, width: int):
        self.width = width
        self._n = 0
        self._file = tempfile.TemporaryFile(prefix="dit-eval-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return self._n

    def append(self, rows: np.ndarray) -> None:
        """Add rows (n, width)."""
        limit = np.finfo(np.float16).max
        self._file.seek(0, 2)
        self._file.write(np.clip(rows, -limit, limit).astype(np.float16).tobytes())
        self._n += len(rows)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(self._n)
        assert step == 1
        self._file.seek(2 * self.width * start)
        read = self._file.read(2 * self.width * (stop - start))
        return np.frombuffer(read, np.float16).reshape(-1, self.width)

    def rows(self) -> Rows:
        """All rows as an array that is written as it is read."""
        return Rows((self._n, self.width), np.float16, self._blocks())

    def _blocks(self) -> Iterator[np.ndarray]:
        for start in range(0, self._n, _BLOCK):
            yield self[start : start + _BLOCK]
