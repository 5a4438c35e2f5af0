"""Random numbers that are the same with every version of numpy.

numpy guarantees the values of the legacy RandomState for ever, and those of its Generator only within a
version.
"""

from __future__ import annotations

import zlib

import numpy as np

RandomState = np.random.RandomState


def numbered_stream(number: int) -> RandomState:
    """The stream with this seed, 0 to 2³² − 1."""
    return np.random.RandomState(number)


def named_stream(name: str, seed: int = 0) -> RandomState:
    """The stream of an ASCII name, so that no tensor's values depend on those of another."""
    return numbered_stream((zlib.crc32(name.encode("ascii")) ^ seed) & 0xFFFFFFFF)
