"""What one pass over the pixels of a batch of images tells."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from dit_eval.io.batches import Images

COLOURS = ("brightness", "contrast", "red minus blue", "green minus magenta")

_BLOCK_IMAGES = 256  # images read at once
_JPEG_BLOCK = 8  # pixels
_SATURATED_SHARE = 0.95  # of an image's values that are 0 or 255


@dataclass(frozen=True, kw_only=True)
class PixelStats:
    """Counts of images with a property, and properties of single images.

    colours: (n, 4), one column for each of COLOURS in units of 0 to 255: mean and standard deviation over the
    pixels, and differences of channel means; blockiness: steps across the borders of 8×8 blocks relative to
    steps inside them; 1 without JPEG.
    """

    n: int
    size: tuple[int, int]
    duplicates: int
    constant: int
    saturated: int
    grey: int
    colours: np.ndarray
    blockiness: float


def scan_pixels(images: Images) -> PixelStats:
    """One pass over the images; duplicates are found by 16-byte digests."""
    digests: set[bytes] = set()
    constant = saturated = grey = 0
    colours = []
    steps = np.zeros((2, _JPEG_BLOCK))
    for block in images.blocks(_BLOCK_IMAGES):
        digests |= {hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in block}
        flat = block.reshape(len(block), -1)
        constant += int((np.ptp(block, axis=(1, 2)) == 0).all(axis=1).sum())
        saturated += int((((flat == 0) | (flat == 255)).mean(axis=1) > _SATURATED_SHARE).sum())
        grey += int((block == block[..., :1]).all(axis=(1, 2, 3)).sum())
        luminance = block.mean(axis=-1, dtype=np.float32)
        colours.append(_colours(block, luminance))
        steps += _steps(luminance)
    ratios = steps[:, -1] / np.maximum(steps[:, :-1].mean(axis=1), 1e-12)
    return PixelStats(
        n=len(images),
        size=images.size,
        duplicates=len(images) - len(digests),
        constant=constant,
        saturated=saturated,
        grey=grey,
        colours=np.concatenate(colours),
        blockiness=float(ratios.min()) if min(images.size) >= 4 * _JPEG_BLOCK else 1.0,
    )


def _colours(block: np.ndarray, luminance: np.ndarray) -> np.ndarray:
    """COLOURS of images (n, H, W, 3) with mean channels (n, H, W): (n, 4)."""
    red, green, blue = block.mean(axis=(1, 2), dtype=np.float64).T
    contrast = luminance.std(axis=(1, 2), dtype=np.float64)
    return np.stack([(red + green + blue) / 3, contrast, red - blue, green - (red + blue) / 2], axis=1)


def _steps(luminance: np.ndarray) -> np.ndarray:
    """Mean absolute difference of adjacent pixels by (axis, position modulo 8), summed over images."""
    steps = np.zeros((2, _JPEG_BLOCK))
    for axis, plane in enumerate((luminance, luminance.transpose(0, 2, 1))):
        columns = np.abs(np.diff(plane, axis=2)).mean(axis=1).sum(axis=0)
        for phase in range(min(_JPEG_BLOCK, len(columns))):
            steps[axis, phase] = columns[phase::_JPEG_BLOCK].mean()
    return steps
