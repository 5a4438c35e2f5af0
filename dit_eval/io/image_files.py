"""Image files in a folder or a zip: which of them count, in which order, and how one is read and decoded.

Files and archives come from anywhere. Sizes are compared with limits before a file is read or decoded, and
only PNG, JPEG and WebP are decoded, whatever the files are called.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from dit_eval.errors import BatchError
from dit_eval.io.files import IMAGE_SUFFIXES, KIND_NAMES, KIND_REMEDIES, signature_kind
from dit_eval.io.npz import errors_as_batch_error, require_plausible_size

_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = ("RGB", "L", "P", "1")
_MAX_FILE_BYTES = 1 << 26  # 64 MiB: a PNG of 4096×4096 pixels of noise has 50 MB
_MACOS_FOLDER = "__MACOSX"  # of metadata, in zips made on macOS


@dataclass(frozen=True)
class FileSet:
    """The image files at `path`: their names in natural order, `read` for the bytes of one of them by name.

    notes: a sentence about each kind of file that looks like an image and was skipped.
    """

    path: Path
    names: list[str]
    notes: tuple[str, ...]
    read: Callable[[str], bytes]

    def decode(self, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """The pixels of an image, uint8 (H, W, 3). Raises BatchError, naming the file, if it cannot be used.

        size: the expected (height, width), compared before anything is decoded; None accepts any.
        """
        with errors_as_batch_error(self.path):
            content = self.read(name)
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                self._require_usable(name, image, size)
                return np.asarray(image.convert("RGB"))
        except BatchError:
            raise
        except UnidentifiedImageError:
            kind = signature_kind(content[:512])
            raise BatchError(
                f"{self.path}: {name} is {KIND_NAMES[kind]}; expected PNG, JPEG or WebP. "
                + KIND_REMEDIES.get(kind, "Convert or remove it.")
            ) from None
        except Exception as error:  # what Pillow raises for damaged files has no common base
            raise BatchError(f"{self.path}: {name} cannot be decoded ({error}).") from None

    def _require_usable(self, name: str, image: Image.Image, size: tuple[int, int] | None) -> None:
        if image.mode not in _MODES or "transparency" in image.info:
            raise BatchError(
                f"{self.path}: {name} has mode {image.mode}; expected three 8-bit colours and no "
                "transparency. Convert it to RGB first."
            )
        if size is not None and (image.height, image.width) != size:
            raise BatchError(
                f"{self.path}: {name} is {image.width}×{image.height} and {self.names[0]} is "
                f"{size[1]}×{size[0]}; a batch has one size. Resize or remove it."
            )
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise BatchError(
                f"{self.path}: {name} is {image.width}×{image.height}, more than {limit:,} pixels. "
                "Resize or remove it."
            )


def files_in_folder(path: Path) -> FileSet:
    """The image files anywhere in a folder. Raises BatchError if there is none or it cannot be listed."""
    files, broken_links, linked_folders = [], [], []
    with errors_as_batch_error(path):
        for folder, subfolder_names, file_names in os.walk(path, onerror=_raise):
            inside = Path(folder).relative_to(path)
            for name in filter(_is_image, file_names):
                kind = files if Path(folder, name).is_file() else broken_links
                kind.append((inside / name).as_posix())
            linked_folders += [
                (inside / name).as_posix() for name in subfolder_names if Path(folder, name).is_symlink()
            ]

    def read(name: str) -> bytes:
        _require_small(path, name, (path / name).stat().st_size)
        return (path / name).read_bytes()

    skipped = {"links without a target": broken_links, "links to folders": linked_folders}
    return _file_set(path, files, read, skipped)


def files_in_zip(path: Path) -> FileSet:
    """The image files anywhere in a zip. Raises BatchError if there is none or the zip is damaged."""
    with errors_as_batch_error(path):
        archive = zipfile.ZipFile(path)  # stays open: its directory is parsed once, and threads may share it
        members = {info.filename: info for info in archive.infolist()}  # of equal names the last, as in unzip

    def read(name: str) -> bytes:
        info = members[name]
        require_plausible_size(path, info)
        _require_small(path, name, info.file_size)
        with archive.open(info) as stream:
            return stream.read(info.file_size)  # never more than the archive claims

    return _file_set(path, [name for name in members if _is_image(name)], read, {})


def _file_set(
    path: Path, names: Iterable[str], read: Callable[[str], bytes], skipped: dict[str, list[str]]
) -> FileSet:
    """Sort the names of images and set hidden ones apart. Raises BatchError if none is left."""
    ordered = sorted(names, key=natural_order)
    hidden = [name for name in ordered if _is_hidden(name)]
    visible = [name for name in ordered if not _is_hidden(name)]
    notes = tuple(
        f"{path}: {what} are skipped: {len(found):,} ({', '.join(sorted(found)[:3])}"
        f"{', …' if len(found) > 3 else ''})."
        for what, found in ({"hidden files": hidden} | skipped).items()
        if found
    )
    if not visible:
        raise BatchError(
            " ".join([f"{path}: no image in it (looked for {', '.join(IMAGE_SUFFIXES)}).", *notes])
        )
    return FileSet(path, visible, notes, read)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _is_hidden(name: str) -> bool:
    """True for hidden files, files in hidden folders, and macOS's __MACOSX/…"""
    parts = PurePosixPath(name).parts
    return any(part == _MACOS_FOLDER or (part.startswith(".") and part != "..") for part in parts)


def natural_order(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sort key that puts img2 before img10, and 01 before 1 wherever they are listed."""
    parts = [part for part in re.split(r"([0-9]+)", name) if part]
    # A number is compared by its length and then by its digits; numbers precede text
    numbers = {part: part.lstrip("0") for part in parts if part[0] in "0123456789"}
    key = [(part not in numbers, len(numbers.get(part, "")), numbers.get(part, part)) for part in parts]
    return key, name


def _require_small(path: Path, name: str, size: int) -> None:
    if size > _MAX_FILE_BYTES:
        raise BatchError(
            f"{path}: {name} has {size:,} bytes; an image file of more than {_MAX_FILE_BYTES:,} is not read. "
            "Resize or remove it."
        )


def _raise(error: OSError) -> None:
    raise error
