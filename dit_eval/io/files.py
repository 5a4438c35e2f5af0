"""Files are written whole or not at all, and recognised by their content instead of their names."""

from __future__ import annotations

import json
import os
import re
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from dit_eval.errors import DitEvalError, ResultError

FileKind = Literal[
    "missing", "unreadable", "folder", "npz", "torch", "zip", "damaged-zip", "safetensors", "pickle", "npy",
    "gzip", "tar", "png", "jpeg", "webp", "tiff", "gif", "git-lfs", "html", "json", "unknown",
]  # fmt: skip

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")

KIND_NAMES: dict[FileKind, str] = {
    "missing": "missing",
    "unreadable": "a file without permission to read it",
    "folder": "a folder",
    "npz": "an .npz of arrays",
    "torch": "a PyTorch checkpoint",
    "zip": "a zip archive",
    "damaged-zip": "a damaged or incomplete zip archive",
    "safetensors": "a .safetensors file of weights",
    "pickle": "a Python pickle",
    "npy": "a single .npy array",
    "gzip": "a gzip-compressed file",
    "tar": "a tar archive",
    "png": "a single PNG image",
    "jpeg": "a single JPEG image",
    "webp": "a single WebP image",
    "tiff": "a single TIFF image",
    "gif": "a GIF image",
    "git-lfs": "a pointer to a file in Git LFS",
    "html": "a web page",
    "json": "a JSON file",
    "unknown": "a file of unknown format",
}
KIND_REMEDIES: dict[FileKind, str] = {  # what to do about a file that is not what was expected
    "git-lfs": "Run `git lfs pull` to fetch the file itself.",
    "html": "Download the file itself: a login or error page was saved in its place.",
    "damaged-zip": "Make or fetch it again.",
    "gzip": "Unpack it first.",
    "tar": "Unpack it first.",
}

_SIGNATURES: dict[FileKind, bytes] = {  # regular expressions for the first 512 bytes
    "pickle": rb"\x80[\x02-\x05]",
    "npy": rb"\x93NUMPY",
    "gzip": rb"\x1f\x8b",
    "tar": rb"(?!PK).{257}ustar",
    "png": rb"\x89PNG\r\n\x1a\n",
    "jpeg": rb"\xff\xd8\xff",
    "webp": rb"RIFF.{4}WEBP",
    "tiff": rb"II[*+]\x00|MM\x00[*+]",
    "gif": rb"GIF8[79]a",
    "git-lfs": rb"version https://git-lfs",
    "html": rb"\s*(?i:<!doctype html|<html)",
    "json": rb'\s*(\{\s*["}]|\[\s*[][{"\d-])',
}


def file_kind(path: Path) -> FileKind:
    """The kind of a file, by its first bytes and, for a zip, the names of its members.

    npz: a zip with .npy members and no images; torch: a checkpoint that torch.save wrote as a zip; pickle:
    any other pickle, such as a checkpoint of torch before 1.6. Never raises: a file that cannot be opened is
    "unreadable".
    """
    try:
        if not path.is_file():
            return "folder" if path.is_dir() else "unknown" if path.exists() else "missing"
        with path.open("rb") as file:
            start, size = file.read(512), file.seek(0, os.SEEK_END)
    except OSError:
        return "unreadable"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        return "safetensors"
    if (kind := signature_kind(start)) != "unknown":
        return kind
    try:
        if zipfile.is_zipfile(path):
            return _zip_kind(path)
    except zipfile.BadZipFile:  # its directory says that it is one of several disks
        return "damaged-zip"
    return "damaged-zip" if start.startswith(b"PK\x03\x04") else "unknown"


def signature_kind(start: bytes) -> FileKind:
    """The kind of a file that is not an archive of other files, by its first 512 bytes; else "unknown"."""
    for kind, signature in _SIGNATURES.items():
        if re.match(signature, start, re.DOTALL):
            return kind
    return "unknown"


def _zip_kind(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # what zipfile raises for a damaged directory has no common base
        return "damaged-zip"
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    arrays = any(name.endswith(".npy") for name in names)
    return "npz" if arrays and not any(name.lower().endswith(IMAGE_SUFFIXES) for name in names) else "zip"


@contextmanager
def atomic_file(path: Path, error: type[DitEvalError] = ResultError) -> Iterator[IO[bytes]]:
    """A binary file to write, which appears as `path` when the block ends and not at all if the block fails.

    Several processes may write the same path at once; the last to finish wins. Raises `error` if the file
    cannot be written.
    """
    try:
        with replacement_file(path) as file:
            yield file
    except OSError as failure:
        raise error(f"{path} cannot be written: {failure.strerror or failure}.") from None


@contextmanager
def replacement_file(path: Path) -> Iterator[IO[bytes]]:
    """`atomic_file` for callers that handle OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
        publish(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def make_folder(path: Path, error: type[DitEvalError] = ResultError) -> None:
    """Create a folder unless it exists. Raises `error` if that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise error(f"{path} cannot be written: {failure.strerror or failure}.") from None


def publish(finished: Path, path: Path) -> None:
    """Rename a finished file of the same folder, once its bytes are on the disk. Raises OSError."""
    with finished.open("r+b") as file:
        os.fsync(file.fileno())
    finished.replace(path)


def mark_used(path: Path) -> None:
    """Make now the modification time of a cache entry, which is its time of last use, if that is allowed."""
    with suppress(OSError):
        os.utime(path)


def write_text(path: Path, text: str, error: type[DitEvalError] = ResultError) -> None:
    """Write a UTF-8 text file. Raises `error` if it cannot be written."""
    with atomic_file(path, error) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # paths may hold bytes that are no UTF-8


def write_json(path: Path, value: Any, error: type[DitEvalError] = ResultError) -> None:
    """Write JSON values, indented by two spaces. Raises `error` if the file cannot be written."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", error)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file or it holds no JSON object."""
    try:
        value = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for anything else, also for NaN and infinity."""

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("brackets are nested too deep") from None
