"""Batches of images: sized streams of uint8 N×H×W×3 from an .npz, a folder, a zip or arrays of a program.

The whole batch is never in memory. Anything but uint8 N×H×W×3 is refused with an error that says what to do.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from dit_eval.errors import BatchError
from dit_eval.io import npz
from dit_eval.io.files import IMAGE_SUFFIXES, file_kind

T = TypeVar("T")

_DECODING_THREADS = 4  # Pillow releases the interpreter's lock while it decodes
_REMEDIES: dict[str, str] = {
    "git-lfs": "It is a pointer to a file in Git LFS; run `git lfs pull`.",
    "html": "It is a web page; download the file itself.",
}


class Images(ABC):
    """A sized stream of RGB images of one size.

    path: where they come from; size: (height, width) in pixels; once: they can be read only once, and their
    number and digest are known only after that.
    """

    path: Path
    size: tuple[int, int]
    once: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Images start to stop - 1 as uint8 (n, H, W, 3), n at most `rows`. Raises BatchError."""

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of the images in hex. Raises BatchError if they do not match the file's checksum."""

    def labels(self) -> np.ndarray | None:
        """The class of every image, integers (N,), or None if unknown."""
        return None


class NpzImages(Images):
    """The images of `arr_0` in an npz, streamed from the file."""

    def __init__(self, path: Path, arrays: dict[str, npz.Member]):
        if "arr_0" not in arrays:
            raise BatchError(
                f"{path}: no array named 'arr_0' (found: {', '.join(sorted(arrays)) or 'nothing'}). "
                "A batch of samples holds uint8 N×H×W×3 images under 'arr_0'; "
                "a file of statistics alone can only be the reference."
            )
        self._array, self._labels = arrays["arr_0"], arrays.get("arr_1")
        self.path = path
        self.size = _image_size(f"{path}: arr_0", self._array.shape, self._array.dtype)

    def __len__(self) -> int:
        return len(self._array)

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """See Images."""
        return self._array.blocks(rows, start, stop)

    def digest(self) -> str:
        """SHA-256 of dtype, shape and pixels, whether the file is compressed or not."""
        return self._array.digest()

    def labels(self) -> np.ndarray | None:
        """`arr_1` if it holds one integer per image, else None."""
        labels = self._labels
        if labels is None or labels.shape != (len(self),) or labels.dtype.kind not in "iu":
            return None
        return labels.read()


def _image_size(name: str, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int]:
    """Height and width of an array of images. Raises BatchError if it is not uint8 N×H×W×3 with N > 0."""
    found = f"{name} is {dtype} {'×'.join(map(str, shape)) or 'scalar'}"
    if len(shape) == 4 and shape[3] != 3 and shape[1] == 3:
        raise BatchError(f"{found}; channels come last: save images.transpose(0, 2, 3, 1).")
    if len(shape) != 4 or shape[3] != 3:
        raise BatchError(f"{found}; expected N×H×W×3, three colour channels per image.")
    if dtype.kind == "f":
        raise BatchError(
            f"{found}; expected uint8 from 0 to 255. Convert first and state the rounding, "
            "e.g. (127.5 * x + 128).clip(0, 255).astype(np.uint8) for x in -1…1, as DiT does."
        )
    if dtype != np.uint8:
        raise BatchError(f"{found}; expected uint8 from 0 to 255.")
    if 0 in shape:
        raise BatchError(f"{found}; there is no image in it.")
    return shape[1], shape[2]


class ArrayImages(Images):
    """Arrays that a program passes one after another, e.g. from a training loop."""

    path = Path("arrays")
    once = True

    def __init__(self, arrays: Iterable[np.ndarray]):
        remaining = iter([arrays] if isinstance(arrays, np.ndarray) else arrays)
        first = next(remaining, None)
        if first is None:
            raise BatchError("there are no arrays of samples; expected at least one, uint8 N×H×W×3.")
        self.size = _image_size("an array of samples", np.shape(first), np.asarray(first).dtype)
        self._arrays = chain([first], remaining)
        self._n, self._sha = 0, hashlib.sha256()

    def __len__(self) -> int:
        return self._n

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """See Images; only all of them, and only once."""
        assert (start, stop) == (0, None)
        for array in map(np.asarray, self._arrays):
            size = _image_size("an array of samples", array.shape, array.dtype)
            if size != self.size:
                raise BatchError(
                    f"an array of samples has images of {size[0]}×{size[1]} and the first had "
                    f"{self.size[0]}×{self.size[1]}; a batch has one size."
                )
            self._n += len(array)
            self._sha.update(np.ascontiguousarray(array).data)
            for first in range(0, len(array), rows):
                yield array[first : first + rows]

    def digest(self) -> str:
        """SHA-256 in hex of the pixels that were read."""
        return self._sha.hexdigest()


class ImageFiles(Images):
    """PNG, JPEG or WebP files of one size, anywhere in a folder or zip, in natural order of their paths."""

    def __init__(self, path: Path, names: list[str], read: Callable[[str], bytes]):
        self.path = path
        self._names = sorted((name for name in names if name.lower().endswith(IMAGE_SUFFIXES)), key=_natural)
        self._read = read
        if not self._names:
            raise BatchError(f"{path}: no image in it (looked for {', '.join(IMAGE_SUFFIXES)}).")
        self.size = self._decode(self._names[0]).shape[:2]

    def __len__(self) -> int:
        return len(self._names)

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """See Images. Raises BatchError, naming the file, if one is damaged or of another size."""
        names = self._names[start:stop]
        with ThreadPoolExecutor(_DECODING_THREADS) as pool:
            for first in range(0, len(names), rows):
                block = names[first : first + rows]
                decoded = list(pool.map(self._decode, block))
                for name, image in zip(block, decoded, strict=True):
                    if image.shape[:2] != self.size:
                        raise BatchError(
                            f"{self.path}: {name} is {image.shape[1]}×{image.shape[0]} and "
                            f"{self._names[0]} is {self.size[1]}×{self.size[0]}; a batch has one size. "
                            "Resize or remove it."
                        )
                yield np.stack(decoded)

    def digest(self) -> str:
        """SHA-256 in hex of the names and bytes of the files, in order."""
        sha = hashlib.sha256()
        for name in self._names:
            with npz.errors_as_batch_error(self.path):
                content = self._read(name)
            sha.update(f"{len(name)} {name} {len(content)} ".encode())
            sha.update(content)
        return sha.hexdigest()

    def _decode(self, name: str) -> np.ndarray:
        try:
            with npz.errors_as_batch_error(self.path):
                content = self._read(name)
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(content)) as image:
                    if image.mode not in ("RGB", "L", "P", "1") or "transparency" in image.info:
                        raise BatchError(
                            f"{self.path}: {name} has mode {image.mode}; expected three 8-bit colours and "
                            "no transparency. Convert it to RGB first."
                        )
                    return np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning,
                OSError, SyntaxError, ValueError) as error:  # fmt: skip
            raise BatchError(f"{self.path}: {name} cannot be decoded ({error}).") from None


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts img2 before img10."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def open_images(path: Path) -> Images:
    """The images of an .npz, a folder or a zip, whatever the file is called. Raises BatchError."""
    kind = file_kind(path)
    if kind == "folder":
        names = [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()]
        return ImageFiles(path, names, lambda name: (path / name).read_bytes())
    if kind == "npz":
        return NpzImages(path, npz.members(path))
    if kind not in ("zip", "damaged-zip", "missing", "unreadable"):
        raise BatchError(
            f"{path} is neither an .npz, a folder nor a zip of images (found: {kind}). "
            + _REMEDIES.get(kind, "Write an array of images with np.savez(path, images).")
        )
    with npz.errors_as_batch_error(path):
        archive = zipfile.ZipFile(path)  # stays open: its directory is parsed once, and threads may share it
    return ImageFiles(path, archive.namelist(), archive.read)


def prefetch(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The same items, produced in another thread at most `depth` ahead; its errors are raised here."""
    end: Any = object()
    producer = ThreadPoolExecutor(1)
    try:
        ready = deque(producer.submit(next, items, end) for _ in range(depth))
        while (item := ready.popleft().result()) is not end:
            ready.append(producer.submit(next, items, end))
            yield item
    finally:
        producer.shutdown(cancel_futures=True)
