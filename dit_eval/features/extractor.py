"""From a stream of images to a stream of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from dit_eval.features.digits import load_digits_network
from dit_eval.features.inception import load_inception
from dit_eval.features.protocols import INCEPTION, Protocol
from dit_eval.features.resize import RESIZES
from dit_eval.io.batches import Images, prefetch
from dit_eval.runtime.malloc import keep_freed_memory
from dit_eval.runtime.precision import computation

NETWORKS: dict[str, Callable[[Path], nn.Module]] = {
    INCEPTION: load_inception,
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
        self._network = load_network(protocol.network, weights).to(device)

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Dimensions of a pool feature and of a spatial feature, and the number of classes."""
        return self._network.dimensions  # type: ignore[return-value]

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> Features:
        """Features of one block of images."""
        with computation("fp32", self.device):
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


def load_network(name: str, weights: Path) -> nn.Module:
    """A feature network on the CPU, in float32. The states of random number generators stay as they are.

    Raises AssetError for weights that are not those of the network.
    """
    cpu = torch.device("cpu")
    with computation("fp32", cpu), cpu, torch.random.fork_rng(devices=[]):  # layers draw initial weights
        return NETWORKS[name](weights)
