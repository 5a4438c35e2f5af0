"""The npz container: writing is deterministic, and damaged files are refused."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from dit_eval.errors import BatchError
from dit_eval.io import npz
from dit_eval.io.batches import open_images
from dit_eval.io.checksums import BackgroundHash

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)


def saved(path: Path, compressed: bool, **arrays: np.ndarray) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **(arrays or {"arr_0": IMAGES}))  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_any_range_in_any_block_size_is_the_array(tmp_path: Path, compressed: bool) -> None:
    images = open_images(saved(tmp_path / "a.npz", compressed))
    assert (len(images), images.size) == (10, (6, 5))
    for rows, start, stop in [(1, 0, None), (3, 2, 9), (64, 0, 10), (4, 9, 10)]:
        blocks = list(images.blocks(rows, start, stop))
        assert all(len(block) <= rows for block in blocks)
        assert (np.concatenate(blocks) == IMAGES[start:stop]).all()


def test_digest_is_of_the_pixels_and_not_of_the_container(tmp_path: Path) -> None:
    stored = open_images(saved(tmp_path / "a.npz", False))
    compressed = open_images(saved(tmp_path / "b.npz", True, arr_0=IMAGES, other=np.arange(3)))
    changed = open_images(saved(tmp_path / "c.npz", False, arr_0=IMAGES ^ 1))
    assert stored.digest() == compressed.digest() != changed.digest()


def test_a_written_file_is_the_same_every_time_and_read_by_numpy(tmp_path: Path) -> None:
    labels = np.arange(10)
    for name in ("a.npz", "b.npz"):
        rows = npz.Rows(IMAGES.shape, np.uint8, (IMAGES[i : i + 4] for i in range(0, 10, 4)))
        npz.write_npz(tmp_path / name, {"arr_0": rows, "arr_1": labels})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        assert (read["arr_0"] == IMAGES).all()
        assert (read["arr_1"] == labels).all()


def written_by_zipfile(path: Path, arrays: dict[str, np.ndarray]) -> bytes:
    """The same content, written with the standard library's stream of a member."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(name + ".npy", (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, version=(1, 0))
    return path.read_bytes()


def in_blocks(crc: int | None = None) -> npz.Rows:
    return npz.Rows(IMAGES.shape, np.uint8, (IMAGES[i : i + 4] for i in range(0, 10, 4)), crc)


@pytest.mark.parametrize("crc", [None, zlib.crc32(IMAGES.tobytes())], ids=["streamed", "known"])
def test_a_file_has_the_bytes_that_zipfile_writes_and_the_hash_taken_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crc: int | None
) -> None:
    others = {
        "arr_1": np.arange(10),
        "number": np.array(2.5),
        "text": np.array("µ"),
        "none": np.zeros((0, 3)),
    }
    expected = written_by_zipfile(tmp_path / "z.npz", {"arr_0": IMAGES, **others})
    npz.write_npz(tmp_path / "a.npz", {"arr_0": in_blocks(crc), **others})
    assert (tmp_path / "a.npz").read_bytes() == expected
    if crc is not None:
        monkeypatch.setattr(npz, "_FLUSH_BYTES", 100)
        with BackgroundHash(hashlib.sha256()) as file_hash:
            npz.write_npz(tmp_path / "b.npz", {"arr_0": in_blocks(crc), **others}, file_hash)
            assert file_hash.hexdigest() == hashlib.sha256(expected).hexdigest()
        assert (tmp_path / "b.npz").read_bytes() == expected


def test_a_flush_that_fails_while_the_file_is_written_leaves_no_file(tmp_path: Path, monkeypatch) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(npz, "_FLUSH_BYTES", 100)
    monkeypatch.setattr(os, "fsync", fail)
    rows = in_blocks(zlib.crc32(IMAGES.tobytes()))
    with BackgroundHash(hashlib.sha256()) as file_hash, pytest.raises(BatchError, match="Input/output error"):
        npz.write_npz(tmp_path / "a.npz", {"arr_0": rows}, file_hash)
    assert list(tmp_path.iterdir()) == []


def test_crc_of_a_member_is_that_of_its_data_without_the_header(tmp_path: Path) -> None:
    for compressed in (False, True):
        member = npz.members(saved(tmp_path / "a.npz", compressed))["arr_0"]
        assert member.crc == zlib.crc32(IMAGES.tobytes())


@pytest.mark.parametrize("compressed", [False, True])
def test_verified_blocks_are_the_array_and_notice_a_changed_byte(tmp_path: Path, compressed: bool) -> None:
    path = saved(tmp_path / "a.npz", compressed)
    member = npz.members(path)["arr_0"]
    assert (np.concatenate(list(member.verified_blocks())) == IMAGES).all()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BatchError, match=r"a\.npz"):
        list(member.verified_blocks())


def test_a_written_file_has_the_header_that_streaming_readers_expect(tmp_path: Path) -> None:
    npz.write_npz(tmp_path / "a.npz", {"arr_0": IMAGES})
    with zipfile.ZipFile(tmp_path / "a.npz") as archive, archive.open("arr_0.npy") as stream:
        assert np.lib.format.read_magic(stream) == (1, 0)
        header = np.lib.format.read_array_header_1_0(stream)
    assert header == (IMAGES.shape, False, np.dtype("u1"))
    assert archive.getinfo("arr_0.npy").compress_type == zipfile.ZIP_STORED


def test_a_writer_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def broken():
        yield IMAGES[:4]
        raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError, match="the source is gone"):
        npz.write_npz(tmp_path / "a.npz", {"arr_0": npz.Rows(IMAGES.shape, np.uint8, broken())})
    assert list(tmp_path.iterdir()) == []


def header_of(shape: str, dtype: str = "|u1", fortran: str = "False") -> bytes:
    text = f"{{'descr': {dtype!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def crafted(path: Path, content: bytes, name: str = "arr_0.npy") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header_of("(1000000, 256, 256, 3)") + bytes(100), "claims 196,608,000,128 bytes and holds"),
        (header_of("(2, 4, 4, 3)", fortran="True") + bytes(96), "Fortran order"),
        (header_of("(2, 4, 4, 3)", dtype="|O") + bytes(96), "pickled object array"),
        (header_of("(-1, 4, 4, 3)") + bytes(96), "has the shape"),
        (b"not an array", "damaged"),
        (b"", "damaged"),
    ],
)
def test_headers_that_lie_are_refused_before_anything_is_allocated(
    tmp_path: Path, content: bytes, words: str
) -> None:
    with pytest.raises(BatchError, match=words):
        open_images(crafted(tmp_path / "a.npz", content))


def test_a_negative_shape_is_refused_even_if_its_product_is_the_size(tmp_path: Path) -> None:
    path = crafted(tmp_path / "a.npz", header_of("(-2, -4, 4, 3)") + bytes(96))
    with pytest.raises(BatchError, match=r"'arr_0' has the shape \(-2, -4, 4, 3\)"):
        open_images(path)


@pytest.mark.parametrize(
    ("compression", "words"),
    [
        (zipfile.ZIP_DEFLATED, "claims 3,298,534,883,328 bytes, more than its .* stored bytes can hold"),
        (zipfile.ZIP_STORED, "claims 3,298,534,883,328 bytes, more than its .* stored bytes can hold"),
        (zipfile.ZIP_BZIP2, "another method than deflate"),
    ],
)
def test_a_directory_that_claims_three_terabytes_is_refused_before_anything_is_allocated(
    tmp_path: Path, compression: int, words: str
) -> None:
    size = 3 << 40
    header = header_of(f"({(size - 128) // 192}, 8, 8, 3)")
    assert len(header) == 128
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("arr_0.npy", header + bytes(1000))
        archive.filelist[0].file_size = size  # what the directory at the end of the file will say
    with pytest.raises(BatchError, match=words):
        npz.members(path)


def test_an_array_that_memory_cannot_hold_is_one_sentence(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> np.ndarray:
        raise MemoryError

    member = npz.members(saved(tmp_path / "a.npz", False))["arr_0"]
    monkeypatch.setattr(np, "empty", refuse)
    with pytest.raises(BatchError, match="does not fit into memory"):
        member.read()
