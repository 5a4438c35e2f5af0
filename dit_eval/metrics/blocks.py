"""How metrics go through many images: blocks of rows, and random choices that are always the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

BLOCK_ROWS = 2000  # images that are processed at once
_SEED = 0


class SupportsSlicing(Protocol):
    """Rows (N, D) that are read by slices, as those of an array, in memory or on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


def row_blocks(n: int) -> Iterator[slice]:
    """Slices of BLOCK_ROWS rows, the last one shorter, that cover 0…n."""
    for start in range(0, n, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, n))


def permutations(n: int) -> Iterator[np.ndarray]:
    """An endless sequence of random permutations of 0…n-1, the same on every machine: (n,) integers.

    They sort the raw output of a bit generator, which numpy guarantees never to change; its own permutations
    may change between versions.
    """
    generator = np.random.Philox(_SEED)
    while True:
        yield np.argsort(generator.random_raw(n), kind="stable")


def random_subsets(n: int, words: int) -> np.ndarray:
    """64 random subsets of n images for each word, in which every image is with probability 5/8.

    Returns (words, n) uint64, the same on every machine: bit b of word w says which images are in subset
    64·w + b.
    """
    a, b, c = np.random.Philox(_SEED).random_raw((3, words, n))
    return a | (b & c)
