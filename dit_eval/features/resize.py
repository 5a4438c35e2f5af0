"""From uint8 images to what the network sees: 299×299 for the Inception, float32, about -1…1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

SIDE = 299


def tf1_bilinear(images: torch.Tensor) -> torch.Tensor:
    """TensorFlow 1's bilinear resize, then (x - 128) / 128.

    images: uint8 (N, H, W, 3). Returns float32 (N, 3, 299, 299).

    Output pixel i samples at i·(H/299): no half-pixel centres, no antialiasing, neighbours clamped at the
    border. That is torch's corner-aligned grid of an image one repeated pixel larger, from H+1 to 300,
    less its last row and column: scale H/299, in float32 as in TensorFlow. Scaling first is exact on
    integers and cheaper on the smaller image. Each plane is an image of its own: of three channels together
    torch rounds otherwise with one thread than with several.
    """
    planes = no_resize(images).flatten(0, 1)[:, None]
    planes = F.pad(planes, (0, 1, 0, 1), mode="replicate")
    planes = F.interpolate(planes, size=(SIDE + 1, SIDE + 1), mode="bilinear", align_corners=True)
    return planes[:, 0, :SIDE, :SIDE].unflatten(0, (-1, 3))


def clean_fid_bicubic(images: torch.Tensor) -> torch.Tensor:
    """clean-fid's resize (Pillow's antialiased bicubic in float, clipped), then (x - 128) / 128.

    images: uint8 (N, H, W, 3). Returns float32 (N, 3, 299, 299) on the device of the images.
    """
    from cleanfid.resize import build_resizer

    resize = build_resizer("clean")
    resized = np.stack([resize(image) for image in images.cpu().numpy()])
    x = torch.from_numpy(resized).to(images.device).permute(0, 3, 1, 2)
    return (x - 128) / 128


def no_resize(images: torch.Tensor) -> torch.Tensor:
    """(x - 128) / 128 alone. images: uint8 (N, H, W, 3). Returns float32 (N, 3, H, W).

    Channels come first in memory too, because torch resizes planes faster.
    """
    return (images.permute(0, 3, 1, 2).contiguous().to(torch.float32) - 128) / 128


RESIZES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tf1-bilinear": tf1_bilinear,
    "clean-fid-bicubic": clean_fid_bicubic,
    "none": no_resize,
}
