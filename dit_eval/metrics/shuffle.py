"""Random orders that are the same in every run, on every machine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_SEED = 0


def permutations(n: int) -> Iterator[np.ndarray]:
    """Orders of n things, one after another without end: (n,) integers.

    They come from a generator's words, which numpy promises to keep; its permutations it does not.
    """
    words = np.random.Philox(_SEED)
    while True:
        yield np.argsort(words.random_raw(n), kind="stable")
