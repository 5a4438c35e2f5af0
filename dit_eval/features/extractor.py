"""From a stream of images to a stream of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dit_eval.features.digits import load_digits_network
from dit_eval.features.encoders import load_encoder
from dit_eval.features.inception import load_inception
from dit_eval.features.network import Activations
from dit_eval.features.protocols import INCEPTION, EncoderProtocol, Protocol
from dit_eval.features.resize import RESIZES
from dit_eval.io.batches import prefetch
from dit_eval.runtime.cores import cores_per_process
from dit_eval.runtime.malloc import keep_freed_memory
from dit_eval.runtime.precision import computation

NETWORKS: dict[str, Callable[[Path], nn.Module]] = {INCEPTION: load_inception, "digits": load_digits_network}


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
        self._network = load_network(protocol, weights).to(device)

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Dimensions of a pool feature and of a spatial feature, and the number of classes."""
        return self._network.dimensions  # type: ignore[return-value]

    def close(self) -> None:
        """Release the network and its memory on the device."""
        del self._network
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def __call__(self, images: np.ndarray) -> Features:
        """Features of one block of images."""
        return Features(*(output.cpu().numpy() for output in self.activations(images)))

    def activations(self, images: np.ndarray | Tensor) -> Activations:
        """Outputs of the network on its device for one block of images, uint8 (n, H, W, 3) on any device."""
        if isinstance(images, Tensor) and (images.device.type == "cpu" or self._resize.on_host):
            images = images.cpu().numpy()
        batches = [[images]] if isinstance(images, Tensor) else _inputs([self], iter([images]))
        with keep_freed_memory(self.device):
            (outputs,) = [self._forward(batch) for (batch,) in batches]
        return outputs

    def stream(self, blocks: Iterator[np.ndarray]) -> Iterator[Activations]:
        """Outputs of this network alone; see `stream`."""
        for (outputs,) in stream([self], blocks):
            yield outputs

    @torch.inference_mode()
    def _forward(self, images: Tensor) -> Activations:
        with computation("fp32", self.device):
            batch = images.to(self.device, non_blocking=True)
            outputs = self._network(self._resize.on_device(batch))
            return Activations(*(output.float() for output in outputs))


def stream(
    extractors: Sequence[FeatureExtractor], blocks: Iterator[np.ndarray]
) -> Iterator[list[Activations]]:
    """Outputs of every network on the device, block by block, without waiting for the device.

    extractors: on one device, where all their networks are in memory at once; blocks: images uint8
    (n, H, W, 3); they are read once, in another thread, ahead of the networks.
    """
    with keep_freed_memory(extractors[0].device):
        for inputs in prefetch(_inputs(extractors, blocks)):
            yield [extractor._forward(batch) for extractor, batch in zip(extractors, inputs, strict=True)]


def _inputs(extractors: Sequence[FeatureExtractor], blocks: Iterator[np.ndarray]) -> Iterator[list[Tensor]]:
    """Every block as it is copied to the device for each extractor: after the host's part of its resize, in
    pinned memory. Extractors with the same part share the copy.
    """
    resizes, pin = (
        [extractor._resize.on_host for extractor in extractors],
        extractors[0].device.type == "cuda",
    )
    with ThreadPoolExecutor(cores_per_process()) as workers:
        for block in blocks:
            batches = {}
            for resize in dict.fromkeys(resizes):
                images = torch.from_numpy(np.stack(list(workers.map(resize, block))) if resize else block)
                batches[resize] = images.pin_memory() if pin else images
            yield [batches[resize] for resize in resizes]


def load_network(protocol: Protocol, weights: Path) -> nn.Module:
    """The feature network of a protocol on the CPU, in float32.

    The states of random number generators stay as they are. Raises AssetError for weights that are not those
    of the network.
    """
    cpu = torch.device("cpu")
    with computation("fp32", cpu), cpu, torch.random.fork_rng(devices=[]):  # layers draw initial weights
        if isinstance(protocol, EncoderProtocol):
            return load_encoder(protocol, weights)
        return NETWORKS[protocol.network](weights)
