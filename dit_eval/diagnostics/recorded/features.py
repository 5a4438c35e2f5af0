"""Frozen features for the metrics alone: integers divided by a power of two, so every machine makes the same.

A factor model: 40 latent variables with falling weights, independent noise, and a mean, cut off at 0 as after
a ReLU. "samples" has rotated factors and another mean than "ref". Sums of these numbers are exact in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dit_eval.diagnostics.recorded.streams import RandomState, numbered_stream

_LATENT = 40
_CHUNK = 100  # rows per random stream, so that fewer rows are the first of more rows
_FIRST_STREAM = {"ref": 10_000_000, "samples": 20_000_000}
_SIZES = {  # rows of the reference and of the samples
    "full_rank": (2600, 3100),
    "rank_deficient": (600, 600),
    "over_10000": (1000, 10300),  # more than one of the evaluator's blocks of 10,000
    "fp16_overflow": (600, 700),  # squared norms of about 1e5: no distance is finite in float16
    "fp16_outlier": (600, 700),  # one sample of squared norm > 65,504: its blocks fall back to float32
}


def case(name: str) -> dict[str, NDArray[np.float32]]:
    """{ref,samples}_pool, (N, 2048) and (M, 2048), and {ref,samples}_spatial, (N, 2023) and (M, 2023)."""
    arrays = {
        f"{which}_{kind}": features(n, dimension, which)
        for which, n in zip(("ref", "samples"), _SIZES[name], strict=True)
        for kind, dimension in (("pool", 2048), ("spatial", 2023))
    }
    if name == "fp16_overflow":
        arrays["ref_pool"] *= np.float32(16)
        arrays["samples_pool"] *= np.float32(16)
    if name == "fp16_outlier":
        arrays["samples_pool"][123] *= np.float32(32)
    return arrays


def features(n: int, dimension: int, which: str) -> NDArray[np.float32]:
    """The first n rows of the set `which`, "ref" or "samples": (n, dimension)."""
    loadings, mean = _factors(dimension, which)
    chunks = []
    for chunk in range(-(-n // _CHUNK)):
        stream = numbered_stream(_FIRST_STREAM[which] + dimension * 1000 + chunk)
        latent = _triangular(stream, (_CHUNK, _LATENT), 12)
        noise = _triangular(stream, (_CHUNK, dimension), 60)
        chunks.append(np.maximum(latent @ loadings + 150.0 * noise + mean, 0.0) / 32768.0)
    return np.concatenate(chunks)[:n].astype(np.float32)


def _factors(dimension: int, which: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Loadings (40, dimension) and mean (dimension,)."""
    stream = numbered_stream(1000 + dimension)
    loadings = _triangular(stream, (_LATENT, dimension), 32)
    loadings *= np.maximum(24 - np.arange(_LATENT), 4)[:, None]
    mean = 12000.0 + _triangular(stream, (dimension,), 7000)
    if which == "samples":
        stream = numbered_stream(2000 + dimension)
        loadings = loadings + _triangular(stream, (_LATENT, dimension), 48)
        mean = mean + _triangular(stream, (dimension,), 2500)
    return loadings, mean


def _triangular(stream: RandomState, shape: tuple[int, ...], half: int) -> NDArray[np.float64]:
    """Integers of triangular distribution in −half … half, as float64."""
    first, second = (np.floor(stream.random_sample(shape) * (half + 1)) for _ in range(2))
    return first - second
