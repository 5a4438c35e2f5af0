"""From uint8 images to the input of a feature network, float32: in -1…1 (Inception: 299×299).

The input of an encoder is in 0…1; it is normalised in the network, which has its mean and standard deviation.

A resize of Pillow runs image by image on the CPU, in the threads that decode; all others on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

_SIZE = 299


def tf1_bilinear(images: torch.Tensor) -> torch.Tensor:
    """TensorFlow 1's bilinear resize, then (x - 128) / 128.

    images: uint8 (N, H, W, 3). Returns float32 (N, 3, 299, 299).

    Output pixel i is sampled at i·(H/299): no half-pixel centres, no antialiasing, coordinates clamped at
    the border. This equals torch's corner-aligned resize from H+1 to 300 of the image with its last row and
    column repeated, without the last row and column of the output: both have the scale H/299 in float32.
    (x - 128) / 128 is applied first: it is exact for integers, and cheaper before the resize. Channels are
    resized as separate images, because for three together torch's rounding depends on the number of threads.
    Source: ADM's evaluator (Dhariwal & Nichol 2021).
    """
    planes = no_resize(images).flatten(0, 1)[:, None]
    planes = F.pad(planes, (0, 1, 0, 1), mode="replicate")
    planes = F.interpolate(planes, size=(_SIZE + 1, _SIZE + 1), mode="bilinear", align_corners=True)
    return planes[:, 0, :_SIZE, :_SIZE].unflatten(0, (-1, 3))


def tf1_bilinear_half(images: torch.Tensor) -> torch.Tensor:
    """TensorFlow 1's bilinear resize, then (x - 127.5) / 127.5: `tf1_bilinear` in another range.

    Source: FD-Loss (2026), whose Inception takes floats in 0…1 as 2x - 1.
    """
    return (tf1_bilinear(images) * 128 + 0.5) / 127.5


def bicubic(images: torch.Tensor, size: int) -> torch.Tensor:
    """torch's antialiased bicubic resize of pixel values, neither rounded nor clipped, then x / 255.

    images: uint8 (N, H, W, 3). Returns float32 (N, 3, size, size), about 0 to 1.
    Source: EDM2's FD-DINOv2 (Karras et al. 2024).
    """
    return _bicubic(images.permute(0, 3, 1, 2).contiguous().to(torch.float32), size) / 255


def unit_bicubic(images: torch.Tensor, size: int) -> torch.Tensor:
    """x / 255, then the same resize: equal to `bicubic` up to rounding, which a network in bf16 amplifies.

    Source: FD-Loss (2026).
    """
    return _bicubic(unit(images).contiguous(), size)


def _bicubic(planes: torch.Tensor, size: int) -> torch.Tensor:
    return F.interpolate(planes, size=(size, size), mode="bicubic", antialias=True)


def pil_bicubic(image: np.ndarray, size: int) -> np.ndarray:
    """Pillow's antialiased bicubic resize of an image of bytes, rounded and clipped.

    image: uint8 (H, W, 3). Returns uint8 (size, size, 3).
    Source: dgm-eval (Stein et al. 2023).
    """
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def clean_fid_bicubic(image: np.ndarray) -> np.ndarray:
    """clean-fid's resize: Pillow's antialiased bicubic in float, clipped.

    image: uint8 (H, W, 3). Returns float32 (299, 299, 3), 0 to 255.
    Source: Parmar et al. 2022.
    """
    from cleanfid.resize import build_resizer

    return build_resizer("clean")(image)


def scaled(images: torch.Tensor) -> torch.Tensor:
    """(x - 128) / 128. images: float32 (N, H, W, 3). Returns (N, 3, H, W), in the same order in memory."""
    return (images.permute(0, 3, 1, 2) - 128) / 128


def no_resize(images: torch.Tensor) -> torch.Tensor:
    """(x - 128) / 128 without a resize. images: uint8 (N, H, W, 3). Returns float32 (N, 3, H, W).

    The result is contiguous in this order, which torch resizes faster.
    """
    return (images.permute(0, 3, 1, 2).contiguous().to(torch.float32) - 128) / 128


def unit(images: torch.Tensor) -> torch.Tensor:
    """x / 255. images: uint8 (N, H, W, 3). Returns float32 (N, 3, H, W)."""
    return images.permute(0, 3, 1, 2) / 255


@dataclass(frozen=True)
class Resize:
    """Two steps from uint8 images to the input of a network.

    on_host: for one image (H, W, 3), None for no such step; on_device: for the batch (N, H, W, 3) that this
    gives, to float32 (N, 3, H', W').
    """

    on_host: Callable[[np.ndarray], np.ndarray] | None
    on_device: Callable[[torch.Tensor], torch.Tensor]


RESIZES = {
    "tf1-bilinear": Resize(None, tf1_bilinear),
    "clean-fid-bicubic": Resize(clean_fid_bicubic, scaled),
    "none": Resize(None, no_resize),
    "tf1-bilinear-127.5": Resize(None, tf1_bilinear_half),
    "bicubic-224": Resize(None, partial(bicubic, size=224)),
    "pil-bicubic-224": Resize(partial(pil_bicubic, size=224), unit),
    "unit-bicubic-224": Resize(None, partial(unit_bicubic, size=224)),
    "unit-bicubic-256": Resize(None, partial(unit_bicubic, size=256)),
}
