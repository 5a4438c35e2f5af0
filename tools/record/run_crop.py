"""Run guided-diffusion's center_crop_arr, in an environment of its own: `run_crop OUT.npz`.

Its file imports blobfile and mpi4py, which the function does not use; empty modules stand in for them.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from PIL import Image

from dit_eval.diagnostics.recorded import images
from tools.record import quantities

SIDE = 64
SIZES = [  # height and width: extreme ratios, both sides short, then any
    *((200, 512), (495, 196), (226, 490), (64, 64), (65, 64), (40, 60), (511, 128), (393, 292), (304, 424)),
    *((359, 324), (330, 402), (325, 356), (356, 380), (291, 388), (382, 358), (257, 420), (408, 336)),
    *((223, 452), (434, 314), (189, 484)),
]


def main(out: Path) -> None:
    """Write the arrays of center_crop.npz to `out`."""
    unused = {"blobfile": SimpleNamespace(), "mpi4py": SimpleNamespace(MPI=None)}
    with patch.dict(sys.modules, unused):  # pyright: ignore[reportArgumentType]
        crop = importlib.import_module("image_datasets").center_crop_arr
    photographs = images.build("reference", len(SIZES), 512)
    cropped = [
        crop(Image.fromarray(image[:height, :width]), SIDE)
        for image, (height, width) in zip(photographs, SIZES, strict=True)
    ]
    quantities.save(out, center_crop={"sizes": np.array(SIZES), f"cropped_{SIDE}": np.stack(cropped)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
