"""Per-image influences on each metric, as part of a result's JSON: what a paired comparison needs.

Each metric's float32 array is compressed and written as text, about 0.9 MB for 50,000 images. It holds one
value per image; for recall, one per random subset of the samples.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

_ENCODING = "float32, little-endian, zlib, base64"
_DTYPE = np.dtype("<f4")


def encode_influence(influence: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Metric → array (n,) as JSON values; the encoding is named beside them."""
    encoded = {name: _encode(values) for name, values in influence.items()}
    return {"encoding": _ENCODING, **encoded} if encoded else {}


def decode_influence(section: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `encode_influence`. Raises ValueError for anything else."""
    if not section:
        return {}
    if section.get("encoding") != _ENCODING:
        raise ValueError(f"influences encoded as {section.get('encoding')!r}")
    return {name: _decode(text) for name, text in section.items() if name != "encoding"}


def _encode(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(values.astype(_DTYPE).tobytes(), level=9)).decode("ascii")


def _decode(text: Any) -> np.ndarray:
    try:
        values = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), _DTYPE)
    except (TypeError, binascii.Error, zlib.error) as error:
        raise ValueError(f"damaged influences ({error})") from None
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError("influences that are not finite numbers")
    return values.astype(np.float32)
