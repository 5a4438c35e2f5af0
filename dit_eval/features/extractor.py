"""From a stream of images to a stream of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from dit_eval.features.digits import load_digits_network
from dit_eval.features.inception import load_inception
from dit_eval.features.protocols import Protocol
from dit_eval.features.resize import RESIZES
from dit_eval.io.batches import Images, prefetch
from dit_eval.runtime.malloc import keep_freed_memory

NETWORKS: dict[str, Callable[[Path], nn.Module]] = {
    "inception-2015-12-05": load_inception,
    "digits": load_digits_network,
}


class Features(NamedTuple):
    """Features of N images, float32: pool (N, D), spatial (N, S), probabilities (N, K)."""

    pool: np.ndarray
    spatial: np.ndarray
    probabilities: np.ndarray


class FeatureExtractor:
    """The resize and the network of a protocol on a device: uint8 (N, H, W, 3) → Features."""

    def __init__(self, protocol: Protocol, weights: Path, device: torch.device):
        self.protocol = protocol
        self.device = device
        self._resize = RESIZES[protocol.resize]
        self._network = NETWORKS[protocol.network](weights).to(device)

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Dimensions of a pool feature and of a spatial feature, and the number of classes."""
        return self._network.dimensions  # type: ignore[return-value]

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> Features:
        """Features of one block of images."""
        with self._full_float32():
            batch = torch.from_numpy(images).to(self.device, non_blocking=True)
            outputs = self._network(self._resize(batch))
            return Features(*(output.float().cpu().numpy() for output in outputs))

    def stream(
        self, images: Images, batch_size: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Features]:
        """Features of images start…stop in file order, block by block; files are decoded ahead.

        Arrays of a running program are read in the caller's thread.
        """
        blocks = images.blocks(batch_size, start, stop)
        with keep_freed_memory(self.device):
            for block in blocks if images.once else prefetch(blocks):
                yield self(block)

    def _full_float32(self) -> AbstractContextManager[None]:
        """Deterministic cuDNN convolutions without TensorFloat-32, which moves features by 1e-3."""
        if self.device.type != "cuda":
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
