"""Seeds for models that draw their own random numbers: a function of (seed, index of the image) alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from dit_eval.sampling.noise import random_words

_STEP = 2**32 - 2  # the step word of the counter of `sampling.noise`, which no sampler reaches


def model_seeds(seed: int, indices: NDArray[np.int64]) -> list[int]:
    """One seed of 64 bits per image, from a stream that is independent of noise and labels."""
    words = random_words(seed, torch.from_numpy(np.ascontiguousarray(indices)), _STEP, 2).tolist()
    return [(high << 32 | low) for high, low in words]


def generators(seed: int, indices: NDArray[np.int64], device: torch.device) -> list[torch.Generator]:
    """One generator per image, seeded by `model_seeds`."""
    return [torch.Generator(device).manual_seed(value) for value in model_seeds(seed, indices)]


@contextmanager
def seeded_globally(seed: int, index: int, device: torch.device) -> Iterator[None]:
    """Within the block, torch (on the CPU and the device), NumPy and `random` are seeded from (seed, index).

    Afterwards their states are those from before.
    """
    (value,) = model_seeds(seed, np.array([index]))
    numpy_state, random_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(value)  # torch.manual_seed would also seed other GPUs
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(value)
        np.random.seed(value % 2**32)  # noqa: NPY002
        random.seed(value)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(random_state)
