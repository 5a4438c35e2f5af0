"""What the checks share: the device, and inputs that are made once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from dit_eval.diagnostics.recorded import features, images
from dit_eval.diagnostics.recorded.networks import save_inception
from dit_eval.evaluation.extraction import ExtractionProgress

SIZES = (64, 256, 512)  # pixels of the images whose features were recorded
FROZEN = ("rank_deficient", "fp16_outlier")  # the cases of `features` that are compared


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A device, a folder for temporary files, the size of batches and a callback for `evaluate`."""

    device: torch.device
    folder: Path
    batch_size: int = 64
    progress: ExtractionProgress | None = None

    @cached_property
    def inception(self) -> Path:
        """A file of the synthetic Inception weights."""
        return save_inception(self.folder / "inception.safetensors")

    @cached_property
    def inception_weights(self) -> dict[str, np.ndarray]:
        """The contents of that file."""
        return load_file(self.inception)

    @cached_property
    def images(self) -> dict[int, np.ndarray]:
        """Eight procedural images (8, S, S, 3) of each size."""
        return {size: images.build("reference", 8, size) for size in SIZES}

    @cached_property
    def frozen_features(self) -> dict[str, dict[str, np.ndarray]]:
        """The arrays of every frozen case."""
        return {name: features.case(name) for name in FROZEN}
