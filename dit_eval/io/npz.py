"""The .npz container: arrays found, checked and streamed without loading them, and written the same way.

Reading never unpickles and never trusts a header: an archive that claims more than it holds is refused
before anything is allocated. Writing is streaming and deterministic: stored members, zip64, no time stamps,
npy header 1.0 in C order, so the same arrays always give the same file.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from dit_eval.errors import BatchError

_CHUNK = 1 << 22
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature … length of name, length of extra field
_EPOCH = (1980, 1, 1, 0, 0, 0)

# What the standard library and numpy raise on damaged archives and headers (zipfile's refusals of a method or
# version are RuntimeErrors).
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


@contextmanager
def damage_is_an_error(path: Path) -> Iterator[None]:
    """Turn whatever a parser trips over in `path` into one BatchError."""
    try:
        yield
    except FileNotFoundError:
        raise BatchError(f"{path}: no such file or folder.") from None
    except PermissionError:
        raise BatchError(f"{path}: no permission to read it.") from None
    except _DAMAGE as error:
        raise BatchError(
            f"{path}: damaged or not the kind of file its name says ({error or type(error).__name__}). "
            "Make or fetch it again."
        ) from None


@dataclass(frozen=True)
class Member:
    """One array of an npz: where its bytes lie, not the bytes."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    header: int  # bytes of the npy header
    info: zipfile.ZipInfo

    @property
    def row_bytes(self) -> int:
        """Bytes of one item along the first axis."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Rows start…stop in arrays of at most `rows`. Raises BatchError where the data is damaged."""
        stop = len(self) if stop is None else stop
        with damage_is_an_error(self.path), self._bytes() as (stream, origin):
            stream.seek(origin + self.header + start * self.row_bytes)
            for first in range(start, stop, rows):
                block = np.empty((min(rows, stop - first), *self.shape[1:]), self.dtype)
                _fill(stream, block)
                yield block

    def read(self) -> np.ndarray:
        """The whole array, with its checksum compared."""
        with damage_is_an_error(self.path), zipfile.ZipFile(self.path) as archive:
            with archive.open(self.info) as stream:
                stream.read(self.header)
                array = np.empty(self.shape, self.dtype)
                _fill(stream, array)
                stream.read(1)  # the end of the member is where zipfile compares the CRC
            return array

    def digest(self) -> str:
        """SHA-256 of dtype, shape and data: the same for a stored and a compressed file.

        Compares the archive's own CRC on the way. Raises BatchError if it does not hold.
        """
        sha = hashlib.sha256(f"{self.dtype.str}{self.shape}".encode())
        left = self.dtype.itemsize * math.prod(self.shape)
        with damage_is_an_error(self.path), self._bytes() as (stream, origin):
            stream.seek(origin)
            crc = zlib.crc32(stream.read(self.header))
            while chunk := stream.read(min(_CHUNK, left)):
                left -= len(chunk)
                sha.update(chunk)
                crc = zlib.crc32(chunk, crc)
            if crc != self.info.CRC:
                raise BatchError(
                    f"{self.path}: the checksum of {self.name!r} does not hold; make or fetch it again."
                )
        return sha.hexdigest()

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 1

    @contextmanager
    def _bytes(self) -> Iterator[tuple[IO[bytes], int]]:
        """A stream, and where in it the npy header begins: in place if stored, inflated if compressed."""
        if self.info.compress_type != zipfile.ZIP_STORED:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.info) as stream:
                yield stream, 0
            return
        with self.path.open("rb") as file:
            file.seek(self.info.header_offset)
            signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            start = self.info.header_offset + _LOCAL_HEADER.size + name + extra
            if signature != b"PK\x03\x04" or start + self.info.file_size > os.fstat(file.fileno()).st_size:
                raise BatchError(
                    f"{self.path}: {self.name!r} points outside the file; make or fetch it again."
                )
            yield file, start


def _fill(stream: Any, array: np.ndarray) -> None:
    raw = array.reshape(-1).view(np.uint8)
    done = 0
    while done < len(raw):
        got = stream.readinto(raw[done:].data)
        if not got:
            raise EOFError("the data ends early")
        done += got


def members(path: Path) -> dict[str, Member]:
    """The arrays of an npz by name. Raises BatchError for damage, pickles and false claims."""
    found = {}
    with damage_is_an_error(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                name = info.filename.removesuffix(".npy")
                with archive.open(info) as stream:
                    shape, dtype, header = _npy_header(path, name, stream)
                claimed = header + dtype.itemsize * math.prod(shape)
                if claimed != info.file_size:
                    raise BatchError(
                        f"{path}: {name!r} claims {claimed:,} bytes and holds {info.file_size:,}; "
                        "the file is damaged, make or fetch it again."
                    )
                found[name] = Member(path, name, shape, dtype, header, info)
    return found


def _npy_header(path: Path, name: str, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    version = np.lib.format.read_magic(stream)
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in reader:
        raise BatchError(
            f"{path}: {name!r} has npy format version {version}; expected 1.0 or 2.0. Save it again."
        )
    shape, fortran_order, dtype = reader[version](stream)
    if dtype.hasobject:
        raise BatchError(
            f"{path}: {name!r} is a pickled object array, which is never opened because it could run code. "
            "Save plain numbers instead, e.g. np.savez(path, images.astype(np.uint8))."
        )
    if fortran_order and len(shape) > 1:
        raise BatchError(f"{path}: {name!r} is in Fortran order. Save np.ascontiguousarray(array) instead.")
    return shape, dtype, stream.tell()


@dataclass(frozen=True)
class Rows:
    """An array that is written as it arrives: blocks along the first axis that add up to `shape`."""

    shape: tuple[int, ...]
    dtype: Any
    blocks: Iterable[np.ndarray]


def write_npz(path: Path, arrays: Mapping[str, np.ndarray | Rows]) -> None:
    """Write an npz in constant memory; it appears under its name only when it is whole.

    arrays: name → array, or Rows to be streamed. Raises BatchError if the file cannot be written.
    """
    partial = path.with_name(path.name + ".tmp")
    try:
        with partial.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                for name, array in arrays.items():
                    _write_member(archive, name, array)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise BatchError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        partial.unlink(missing_ok=True)


def _write_member(archive: zipfile.ZipFile, name: str, array: np.ndarray | Rows) -> None:
    rows = array if isinstance(array, Rows) else Rows(array.shape, array.dtype, (array,))
    info = zipfile.ZipInfo(name + ".npy", _EPOCH)
    info.create_system = 3  # the same bytes on every operating system
    info.external_attr = 0o644 << 16
    dtype = np.dtype(rows.dtype)
    with archive.open(info, "w", force_zip64=True) as stream:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": rows.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        written = 0
        for block in rows.blocks:
            assert block.dtype == dtype, (block.dtype, dtype)
            stream.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
            written += block.nbytes
    assert written == dtype.itemsize * math.prod(rows.shape), (name, written, rows.shape)
