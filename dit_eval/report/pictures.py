"""Samples of a few classes next to reference images, as small PNGs embedded in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dit_eval.io import assets, npz
from dit_eval.io.files import file_kind

MAX_CLASSES = 10
COLUMNS = 6  # images per class
MAX_TILE = 64  # pixels per side
SEARCHED = 10_000  # images from the start of a file, so that a compressed one is read only once
_BLOCK_IMAGES = 256  # images read at once


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A row of images of one class: a PNG as a data URI."""

    label: str
    picture: str


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Strips under one heading."""

    title: str
    strips: tuple[Strip, ...]


def draw_sheet(title: str, section: Mapping[str, Any], role: str, like: Sheet | None = None) -> Sheet | None:
    """Images of the samples or the reference of a Result, by class if the file has labels (arr_1).

    section: `samples` or `reference` of the Result; role: "samples" or "reference"; like: use the classes of
    that sheet. None if the file does not exist, or does not hold the images that were measured. Raises
    BatchError if it is damaged.
    """
    path = _find(str(section["path"]), role)
    arrays = npz.members(path) if path and file_kind(path) in ("npz", "damaged-zip") else {}
    images, labels = arrays.get("arr_0"), arrays.get("arr_1")
    measured_shape = (section.get("n"), *section.get("size", ()), 3)
    if images is None or images.dtype != np.uint8 or images.shape != measured_shape:
        return None
    if labels is None or labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        rows = {"": np.arange(min(COLUMNS, len(images)))}
    else:
        rows = _rows_by_class(labels.read()[:SEARCHED], like)
    tiles = _tiles(images, sorted(index for row in rows.values() for index in row.tolist()))
    strips = (
        Strip(label=label, picture=_data_uri([tiles[index] for index in row.tolist()]))
        for label, row in rows.items()
    )
    return Sheet(title=title, strips=tuple(strips))


def _find(name: str, role: str) -> Path | None:
    """The file that a Result names: a path, or a registered reference that is on this machine."""
    if Path(name).is_file():
        return Path(name)
    asset = assets.manifest("reference_stats").get(name) if role == "reference" else None
    return assets.cached_path(asset) if asset and assets.is_present(asset) else None


def _rows_by_class(labels: np.ndarray, like: Sheet | None) -> dict[str, np.ndarray]:
    """Indices of the first images of each class, for evenly spaced classes."""
    present = np.unique(labels)
    if like is not None and like.strips[0].label:
        chosen = np.intersect1d(present, [int(strip.label) for strip in like.strips])
    else:
        spaced = np.linspace(0, len(present) - 1, min(MAX_CLASSES, len(present)))
        chosen = present[spaced.round().astype(int)]
    return {str(label): np.flatnonzero(labels == label)[:COLUMNS] for label in chosen}


def _tiles(images: npz.Member, indices: list[int]) -> dict[int, np.ndarray]:
    """Small versions of the images of these ascending indices, in one pass over the file."""
    tiles, start = {}, 0
    for block in images.blocks(_BLOCK_IMAGES, 0, indices[-1] + 1):
        stop = start + len(block)
        tiles |= {index: _tile(block[index - start]) for index in indices if start <= index < stop}
        start = stop
    return tiles


def _data_uri(tiles: list[np.ndarray]) -> str:
    """A row of tiles on a transparent background, always COLUMNS tiles wide."""
    height, width = tiles[0].shape[:2]
    step = width + max(1, width // 16)
    row = Image.new("RGBA", (COLUMNS * step, height))
    for column, tile in enumerate(tiles):
        row.paste(Image.fromarray(tile), (column * step, 0))
    stream = io.BytesIO()
    row.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _tile(image: np.ndarray) -> np.ndarray:
    if max(image.shape[:2]) <= MAX_TILE:
        return image
    picture = Image.fromarray(image)
    picture.thumbnail((MAX_TILE, MAX_TILE), Image.Resampling.LANCZOS)
    return np.asarray(picture)
