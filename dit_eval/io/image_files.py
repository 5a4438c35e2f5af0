"""Image files in a folder or a zip: which of them count, in which order, and how one is read and decoded.

Files and archives come from anywhere. Sizes are compared with limits before a file is read or decoded, and
only PNG, JPEG, TIFF and WebP are decoded, whatever the files are called. What is not plain 8-bit RGB is taken
as ADM's loader takes it, `Image.convert("RGB")`, where that loses nothing that a viewer would show; each kind
of such images gets a note.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from dit_eval.errors import BatchError
from dit_eval.io.crops import Crop
from dit_eval.io.files import IMAGE_SUFFIXES, KIND_NAMES, KIND_REMEDIES, signature_kind
from dit_eval.io.npz import errors_as_batch_error, require_plausible_size

_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP")
_MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK")
_MAX_FILE_BYTES = 1 << 26  # 64 MiB: a PNG of 4096×4096 pixels of noise has 50 MB
_MACOS_FOLDER = "__MACOSX"  # of metadata, in zips made on macOS

CROPPED = "cropped"  # a trait without a note: records name the crop
TRAIT_NOTES = {  # what is known of an image once it is decoded → the note about all such images
    "grey": "grey images are used with three equal channels",
    "opaque": "alpha channels without transparency are dropped",
    "cmyk": "CMYK images are converted to RGB without a colour profile, as by ADM's loader",
    "16-bit": "images of 16 bits per channel are used with the upper 8, as by ADM's loader",
    "rotated": "rotations in EXIF data are not applied, as by ADM's loader",
}


class DecodedImage(NamedTuple):
    """The pixels of an image, uint8 (H, W, 3), and its traits: keys of TRAIT_NOTES, or CROPPED."""

    pixels: np.ndarray
    traits: list[str]


@dataclass(frozen=True)
class FileSet:
    """The image files at `path`: their names in natural order, `read` for the bytes of one of them by name.

    skipped: a sentence about each kind of file that looks like an image and was skipped.
    """

    path: Path
    names: list[str]
    skipped: tuple[str, ...]
    read: Callable[[str], bytes]

    def class_names(self) -> list[str]:
        """The folders at the first level if they are classes, sorted as by torchvision's ImageFolder.

        They are if there are at least two and every image is in one; else the list is empty.
        """
        parts = [PurePosixPath(name).parts for name in self.names]
        folders = sorted({first for first, *_ in parts})
        return folders if len(folders) > 1 and all(len(inside) > 1 for inside in parts) else []

    def decode(
        self, name: str, size: tuple[int, int] | None = None, crop: Crop | None = None
    ) -> DecodedImage:
        """An image, after its crop if there is one. Raises BatchError, naming the file, if it cannot be used.

        size: without a crop the expected (height, width), compared before anything is decoded; None accepts
        any.
        """
        with errors_as_batch_error(self.path):
            content = self.read(name)
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                self._require_usable(name, image, None if crop else size, crop)
                deep = any(";16" in str(tile) for tile in image.tile)
                image.load()
                rgb, traits = self._to_rgb(name, image)
                traits += ["16-bit"] * deep + ["rotated"] * _ignores_rotation(image)
                if crop is None:
                    return DecodedImage(np.asarray(rgb), traits)
                return DecodedImage(crop(rgb), traits + [CROPPED] * (rgb.size != (crop.size, crop.size)))
        except BatchError:
            raise
        except UnidentifiedImageError:
            kind = signature_kind(content[:512])
            raise BatchError(
                f"{self.path}: {name} is {KIND_NAMES[kind]}; expected PNG, JPEG, TIFF or WebP. "
                + KIND_REMEDIES.get(kind, "Convert or remove it.")
            ) from None
        except Exception as error:  # what Pillow raises for damaged files has no common base
            raise BatchError(f"{self.path}: {name} cannot be decoded ({error}).") from None

    def _require_usable(
        self, name: str, image: Image.Image, size: tuple[int, int] | None, crop: Crop | None
    ) -> None:
        """Compare what the header says with what can be used, before anything is decoded."""
        if image.mode.startswith("I;16"):
            raise BatchError(
                f"{self.path}: {name} has 16-bit grey levels; expected 8 bits per channel. Convert it first, "
                "e.g. np.round(levels / 257).astype(np.uint8) if its levels fill the range 0…65535."
            )
        if image.mode not in _MODES:
            raise BatchError(
                f"{self.path}: {name} has mode {image.mode}; expected RGB, grey, palette or CMYK of at most "
                "8 bits per channel. Convert it to RGB first."
            )
        if image.format == "TIFF" and getattr(image, "is_animated", False):
            raise BatchError(f"{self.path}: {name} has several pages; expected one. Save each as a file.")
        if size is not None and (image.height, image.width) != size:
            raise BatchError(
                f"{self.path}: {name} is {image.width}×{image.height} and {self.names[0]} is "
                f"{size[1]}×{size[0]}; a batch has one size. Crop all images to one of N×N with "
                "--image-size N (`dit-eval fid`, `ref make`), or remove it."
            )
        limit, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
        if limit is not None and pixels > limit:
            raise BatchError(
                f"{self.path}: {name} is {image.width}×{image.height}, more than {limit:,} pixels. "
                "Resize or remove it."
            )
        if crop and limit is not None and pixels * (crop.size / min(image.size)) ** 2 > limit:
            raise BatchError(
                f"{self.path}: {name} is {image.width}×{image.height}, and with a short side of {crop.size} "
                f"it has more than {limit:,} pixels. Crop or remove it."
            )

    def _to_rgb(self, name: str, image: Image.Image) -> tuple[Image.Image, list[str]]:
        """A loaded image as RGB, and its traits. Raises BatchError if a pixel is transparent."""
        traits = ["grey"] * (image.mode in ("L", "LA", "1")) + ["cmyk"] * (image.mode == "CMYK")
        if not image.has_transparency_data:
            return image.convert("RGB"), traits
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            raise BatchError(
                f"{self.path}: {name} has transparent pixels; expected three 8-bit colours and no "
                "transparency. Put it on a background first, e.g. a white one."
            )
        return image.convert("RGB"), [*traits, "opaque"]


def _ignores_rotation(image: Image.Image) -> bool:
    """True if the EXIF data of a loaded image ask for a rotation or a mirror image.

    Never for TIFF: Pillow applies its orientation, and removes the tag, when it loads the image.
    """
    orientation = 1
    with suppress(Exception):  # what Pillow raises for damaged EXIF data has no common base
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation in range(2, 9)


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
        count_note(path, f"{what} are skipped", sorted(found))
        for what, found in ({"hidden files": hidden} | skipped).items()
        if found
    )
    if not visible:
        raise BatchError(
            " ".join([f"{path}: no image in it (looked for {', '.join(IMAGE_SUFFIXES)}).", *notes])
        )
    return FileSet(path, visible, notes, read)


def count_note(path: Path, what: str, names: Sequence[str]) -> str:
    """A sentence about some files, with their number and the first three names."""
    return f"{path}: {what}: {len(names):,} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})."


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
