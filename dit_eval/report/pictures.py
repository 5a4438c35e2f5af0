"""Samples of a few classes beside reference images, as small pictures that a page can carry."""

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

CLASSES = 10  # rows at most
COLUMNS = 6  # images of a class
TILE = 64  # pixels a side at most
SEARCHED = 10_000  # images from the start of a file, read in one pass: it may be compressed


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Images of one class in a row: a PNG as a data URI."""

    label: str
    picture: str


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Strips under one heading."""

    title: str
    strips: tuple[Strip, ...]


def draw_sheet(title: str, side: Mapping[str, Any], kind: str, like: Sheet | None = None) -> Sheet | None:
    """Images of the samples or reference of a Result, class by class where the file holds labels (arr_1).

    side: that section of the Result; kind: "samples" or "reference"; like: take the classes of that sheet.
    None where the file is not there, holds no images or others than were measured. Raises BatchError if it
    is damaged.
    """
    path = _find(str(side["path"]), kind)
    arrays = npz.members(path) if path and path.suffix == ".npz" else {}
    images, labels = arrays.get("arr_0"), arrays.get("arr_1")
    if images is None or images.shape != (side.get("n"), *side.get("size", ()), 3):
        return None
    if labels is None or labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        rows = {"": np.arange(min(COLUMNS, len(images)))}
    else:
        rows = _by_class(labels.read()[:SEARCHED], like)
    tiles = _tiles(images, sorted(index for row in rows.values() for index in row.tolist()))
    strips = (
        Strip(label=label, picture=_picture([tiles[index] for index in row.tolist()]))
        for label, row in rows.items()
    )
    return Sheet(title=title, strips=tuple(strips))


def _find(name: str, kind: str) -> Path | None:
    """The file that a Result names: a path, or a registered reference that is on this machine."""
    if Path(name).is_file():
        return Path(name)
    asset = assets.manifest("reference_stats").get(name) if kind == "reference" else None
    return assets.cached_path(asset) if asset and assets.is_present(asset) else None


def _by_class(labels: np.ndarray, like: Sheet | None) -> dict[str, np.ndarray]:
    """The first images of each class, of classes spread over those there are."""
    there = np.unique(labels)
    if like is not None and like.strips[0].label:
        chosen = np.intersect1d(there, [int(strip.label) for strip in like.strips])
    else:
        chosen = there[np.linspace(0, len(there) - 1, min(CLASSES, len(there))).round().astype(int)]
    return {str(label): np.flatnonzero(labels == label)[:COLUMNS] for label in chosen}


def _tiles(images: npz.Member, wanted: list[int]) -> dict[int, np.ndarray]:
    """The images of these ascending indices, small, in one pass over the file."""
    tiles, start = {}, 0
    for block in images.blocks(256, 0, wanted[-1] + 1):
        tiles |= {index: _tile(block[index - start]) for index in wanted if 0 <= index - start < len(block)}
        start += len(block)
    return tiles


def _picture(tiles: list[np.ndarray]) -> str:
    """A row of tiles on a transparent ground, as wide as a full one."""
    height, width = tiles[0].shape[:2]
    step = width + max(1, width // 16)
    row = Image.new("RGBA", (COLUMNS * step, height))
    for column, tile in enumerate(tiles):
        row.paste(Image.fromarray(tile), (column * step, 0))
    stream = io.BytesIO()
    row.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _tile(image: np.ndarray) -> np.ndarray:
    if max(image.shape[:2]) <= TILE:
        return image
    picture = Image.fromarray(image)
    picture.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    return np.asarray(picture)
