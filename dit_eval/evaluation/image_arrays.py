"""Images in the memory of a running program: what is accepted, and its form for the feature network."""

from __future__ import annotations

import hashlib
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dit_eval.errors import BatchError, UsageError
from dit_eval.io.npz import array_hash
from dit_eval.runtime.rounding import Quantizer
from dit_eval.runtime.transfer import HostCopy


def as_uint8(
    images: Any, value_range: tuple[float, float] | None = None, quantizer: Quantizer | None = None
) -> np.ndarray | Tensor:
    """Images as uint8 (n, H, W, 3), contiguous: an array, or for a tensor a tensor on its device.

    images: uint8 or, with a value_range, floats; N×H×W×3 or N×3×H×W. Floats become uint8 as in DiT's code,
    ⌊127.5 x + 128⌋ for x in -1 … 1, and are clipped; quantizer: one of this range that does so, and keeps
    account of values out of range. Raises BatchError for anything else.
    """
    if not isinstance(images, Tensor):
        images = _as_array(images)
    found = f"{str(images.dtype).removeprefix('torch.')} {'×'.join(map(str, images.shape)) or 'scalar'}"
    if len(images.shape) != 4 or 3 not in (images.shape[1], images.shape[3]):
        raise BatchError(f"the images are {found}; expected N×H×W×3 or N×3×H×W.")
    if 0 in images.shape:
        raise BatchError(f"the images are {found}; there is no image in it.")
    channels_last = images.shape[3] == 3
    if images.dtype in (np.uint8, torch.uint8):
        if isinstance(images, Tensor):
            return (images if channels_last else images.permute(0, 2, 3, 1)).contiguous()
        images = images if channels_last else images.transpose(0, 2, 3, 1)
        return np.require(images, requirements=("C", "W"))  # torch's condition
    if value_range is None or not _is_float(images):
        raise BatchError(
            f"the images are {found}; expected uint8 from 0 to 255, or floats and their value_range, "
            "e.g. value_range=(-1, 1)."
        )
    match value_range:
        case (float() | int() as low, float() | int() as high) if -inf < low < high < inf:
            pass
        case _:
            raise UsageError(f"value_range is {value_range!r}; expected (lowest, highest), e.g. (-1, 1).")
    if isinstance(images, Tensor):
        floats = images
    else:
        native = images.dtype.newbyteorder("=")
        floats = torch.from_numpy(np.require(images, native, requirements=("C", "W")))
    return (quantizer or Quantizer("dit", value_range))(
        floats.permute(0, 3, 1, 2) if channels_last else floats
    )


def _is_float(images: np.ndarray | Tensor) -> bool:
    return images.is_floating_point() if isinstance(images, Tensor) else images.dtype.kind == "f"


def _as_array(images: Any) -> np.ndarray:
    if not hasattr(images, "__array__"):
        kind = "None" if images is None else f"of type {type(images).__name__}"
        pair = " Pass the images alone, without labels." if isinstance(images, (tuple, list)) else ""
        raise BatchError(f"the images are {kind}; expected an array or a tensor N×H×W×3 or N×3×H×W.{pair}")
    try:
        return np.asarray(images)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BatchError(f"the images cannot be converted to an array ({error}).") from None


class PixelHash:
    """SHA-256 of images that are added one batch after another.

    Equal to the digest of an npz with these images if their number is known in advance; else it covers the
    pixels alone.
    """

    def __init__(self, expected: int | None = None) -> None:
        self._expected = expected
        self._sha = hashlib.sha256()
        self._begun = False

    def update(self, copy: HostCopy) -> None:
        """Add images uint8 (n, H, W, 3), which may be on their way from a device."""
        (images,) = copy.arrays()
        if not self._begun and self._expected is not None:
            self._sha = array_hash(images.dtype, (self._expected, *images.shape[1:]))
        self._begun = True
        self._sha.update(np.ascontiguousarray(images).data)

    def hexdigest(self) -> str:
        """The digest of all images so far."""
        return self._sha.hexdigest()
