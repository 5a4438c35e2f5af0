"""The npz container: writing is deterministic, and damaged files are refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from dit_eval.errors import BatchError
from dit_eval.io import npz
from dit_eval.io.batches import open_images

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
