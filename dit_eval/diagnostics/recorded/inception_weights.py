"""Synthetic weights of the Inception network by which FID is defined (2015-12-05), in the official layout.

The official weights must not be redistributed and are not needed to compare two programs: any weights will do
that give features of ordinary size. Every tensor has a random stream of its own. The running statistics of
batch normalisation, and the mean feature and scale by which the classifier is centred, were measured once on
images (inception_calibration.npz), so that activations neither vanish nor explode.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dit_eval.diagnostics.recorded.streams import named_stream

Weights = dict[str, NDArray[np.float32]]
CALIBRATION = Path(__file__).with_name("inception_calibration.npz")


def build() -> Weights:
    """All tensors of the official state dict, without `num_batches_tracked`."""
    with np.load(CALIBRATION) as arrays:
        calibration = dict(arrays)
    weights: Weights = {}
    first = 0  # of this layer's channels in the calibration
    for name, out_channels, in_channels, height, width in convolutions():
        channels = slice(first, first + out_channels)
        first += out_channels
        shape = (out_channels, in_channels, height, width)
        kernel = named_stream(f"{name}.conv.weight").standard_normal(shape)
        gain = named_stream(f"{name}.bn.weight").random_sample(out_channels)
        bias = named_stream(f"{name}.bn.bias").random_sample(out_channels)
        kernel *= math.sqrt(2.0 / (in_channels * height * width))
        weights[f"{name}.conv.weight"] = kernel.astype(np.float32)
        weights[f"{name}.bn.weight"] = (0.5 + 0.7 * gain).astype(np.float32)
        weights[f"{name}.bn.bias"] = (0.02 + 0.25 * bias).astype(np.float32)
        weights[f"{name}.bn.running_mean"] = calibration["running_mean"][channels]
        weights[f"{name}.bn.running_var"] = calibration["running_var"][channels]
    weights["fc.weight"] = _classifier(calibration["pool_mean"], float(calibration["fc_scale"]))
    weights["fc.bias"] = (0.1 * named_stream("fc.bias").standard_normal(1008)).astype(np.float32)
    return weights


def digest(weights: Mapping[str, NDArray[np.float32]]) -> str:
    """SHA-256 of all names and values, in the order of the names."""
    sha256 = hashlib.sha256()
    for name in sorted(weights):
        sha256.update(name.encode())
        sha256.update(np.ascontiguousarray(weights[name], dtype="<f4").tobytes())
    return sha256.hexdigest()


def _classifier(mean_feature: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """(1008, 2048), every row orthogonal to the mean feature, so that logits measure how images differ."""
    mean = mean_feature.astype(np.float64)
    squared_norm = math.fsum(mean * mean)  # exact sums do not depend on their order
    rows = named_stream("fc.weight").standard_normal((1008, 2048)).astype(np.float32).astype(np.float64)
    shares = [math.fsum(row * mean) / squared_norm for row in rows]
    centred = np.stack([row - share * mean for row, share in zip(rows, shares, strict=True)])
    return (centred * scale).astype(np.float32)


def convolutions() -> list[tuple[str, int, int, int, int]]:
    """(name, output channels, input channels, kernel height, kernel width) of all convolutions, in order."""
    return [
        ("Conv2d_1a_3x3", 32, 3, 3, 3),
        ("Conv2d_2a_3x3", 32, 32, 3, 3),
        ("Conv2d_2b_3x3", 64, 32, 3, 3),
        ("Conv2d_3b_1x1", 80, 64, 1, 1),
        ("Conv2d_4a_3x3", 192, 80, 3, 3),
        *_block_a("Mixed_5b", 192, 32),
        *_block_a("Mixed_5c", 256, 64),
        *_block_a("Mixed_5d", 288, 64),
        ("Mixed_6a.branch3x3", 384, 288, 3, 3),
        ("Mixed_6a.branch3x3dbl_1", 64, 288, 1, 1),
        ("Mixed_6a.branch3x3dbl_2", 96, 64, 3, 3),
        ("Mixed_6a.branch3x3dbl_3", 96, 96, 3, 3),
        *_block_c("Mixed_6b", 128),
        *_block_c("Mixed_6c", 160),
        *_block_c("Mixed_6d", 160),
        *_block_c("Mixed_6e", 192),
        ("Mixed_7a.branch3x3_1", 192, 768, 1, 1),
        ("Mixed_7a.branch3x3_2", 320, 192, 3, 3),
        ("Mixed_7a.branch7x7x3_1", 192, 768, 1, 1),
        ("Mixed_7a.branch7x7x3_2", 192, 192, 1, 7),
        ("Mixed_7a.branch7x7x3_3", 192, 192, 7, 1),
        ("Mixed_7a.branch7x7x3_4", 192, 192, 3, 3),
        *_block_e("Mixed_7b", 1280),
        *_block_e("Mixed_7c", 2048),
    ]


def _block_a(name: str, channels: int, pooled: int) -> list[tuple[str, int, int, int, int]]:
    return [
        (f"{name}.branch1x1", 64, channels, 1, 1),
        (f"{name}.branch5x5_1", 48, channels, 1, 1),
        (f"{name}.branch5x5_2", 64, 48, 5, 5),
        (f"{name}.branch3x3dbl_1", 64, channels, 1, 1),
        (f"{name}.branch3x3dbl_2", 96, 64, 3, 3),
        (f"{name}.branch3x3dbl_3", 96, 96, 3, 3),
        (f"{name}.branch_pool", pooled, channels, 1, 1),
    ]


def _block_c(name: str, middle: int) -> list[tuple[str, int, int, int, int]]:
    return [
        (f"{name}.branch1x1", 192, 768, 1, 1),
        (f"{name}.branch7x7_1", middle, 768, 1, 1),
        (f"{name}.branch7x7_2", middle, middle, 1, 7),
        (f"{name}.branch7x7_3", 192, middle, 7, 1),
        (f"{name}.branch7x7dbl_1", middle, 768, 1, 1),
        (f"{name}.branch7x7dbl_2", middle, middle, 7, 1),
        (f"{name}.branch7x7dbl_3", middle, middle, 1, 7),
        (f"{name}.branch7x7dbl_4", middle, middle, 7, 1),
        (f"{name}.branch7x7dbl_5", 192, middle, 1, 7),
        (f"{name}.branch_pool", 192, 768, 1, 1),
    ]


def _block_e(name: str, channels: int) -> list[tuple[str, int, int, int, int]]:
    return [
        (f"{name}.branch1x1", 320, channels, 1, 1),
        (f"{name}.branch3x3_1", 384, channels, 1, 1),
        (f"{name}.branch3x3_2a", 384, 384, 1, 3),
        (f"{name}.branch3x3_2b", 384, 384, 3, 1),
        (f"{name}.branch3x3dbl_1", 448, channels, 1, 1),
        (f"{name}.branch3x3dbl_2", 384, 448, 3, 3),
        (f"{name}.branch3x3dbl_3a", 384, 384, 1, 3),
        (f"{name}.branch3x3dbl_3b", 384, 384, 3, 1),
        (f"{name}.branch_pool", 192, channels, 1, 1),
    ]
