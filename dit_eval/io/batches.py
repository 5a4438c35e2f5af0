"""Batches of images: a sized stream of uint8 N×H×W×3 over an .npz, a folder or a zip of pictures.

The whole array is never in memory. What is not uint8 N×H×W×3 is refused with a sentence that says what to do.
"""

from __future__ import annotations

import hashlib
import io
import queue
import re
import threading
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from dit_eval.errors import BatchError
from dit_eval.io import npz

T = TypeVar("T")

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_DECODERS = 4  # threads; Pillow decodes without the interpreter's lock


class Images(ABC):
    """A sized stream of RGB images of one size.

    path: where they come from; size: (height, width) in pixels; once: they can be read only once, and
    their number and digest are known when they have been.
    """

    path: Path
    size: tuple[int, int]
    once: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Images start…stop as uint8 (n, H, W, 3), n at most `rows`. Raises BatchError."""

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 in hex of what the images are. Raises BatchError if the file's own checksum fails."""

    def labels(self) -> np.ndarray | None:
        """The class of every image, integers (N,), where they are known."""
        return None


class NpzImages(Images):
    """The images of `arr_0` in an npz, read in place."""

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
        """`arr_1`, if it holds one integer for each image."""
        labels = self._labels
        if labels is None or labels.shape != (len(self),) or labels.dtype.kind not in "iu":
            return None
        return labels.read()


def _image_size(name: str, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int]:
    """Height and width, once everything else about an array of images has been found right."""
    found = f"{name} is {dtype} {'×'.join(map(str, shape)) or 'scalar'}"
    if len(shape) == 4 and shape[3] != 3 and shape[1] == 3:
        raise BatchError(f"{found}; channels come last: save images.transpose(0, 2, 3, 1).")
    if len(shape) != 4 or shape[3] != 3:
        raise BatchError(f"{found}; expected N×H×W×3, three colour channels an image.")
    if dtype.kind == "f":
        raise BatchError(
            f"{found}; expected uint8 from 0 to 255. Convert first and name the rounding, "
            "e.g. (127.5 * x + 128).clip(0, 255).astype(np.uint8) for x in -1…1, as DiT does."
        )
    if dtype != np.uint8:
        raise BatchError(f"{found}; expected uint8 from 0 to 255.")
    if 0 in shape:
        raise BatchError(f"{found}; there is no image in it.")
    return shape[1], shape[2]


class ArrayImages(Images):
    """Arrays that a program hands over block by block, as from a training loop."""

    path = Path("arrays")
    once = True

    def __init__(self, arrays: Iterable[np.ndarray]):
        later = iter([arrays] if isinstance(arrays, np.ndarray) else arrays)
        first = next(later, None)
        if first is None:
            raise BatchError("no array of samples came; expected uint8 N×H×W×3 arrays, one after another.")
        self.size = _image_size("an array of samples", np.shape(first), np.asarray(first).dtype)
        self._arrays = chain([first], later)
        self._n, self._sha = 0, hashlib.sha256()

    def __len__(self) -> int:
        return self._n

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """See Images; all of them, once."""
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
        """SHA-256 of the pixels that were read."""
        return self._sha.hexdigest()


class PictureImages(Images):
    """PNG, JPEG or WebP files of one size, below a folder or in a zip, in natural order of their paths."""

    def __init__(self, path: Path, names: list[str], read: Callable[[str], bytes]):
        self.path = path
        self._names = sorted((name for name in names if name.lower().endswith(_PICTURES)), key=_natural)
        self._read = read
        if not self._names:
            raise BatchError(f"{path}: no image in it (looked for {', '.join(_PICTURES)}).")
        self.size = self._decode(self._names[0]).shape[:2]

    def __len__(self) -> int:
        return len(self._names)

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """See Images. Raises BatchError that names the file which is damaged or of another size."""
        names = self._names[start:stop]
        with ThreadPoolExecutor(_DECODERS) as pool:
            for first in range(0, len(names), rows):
                some = names[first : first + rows]
                decoded = list(pool.map(self._decode, some))
                for name, image in zip(some, decoded, strict=True):
                    if image.shape[:2] != self.size:
                        raise BatchError(
                            f"{self.path}: {name} is {image.shape[1]}×{image.shape[0]} and "
                            f"{self._names[0]} is {self.size[1]}×{self.size[0]}; a batch has one size. "
                            "Resize or remove it."
                        )
                yield np.stack(decoded)

    def digest(self) -> str:
        """SHA-256 over the names and the bytes of the files, in order."""
        sha = hashlib.sha256()
        for name in self._names:
            with npz.damage_is_an_error(self.path):
                content = self._read(name)
            sha.update(f"{len(name)} {name} {len(content)} ".encode())
            sha.update(content)
        return sha.hexdigest()

    def _decode(self, name: str) -> np.ndarray:
        try:
            with npz.damage_is_an_error(self.path):
                content = self._read(name)
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(content)) as picture:
                    if picture.mode not in ("RGB", "L", "P", "1") or "transparency" in picture.info:
                        raise BatchError(
                            f"{self.path}: {name} has mode {picture.mode}; expected three 8-bit colours and "
                            "no transparency. Convert it to RGB first."
                        )
                    return np.asarray(picture.convert("RGB"))
        except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning,
                OSError, SyntaxError, ValueError) as error:  # fmt: skip
            raise BatchError(f"{self.path}: {name} cannot be decoded ({error}).") from None


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts img2 before img10."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def open_images(path: Path) -> Images:
    """The images of an .npz, a folder or a zip. Raises BatchError."""
    if path.is_dir():
        names = [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()]
        return PictureImages(path, names, lambda name: (path / name).read_bytes())
    if path.is_file() and path.suffix not in (".npz", ".zip") and not zipfile.is_zipfile(path):
        raise BatchError(
            f"{path} is neither an .npz, a folder nor a zip of images. "
            "An array of images becomes one with np.savez(path, images)."
        )
    with npz.damage_is_an_error(path):
        archive = zipfile.ZipFile(path)  # stays open: its index is parsed once, and threads may share it
    names = archive.namelist()
    if path.suffix == ".npz" or any(name.endswith(".npy") for name in names):
        archive.close()
        return NpzImages(path, npz.members(path))
    return PictureImages(path, names, archive.read)


def prefetch(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The same items, made by another thread up to `depth` ahead; its errors are raised here."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[T | None, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
