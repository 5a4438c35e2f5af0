"""The numbers recorded from the original programs, and the inputs on which they ran; see tests/golden."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch

from dit_eval.diagnostics.recorded import images, numbers
from dit_eval.diagnostics.recorded.networks import synthetic_dit
from dit_eval.io.npz import write_npz

GOLDEN = Path(__file__).with_name("golden")
golden_model = cache(synthetic_dit)


@cache
def recorded(name: str) -> dict[str, np.ndarray]:
    """The arrays of `name`.npz: those that `certify` compares with too, and those of tests/golden."""
    found: dict[str, np.ndarray] = {}
    for folder in (numbers.FOLDER, GOLDEN):
        if (folder / f"{name}.npz").is_file():
            with np.load(folder / f"{name}.npz") as arrays:
                assert not found.keys() & set(arrays.files)
                found |= dict(arrays)
    return found


def recorded_tensor(name: str, key: str) -> torch.Tensor:
    """One of those arrays as a tensor."""
    return torch.from_numpy(recorded(name)[key])


def save_images(path: Path, name: str, n: int, size: int) -> Path:
    """Write n procedural images of the set `name` as the batch `path`, an .npz."""
    write_npz(path, {"arr_0": images.build(name, n, size)})
    return path
