"""Images of samples and references, as small pictures embedded in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dit_eval.io import assets, npz
from dit_eval.io.files import file_kind
from dit_eval.results.result import Result

MAX_SIDE = 256  # pixels of a picture
MAX_LOSSLESS = 64  # pixels along a side, up to which a picture is a PNG; larger ones are JPEGs
SEARCHED = 10_000  # images from the start of a compressed file, which cannot be read from its middle
_BLOCK_IMAGES = 256  # images read at once


@dataclass(frozen=True)
class Picture:
    """An image of a batch: a data URI, its width and height in pixels, what it is, and a mark."""

    uri: str
    width: int
    height: int
    caption: str
    outside: bool = False  # the manifold of the reference


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The images of the samples or the reference of a result, and which of them can be shown.

    labels: (n,) of the images from the start that are within reach; None if the file has none; inside: (n,)
    whether each sample lies inside the reference's manifold; None if that is not recorded.
    """

    images: npz.Member
    labels: np.ndarray | None
    inside: np.ndarray | None = None

    @cached_property
    def reach(self) -> int:
        """The number of images from the start of the file among which the pictures are chosen."""
        return min(len(self.images), SEARCHED) if self.images.compressed else len(self.images)

    def spread(self, number: int) -> list[Picture]:
        """That many images, evenly spaced over the file, and so the same ones of every batch of its size."""
        return self.draw(_spaced(np.arange(self.reach), number))

    def of_class(self, label: int, number: int) -> list[Picture]:
        """Images of one class, those outside the manifold first."""
        if self.labels is None:
            return []
        found = np.flatnonzero(self.labels[: self.reach] == label)
        if self.inside is not None:
            found = found[np.argsort(self.inside[found], kind="stable")]
        return self.draw(found[:number].tolist())

    def outside(self, number: int) -> list[Picture]:
        """Images outside the manifold, evenly spaced among all of them."""
        if self.inside is None:
            return []
        return self.draw(_spaced(np.flatnonzero(~self.inside[: self.reach]), number))

    def draw(self, indices: Iterable[int]) -> list[Picture]:
        """The images of these indices, in this order. Raises BatchError for a damaged file."""
        indices = list(indices)
        found = self._read(sorted(set(indices)))
        return [self._picture(index, found[index]) for index in indices]

    def _read(self, indices: Sequence[int]) -> dict[int, np.ndarray]:
        """The images of these ascending indices; a compressed file is read once, from its start."""
        if not self.images.compressed:
            return {i: next(self.images.blocks(1, i, i + 1))[0] for i in indices}
        found, start = {}, 0
        for block in self.images.blocks(_BLOCK_IMAGES, 0, indices[-1] + 1) if indices else ():
            stop = start + len(block)
            found |= {i: block[i - start].copy() for i in indices if start <= i < stop}
            start = stop
        return found

    def _picture(self, index: int, image: np.ndarray) -> Picture:
        caption = f"image {index:,}"
        if self.labels is not None:
            caption += f", class {self.labels[index]}"
        outside = self.inside is not None and not self.inside[index]
        if self.inside is not None:
            caption += f", {'outside' if outside else 'inside'} the reference’s manifold"
        height, width = image.shape[:2]
        return Picture(_data_uri(image), width, height, caption, outside)


def open_samples(result: Result) -> Pictures | None:
    """The samples of a result; None if their file is gone, or does not hold the images that were measured."""
    return _open(result.samples, "samples", samples_inside(result))


def open_reference_images(result: Result) -> Pictures | None:
    """The images of a result's reference; None as for `open_samples`."""
    return _open(result.reference, "reference", None)


def samples_inside(result: Result) -> np.ndarray | None:
    """Whether each sample (n,) lies inside the reference's manifold; None if that is not recorded.

    Precision is the mean of these booleans, and the influence of a sample is its own less that mean.
    """
    influence = result.influence.get("precision")
    if influence is None or len(influence) != result.samples["n"]:
        return None
    return influence + result.metrics["precision"] > 0.5


def _open(section: Mapping[str, Any], role: str, inside: np.ndarray | None) -> Pictures | None:
    path = _find(str(section["path"]), role)
    arrays = npz.members(path) if path and file_kind(path) in ("npz", "damaged-zip") else {}
    images, labels = arrays.get("arr_0"), arrays.get("arr_1")
    measured_shape = (section.get("n"), *section.get("size", ()), 3)
    if images is None or images.dtype != np.uint8 or images.shape != measured_shape:
        return None
    known = labels is not None and labels.shape == images.shape[:1] and labels.dtype.kind in "iu"
    return Pictures(images=images, labels=labels.read() if labels and known else None, inside=inside)


def _find(name: str, role: str) -> Path | None:
    """The file that a Result names: a path, or a registered reference that is on this machine."""
    if Path(name).is_file():
        return Path(name)
    asset = assets.manifest("reference_stats").get(name) if role == "reference" else None
    return assets.cached_path(asset) if asset and assets.is_present(asset) else None


def _spaced(indices: np.ndarray, number: int) -> list[int]:
    """That many of the indices, evenly spaced, or all if they are fewer."""
    chosen = np.linspace(0, len(indices) - 1, min(number, len(indices))).round().astype(int)
    return indices[chosen].tolist()


def _data_uri(image: np.ndarray) -> str:
    picture = Image.fromarray(image)
    lossless = max(image.shape[:2]) <= MAX_LOSSLESS
    if max(image.shape[:2]) > MAX_SIDE:
        picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    if lossless:
        picture.save(stream, format="PNG", optimize=True)
    else:
        picture.save(stream, format="JPEG", quality=90, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
