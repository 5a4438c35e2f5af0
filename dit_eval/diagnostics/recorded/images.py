"""Procedural images that resemble photographs: the same bytes on every machine, free of copyright.

Octaves of value noise, partly covered by ellipses and bars. The set "samples" has fewer octaves and coarser
grey levels than "reference", like the output of a weak generator. All arithmetic is on integers, so that
nothing can round differently.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def build(name: str, n: int, size: int) -> NDArray[np.uint8]:
    """Images 0 … n − 1 of the set `name`, "reference" or "samples": (n, size, size, 3)."""
    return np.stack([image(name, i, size) for i in range(n)])


def image(name: str, index: int, size: int) -> NDArray[np.uint8]:
    """Image number `index`, (size, size, 3); it depends on these three arguments only."""
    weak = name.startswith("samples")
    key = (zlib.crc32(name.encode("ascii")) << 32) ^ (index * 2_654_435_761)
    octaves = (2, 4, 8, 16) if weak else (2, 4, 8, 16, 32)
    brightness = _noise(key, 100, octaves, size)
    pixels = _background(key, octaves, brightness)
    _cover(pixels, key, index % 10, brightness)
    grain = _integers(key ^ 7, 0, 9 if weak else 17, size * size * 3).reshape(size, size, 3)
    pixels = np.clip(pixels + grain - (4 if weak else 8), 0, 255)
    return (pixels // 6 * 6 if weak else pixels).astype(np.uint8)


def _background(key: int, octaves: Sequence[int], brightness: Integers) -> Integers:
    """(size, size, 3): the common noise and a third of each channel's own, in a random colour."""
    base, gain = _integers(key ^ 1, 70, 186, 3), _integers(key ^ 2, 30, 90, 3)
    channels = []
    for channel in range(3):
        own = _noise(key, 1000 * (channel + 1), octaves, len(brightness))
        channels.append(base[channel] + ((2 * brightness + own) // 3 - 110) * gain[channel] // 64)
    return np.stack(channels, axis=-1)


def _cover(pixels: Integers, key: int, kind: int, brightness: Integers) -> None:
    """Paint 1 to 4 striped ellipses (if `kind` is odd) or bars over the image, in place."""
    size = len(pixels)
    y, x = np.mgrid[0:size, 0:size].astype(np.int64)
    for shape in range(1 + kind % 4):
        center_y, center_x, height, width = (int(v) for v in _integers(key ^ (50 + shape), 0, 1000, 4))
        dy, dx = y - center_y * size // 1000, x - center_x * size // 1000
        radius_y, radius_x = (size // 16 + extent * size // 3000 for extent in (height, width))
        if kind % 2:
            inside = (dy * radius_x) ** 2 + (dx * radius_y) ** 2 <= (radius_x * radius_y) ** 2
        else:
            inside = (abs(dy) <= radius_y) & (abs(dx) <= radius_x)
        colour = _integers(key ^ (70 + shape), 48, 208, 3)
        stripes = ((x * (1 + kind) + y * (shape + 1)) * 8 // size) % 2
        shading = 40 * stripes + brightness // 4 - 32
        pixels[inside] = colour + shading[inside][:, None]


def _noise(key: int, offset: int, octaves: Sequence[int], size: int) -> Integers:
    """(size, size): a weighted sum of value noise on grids of ever more cells, about 0 … 255."""
    total = np.zeros((size, size), np.int64)
    for i, cells in enumerate(octaves):
        total += _value_noise(key ^ (offset + cells), cells, size) * 2 ** (5 - i)
    return total // 62


def _value_noise(key: int, cells: int, size: int) -> Integers:
    """(size, size), 0 … 255: random values on a grid of cells × cells, interpolated bilinearly."""
    grid = _integers(key, 0, 256, (cells + 1) ** 2).reshape(cells + 1, cells + 1)
    position = (2 * np.arange(size, dtype=np.int64) + 1) * cells
    cell, fraction = position // (2 * size), position % (2 * size)
    rows = grid[cell] * (2 * size - fraction)[:, None] + grid[cell + 1] * fraction[:, None]
    return (rows[:, cell] * (2 * size - fraction) + rows[:, cell + 1] * fraction) // (4 * size * size)


def _integers(key: int, low: int, high: int, count: int) -> Integers:
    """(count,) pseudorandom integers in low … high − 1, which depend on the key only."""
    start = _splitmix64(np.array([key & 0xFFFFFFFFFFFFFFFF], np.uint64))
    words = _splitmix64(np.arange(count, dtype=np.uint64) + start)
    return (words % np.uint64(high - low)).astype(np.int64) + low


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The next output of splitmix64 for every state (Steele et al. 2014); arrays of uint64 wrap around."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
