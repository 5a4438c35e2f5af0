"""The .npz container: arrays are found, checked, streamed and written without holding them in memory.

Reading never unpickles and never trusts a header: an archive that claims more than it holds is refused
before anything is allocated. Writing is deterministic: uncompressed members, zip64, no time stamps, npy
header 1.0 in C order, so the same arrays always give the same file.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from dit_eval.errors import BatchError
from dit_eval.io.checksums import BackgroundHash, Crc32, crc32_append
from dit_eval.io.files import atomic_file

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_CHUNK = 1 << 22
_FLUSH_BYTES = 1 << 26
_MAX_DEFLATE_RATIO = 1032  # of sizes before and after; no deflate stream expands to more
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature … length of name, length of extra field
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the time stamp of every member

# What the standard library and numpy raise for damaged archives and headers; zipfile raises RuntimeError for
# an unknown compression method or version.
_READ_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, OverflowError, RuntimeError, SyntaxError,
    TypeError, ValueError,
)  # fmt: skip


@contextmanager
def errors_as_batch_error(path: Path) -> Iterator[None]:
    """Raise whatever goes wrong while `path` is opened, parsed or read as BatchError."""
    try:
        yield
    except FileNotFoundError:
        raise BatchError(f"{path}: no such file or folder.") from None
    except PermissionError:
        raise BatchError(f"{path}: no permission to read it.") from None
    except MemoryError:
        raise BatchError(f"{path}: what it claims to hold does not fit into memory.") from None
    except _READ_ERRORS as error:
        raise BatchError(
            f"{path} is damaged ({str(error) or type(error).__name__}); make or fetch it again."
        ) from None


def require_plausible_size(path: Path, info: zipfile.ZipInfo) -> None:
    """Raise BatchError if a member of a zip claims to be larger than its compressed data can be."""
    ratio = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _MAX_DEFLATE_RATIO}.get(info.compress_type)
    if ratio is None:
        raise BatchError(
            f"{path}: {info.filename!r} is compressed by another method than deflate. Write it again with "
            "np.savez or np.savez_compressed, or as an ordinary zip."
        )
    if info.header_offset + info.compress_size > path.stat().st_size:
        raise BatchError(f"{path}: {info.filename!r} points outside the file; make or fetch it again.")
    if info.file_size > ratio * info.compress_size:
        raise BatchError(
            f"{path}: {info.filename!r} claims {info.file_size:,} bytes, more than its "
            f"{info.compress_size:,} stored bytes can hold; the file is damaged. Make or fetch it again."
        )


@dataclass(frozen=True)
class Member:
    """One array of an npz, not yet read: its shape and type, and where it is in the file."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    header: bytes  # the npy header
    info: zipfile.ZipInfo
    loaded: np.ndarray | None = None  # the array, if `members` was told to read it

    @property
    def row_bytes(self) -> int:
        """Size in bytes of one row, an item along the first axis."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def nbytes(self) -> int:
        """Size in bytes of the data."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def compressed(self) -> bool:
        """True if rows in the middle can only be read after all rows before them."""
        return self.info.compress_type != zipfile.ZIP_STORED

    @property
    def crc(self) -> int:
        """CRC-32 of the data alone, as the archive gives it."""
        return crc32_append(zlib.crc32(self.header), self.info.CRC, self.nbytes)

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Rows start to stop - 1 in arrays of at most `rows`. Raises BatchError if the data is damaged."""
        stop = len(self) if stop is None else stop
        with errors_as_batch_error(self.path), self._bytes() as (stream, origin):
            stream.seek(origin + len(self.header) + start * self.row_bytes)
            for first in range(start, stop, rows):
                block = np.empty((min(rows, stop - first), *self.shape[1:]), self.dtype)
                _read_into(block, stream)
                yield block

    def verified_blocks(self) -> Iterator[np.ndarray]:
        """All rows, in arrays of a few megabytes, which must not be changed.

        Raises BatchError after the last of them if they do not match the CRC of the archive.
        """
        with BackgroundHash(Crc32()) as crc:
            for block in self.blocks(max(1, _CHUNK // max(1, self.row_bytes))):
                crc.update(_as_bytes(block))
                yield block
            self.require_crc(int(crc.hexdigest(), 16))

    def require_crc(self, crc: int) -> None:
        """Raise BatchError if this is not the CRC-32 of the data."""
        if crc != self.crc:
            raise BatchError(
                f"{self.path}: {self.name!r} does not match its checksum; make or fetch it again."
            )

    def read(self) -> np.ndarray:
        """The whole array. Raises BatchError if it is damaged or does not match its checksum."""
        if self.loaded is not None:
            return self.loaded
        with (
            errors_as_batch_error(self.path),
            zipfile.ZipFile(self.path) as archive,
            archive.open(self.info) as stream,
        ):
            stream.read(len(self.header))
            return _read_array(stream, self.shape, self.dtype)

    def digest(self) -> str:
        """SHA-256 in hex of dtype, shape and data: the same for a stored and a compressed file.

        Raises BatchError if the data is damaged or does not match the CRC of the archive.
        """
        sha = array_hash(self.dtype, self.shape)
        for block in self.verified_blocks():
            sha.update(_as_bytes(block))
        return sha.hexdigest()

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 1

    @contextmanager
    def _bytes(self) -> Iterator[tuple[IO[bytes], int]]:
        """A stream and the offset of the npy header in it: the file if stored, else the decompressed data."""
        if self.compressed:
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


class CheckedHash:
    """The hash of `Member.digest`, to be updated with all data of the array."""

    def __init__(self, member: Member) -> None:
        self._member, self._crc = member, 0
        self._sha = array_hash(member.dtype, member.shape)

    def update(self, data: ReadableBuffer) -> None:
        """Add the data that follow."""
        self._sha.update(data)
        self._crc = zlib.crc32(data, self._crc)

    def hexdigest(self) -> str:
        """SHA-256 in hex. Raises BatchError if the data does not match the CRC of the archive."""
        self._member.require_crc(self._crc)
        return self._sha.hexdigest()


def array_hash(dtype: np.dtype[Any], shape: tuple[int, ...]) -> hashlib._Hash:
    """The hash of `Member.digest`, to be updated with the data of an array of this type and shape."""
    return hashlib.sha256(f"{dtype.str}{shape}".encode())


def _read_array(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """The rest of a member, which follows its npy header."""
    array = np.empty(shape, dtype)
    _read_into(array, stream)
    stream.read(1)  # zipfile compares the CRC at the end of the member
    return array


def _read_into(array: np.ndarray, stream: Any) -> None:
    remaining = array.reshape(-1).view(np.uint8)
    while len(remaining):
        count = stream.readinto(remaining.data)
        if not count:
            raise EOFError("the data ends early")
        remaining = remaining[count:]


def members(path: Path, load: Collection[str] = ()) -> dict[str, Member]:
    """The arrays of an npz by name. Raises BatchError if it is damaged, pickled or in Fortran order.

    load: the names of small arrays that are read now, so that the file need not be opened again for them.
    """
    found = {}
    with errors_as_batch_error(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                name = info.filename.removesuffix(".npy")
                require_plausible_size(path, info)
                with archive.open(info) as stream:
                    shape, dtype, header = _npy_header(path, name, stream)
                    claimed = len(header) + dtype.itemsize * math.prod(shape)
                    _require_claimed_size(path, name, claimed, info.file_size)
                    loaded = _read_array(stream, shape, dtype) if name in load else None
                found[name] = Member(path, name, shape, dtype, header, info, loaded)
    return found


def map_npy(path: Path) -> np.ndarray:
    """The array of an .npy, memory-mapped. Raises BatchError if damaged, pickled or in Fortran order."""
    with errors_as_batch_error(path):
        with path.open("rb") as file:
            shape, dtype, header = _npy_header(path, path.stem, file)
            size = file.seek(0, os.SEEK_END)
        _require_claimed_size(path, path.stem, len(header) + dtype.itemsize * math.prod(shape), size)
        return np.load(path, mmap_mode="r" if math.prod(shape) else None, allow_pickle=False)


def _require_claimed_size(path: Path, name: str, claimed: int, size: int) -> None:
    if claimed != size:
        raise BatchError(
            f"{path}: {name!r} claims {claimed:,} bytes and holds {size:,}; the file is damaged. "
            "Make or fetch it again."
        )


def _npy_header(path: Path, name: str, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bytes]:
    version = np.lib.format.read_magic(stream)
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in reader:
        raise BatchError(
            f"{path}: {name!r} has npy format version {version}; expected 1.0 or 2.0. Save it again."
        )
    shape, fortran_order, dtype = reader[version](stream)
    if min(shape, default=0) < 0:
        raise BatchError(f"{path}: {name!r} has the shape {shape}; the file is damaged. Make it again.")
    if dtype.hasobject:
        raise BatchError(
            f"{path}: {name!r} is a pickled object array, which is never opened because it could run code. "
            "Save plain numbers instead, e.g. np.savez(path, images.astype(np.uint8))."
        )
    if fortran_order and len(shape) > 1:
        raise BatchError(f"{path}: {name!r} is in Fortran order. Save np.ascontiguousarray(array) instead.")
    length = stream.tell()
    stream.seek(0)
    return shape, dtype, stream.read(length)


@dataclass(frozen=True)
class Rows:
    """An array to be written block by block: the blocks, concatenated along the first axis, have `shape`.

    crc: CRC-32 of the data, if it is known beforehand and the blocks are verified against it.
    """

    shape: tuple[int, ...]
    dtype: Any
    blocks: Iterable[np.ndarray]
    crc: int | None = None


def write_npz(
    path: Path, arrays: Mapping[str, np.ndarray | Rows], file_hash: BackgroundHash | None = None
) -> None:
    """Write an npz whole or not at all, in constant memory.

    arrays: name → array, or Rows to be streamed; file_hash: updated with the bytes of the file, for which the
    Rows need a `crc`. Raises BatchError if the file cannot be written.
    """
    with atomic_file(path, BatchError) as file:
        if file_hash is None:
            write_arrays(file, arrays)
        else:
            with _HashedFile(file, file_hash) as hashed:
                write_arrays(hashed, arrays)


def write_arrays(file: IO[bytes] | _HashedFile, arrays: Mapping[str, np.ndarray | Rows]) -> None:
    """Write the content of an npz to an open, empty file. Raises OSError if it cannot be written."""
    infos = [_write_member(file, name, array) for name, array in arrays.items()]
    with zipfile.ZipFile(
        cast(IO[bytes], file), "w"
    ) as archive:  # writes the directory, which refers to the members
        archive.filelist.extend(infos)


def _write_member(file: IO[bytes] | _HashedFile, name: str, array: np.ndarray | Rows) -> zipfile.ZipInfo:
    """Write one array after its header, and the header again if its CRC was not known before the data."""
    if not isinstance(array, Rows):
        array = np.asarray(array, order="C")
        array = Rows(array.shape, array.dtype, (array,), zlib.crc32(_as_bytes(array)))
    dtype = np.dtype(array.dtype)
    size = dtype.itemsize * math.prod(array.shape)
    npy_header = _make_npy_header(dtype, array.shape)
    info = zipfile.ZipInfo(name + ".npy", _EPOCH)
    info.create_system = 3  # the same bytes on every operating system
    info.external_attr = 0o644 << 16
    info.file_size = info.compress_size = len(npy_header) + size
    info.header_offset = file.tell()
    info.CRC = crc32_append(zlib.crc32(npy_header), array.crc or 0, size)
    file.write(info.FileHeader(zip64=True))
    file.write(npy_header)
    crc, written = zlib.crc32(npy_header), 0
    for block in array.blocks:
        assert block.dtype == dtype, (block.dtype, dtype)
        data = _as_bytes(block)
        file.write(data)
        written += len(data)
        if array.crc is None:
            crc = zlib.crc32(data, crc)
    assert written == size, (name, written, array.shape)
    if array.crc is None:
        info.CRC = crc
        file.seek(info.header_offset)
        file.write(info.FileHeader(zip64=True))
        file.seek(0, os.SEEK_END)
    return info


def _make_npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def _as_bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class _HashedFile:
    """A file that is written from its beginning to its end, and meanwhile hashed and flushed to the disk."""

    def __init__(self, file: IO[bytes], hash: BackgroundHash) -> None:
        self._file, self._hash = file, hash
        self.tell, self.flush = file.tell, file.flush
        self._flushing: Future[None] | None = None
        self._flush_at = _FLUSH_BYTES
        self._thread = ThreadPoolExecutor(1)

    def write(self, data: Any) -> int:
        """Write and hash a buffer of bytes, which must not change afterwards."""
        self._hash.update(data)
        written = self._file.write(data)
        if self.tell() >= self._flush_at and (self._flushing is None or self._flushing.done()):
            self._raise_failure()
            self._flushing = self._thread.submit(os.fsync, self._file.fileno())
            self._flush_at = self.tell() + _FLUSH_BYTES
        return written

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Accept only the position that is the current one."""
        position = self._file.tell()
        assert self._file.seek(offset, whence) == position, "the file is not written in order"
        return position

    def _raise_failure(self) -> None:
        if self._flushing is not None:
            self._flushing.result()

    def __enter__(self) -> _HashedFile:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        self._thread.shutdown()
        if failure is None:
            self._raise_failure()
