"""Batches of images: sized streams of uint8 N×H×W×3 from an .npz, an .npy, a folder or a zip.

The whole batch is never in memory. Anything but uint8 N×H×W×3 is refused with an error that says what to do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from dit_eval.errors import BatchError
from dit_eval.io import npz
from dit_eval.io.crops import NO_OPTIONS, Crop, ImageOptions
from dit_eval.io.files import KIND_NAMES, KIND_REMEDIES, FileKind, file_kind
from dit_eval.io.image_files import (
    CROPPED,
    TRAIT_NOTES,
    DecodedImage,
    FileSet,
    count_note,
    files_in_folder,
    files_in_zip,
)
from dit_eval.runtime.cores import cores_per_process

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

T = TypeVar("T")
R = TypeVar("R")

_HASHED_ROWS = 32  # images that are hashed at once
_FIRST = 16  # images of `first_digest`
_SINGLE = "Pass the folder that holds the images."
_WEIGHTS = "It holds weights; images are expected here."
_REMEDIES: dict[FileKind, str] = {
    "png": _SINGLE,
    "jpeg": _SINGLE,
    "webp": _SINGLE,
    "tiff": _SINGLE,
    "gif": "Save the frames as PNG files in a folder.",
    "torch": _WEIGHTS,
    "safetensors": _WEIGHTS,
    "pickle": "Pickles are never opened, because they could run code.",
}


class PixelHash(Protocol):
    """A hash, as those of hashlib."""

    def update(self, data: ReadableBuffer, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """The hash of all bytes, in hex."""
        ...


class Images(ABC):
    """A sized stream of RGB images of one size.

    path: where they come from; size: (height, width) in pixels; skipped: sentences about files that are not
    read.
    """

    path: Path
    size: tuple[int, int]
    skipped: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that a reader of the result must know; complete once all images have been read."""
        return self.skipped

    @property
    def crop(self) -> str | None:
        """The name of the crop that changed images, None if none did; known once all have been read."""
        return None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Images start to stop - 1 as uint8 (n, H, W, 3), n at most `rows`. Raises BatchError."""

    def hasher(self) -> PixelHash:
        """The hash of `digest`, to be updated with the pixels of all images in order."""
        return npz.array_hash(np.dtype(np.uint8), (len(self), *self.size, 3))

    def digest(self) -> str:
        """SHA-256 in hex of dtype, shape and pixels: the same for an npz, a folder and a zip.

        Raises BatchError if the pixels do not match the file's checksum.
        """
        return PixelDigest(self).finish()

    def first_digest(self) -> str:
        """The digest of the first of them, which is known at once."""
        return PixelDigest(self).of_first(min(_FIRST, len(self)))

    def labels(self) -> np.ndarray | None:
        """The class of every image, integers (N,), or None if unknown."""
        return None


class NpzImages(Images):
    """The images of one array of an npz, streamed from the file."""

    def __init__(self, path: Path, arrays: dict[str, npz.Member], key: str = "arr_0"):
        if key not in arrays:
            raise BatchError(
                f"{path}: no array named {key!r} (found: {', '.join(sorted(arrays)) or 'nothing'}). "
                f"A batch of samples holds uint8 N×H×W×3 images under {key!r}; "
                f"{other_key(arrays) or 'a file of statistics alone can only be the reference.'}"
            )
        self._array, self._labels = arrays[key], arrays.get("arr_1")
        self.path = path
        self.size = _image_size(f"{path}: {key}", self._array.shape, self._array.dtype)

    def __len__(self) -> int:
        return len(self._array)

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """See Images."""
        return self._array.blocks(rows, start, stop)

    def hasher(self) -> PixelHash:
        """See Images; compares the file's checksum too."""
        return npz.CheckedHash(self._array)

    def labels(self) -> np.ndarray | None:
        """`arr_1` if it holds one integer per image, else None."""
        labels = self._labels
        if labels is None or labels.shape != (len(self),) or labels.dtype.kind not in "iu":
            return None
        return labels.read()


def other_key(arrays: dict[str, npz.Member]) -> str:
    """What to do where the expected array is missing and exactly one other holds images, else empty."""
    found = [
        name
        for name, array in arrays.items()
        if array.dtype == np.uint8 and len(array.shape) == 4 and array.shape[3] == 3
    ]
    return f"the images seem to be {found[0]!r}: pass --key {found[0]}." if len(found) == 1 else ""


class NpyImages(Images):
    """The images of an npy, which is mapped into memory and never unpickled."""

    def __init__(self, path: Path):
        self._array = npz.map_npy(path)
        self.path = path
        self.size = _image_size(str(path), self._array.shape, self._array.dtype)

    def __len__(self) -> int:
        return len(self._array)

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """See Images."""
        images = self._array[start:stop]
        for first in range(0, len(images), rows):
            yield np.array(images[first : first + rows])


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


class ImageFiles(Images):
    """PNG, JPEG, TIFF or WebP files anywhere in a folder or zip, in natural order of their paths.

    All are of one size, or get it by a crop.
    """

    def __init__(self, files: FileSet, crop: Crop | None = None):
        self.path, self.skipped = files.path, files.skipped
        self._files, self._crop = files, crop
        self._traits: dict[str, set[int]] = {trait: set() for trait in (*TRAIT_NOTES, CROPPED)}
        self.size = self._note_traits(0, files.decode(files.names[0], crop=crop)).shape[:2]

    def __len__(self) -> int:
        return len(self._files.names)

    @property
    def notes(self) -> tuple[str, ...]:
        """See Images."""
        classes, names = self._files.class_names(), self._files.names
        labels = f"{self.path}: the labels are the positions of the {len(classes):,} class folders in sorted "
        return (
            *self.skipped,
            *[f"{labels}order ({classes[0]} … {classes[-1]})." for _ in classes[:1]],
            *(
                count_note(self.path, what, [names[index] for index in sorted(self._traits[trait])])
                for trait, what in TRAIT_NOTES.items()
                if self._traits[trait]
            ),
        )

    @property
    def crop(self) -> str | None:
        """See Images."""
        return self._crop.name if self._crop and self._traits[CROPPED] else None

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """See Images. Raises BatchError, naming the file, if one is damaged or of another size."""
        decode = partial(self._files.decode, size=self.size, crop=self._crop)
        with closing(map_in_threads(decode, self._files.names[start:stop], ahead=rows)) as decoded:
            numbered = enumerate(decoded, start)
            while images := [self._note_traits(*item) for item in islice(numbered, rows)]:
                yield np.stack(images)

    def labels(self) -> np.ndarray | None:
        """The index of the class folder in sorted order, as torchvision's ImageFolder has it; see FileSet."""
        classes = {name: index for index, name in enumerate(self._files.class_names())}
        if not classes:
            return None
        return np.array([classes[PurePosixPath(name).parts[0]] for name in self._files.names], np.int64)

    def _note_traits(self, index: int, image: DecodedImage) -> np.ndarray:
        """The pixels of an image, whose traits are kept for `notes` and `crop`."""
        for trait in image.traits:
            self._traits[trait].add(index)
        return image.pixels


class PixelDigest:
    """The digest of images, taken from blocks that are read for another purpose.

    Every image is read and decoded once; hashing runs in a thread of its own.
    """

    def __init__(self, images: Images) -> None:
        self._images, self._hasher = images, images.hasher()
        self._n = 0  # images that were hashed

    def of_first(self, n: int) -> str:
        """Hash the first n images, before any other; returns the digest of a batch of these alone."""
        if n == len(self._images):
            return self.finish()
        first = npz.array_hash(np.dtype(np.uint8), (n, *self._images.size, 3))
        for block in prefetch(self._images.blocks(_HASHED_ROWS, 0, n)):
            first.update(self._add(block).data)
        return first.hexdigest()

    def watch(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The same blocks of images, from the first image on that has not been hashed."""
        return map_in_threads(self._add, blocks, ahead=2, threads=1)

    def finish(self) -> str:
        """The digest, for which images that were in no block are read. Raises BatchError; see Images."""
        for block in prefetch(self._images.blocks(_HASHED_ROWS, self._n)):
            self._add(block)
        return self._hasher.hexdigest()

    def _add(self, block: np.ndarray) -> np.ndarray:
        self._hasher.update(block.data)
        self._n += len(block)
        return block


def open_images(path: Path, options: ImageOptions = NO_OPTIONS) -> Images:
    """The images of an .npz, an .npy, a folder or a zip, whatever the file is called. Raises BatchError."""
    kind = file_kind(path)
    if kind == "npz":
        images = NpzImages(path, npz.members(path), options.key)
    elif kind == "npy":
        images = NpyImages(path)
    elif kind == "folder":
        images = ImageFiles(files_in_folder(path), options.file_crop())
    elif kind in ("zip", "damaged-zip", "missing", "unreadable"):
        images = ImageFiles(files_in_zip(path), options.file_crop())
    else:
        raise BatchError(
            f"{path} is {KIND_NAMES[kind]}; expected an .npz, an .npy, a folder or a zip of images. "
            + (_REMEDIES | KIND_REMEDIES).get(kind, "Write an array of images with np.savez(path, images).")
        )
    return require_image_size(images, options)


def require_image_size(images: Images, options: ImageOptions) -> Images:
    """The same images, if they have the size that the options name, if any. Raises BatchError."""
    size = options.image_size
    if size is not None and images.size != (size, size):
        raise BatchError(
            f"{images.path}: its images are {images.size[1]}×{images.size[0]}, and --image-size is {size}. "
            "Only files in a folder or a zip are cropped to this size, with --crop adm or center; images in "
            "arrays must have it. Leave out --image-size, or make the array again."
        )
    return images


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


def map_in_threads(
    function: Callable[[T], R], items: Iterable[T], *, ahead: int, threads: int | None = None
) -> Generator[R, None, None]:
    """`function` of each item, in order, computed in other threads for at most `ahead` items in advance.

    threads: by default one for each core of this process. Errors of `function` are raised here.
    """
    workers = ThreadPoolExecutor(threads or cores_per_process())
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(workers.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        workers.shutdown(cancel_futures=True)
