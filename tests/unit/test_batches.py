"""Batches: every container gives the same images; anything else is an error that says what to do."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import threading
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dit_eval.errors import BatchError
from dit_eval.io.batches import map_in_threads, open_images, prefetch
from dit_eval.io.image_files import natural_order

IMAGES = np.random.default_rng(1).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


def png(image: np.ndarray, **options: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, options.get("format", "PNG"))
    return file.getvalue()


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("1.png"))
    return stream.getvalue()


def zipped_names(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images, 1.png … 12.png, and a text file."""
    path = tmp_path / "images"
    path.mkdir()
    for number, image in enumerate(IMAGES, 1):
        (path / f"{number}.png").write_bytes(png(image))
    (path / "notes.txt").write_text("not an image")
    return path


def zipped(folder: Path, path: Path, pattern: str = "*") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.glob(pattern):
            archive.write(file, file.relative_to(folder))
    return path


def everything(path: Path, rows: int = 5) -> np.ndarray:
    return np.concatenate(list(open_images(path).blocks(rows)))


def test_a_folder_and_a_zip_give_the_images_in_natural_order(folder: Path, tmp_path: Path) -> None:
    assert (everything(folder) == IMAGES).all()
    assert (everything(zipped(folder, tmp_path / "images.zip")) == IMAGES).all()


def test_the_digest_is_that_of_the_pixels_whatever_holds_them(folder: Path, tmp_path: Path) -> None:
    archive = zipped(folder, tmp_path / "images.zip")
    np.savez(tmp_path / "images.npz", IMAGES)
    digests = {open_images(path).digest() for path in (folder, archive, tmp_path / "images.npz")}
    for number in range(12, 0, -1):
        (folder / f"{number}.png").rename(folder / f"sample {number + 100:05d}.PNG")
    assert digests == {open_images(folder).digest()}
    (folder / "sample 00101.PNG").unlink()
    assert open_images(folder).digest() not in digests


def test_hidden_files_and_links_to_nothing_are_skipped_and_counted(folder: Path, tmp_path: Path) -> None:
    for name in (".hidden.png", ".ipynb_checkpoints/1-checkpoint.png", "a/.b/c.png", "__MACOSX/._0.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(IMAGES[0]))
    (folder / "._0.png").write_bytes(b"Mac OS X metadata")
    images = open_images(zipped(folder, tmp_path / "images.zip", "**/*.png"))
    assert (np.concatenate(list(images.blocks(5))) == IMAGES).all()
    first = "._0.png, .hidden.png, .ipynb_checkpoints/1-checkpoint.png"
    assert images.notes == (f"{tmp_path / 'images.zip'}: hidden files are skipped: 5 ({first}, …).",)
    (folder / "5a.png").symlink_to("absent.png")
    (folder / "linked").symlink_to(tmp_path)
    images = open_images(folder)
    assert (np.concatenate(list(images.blocks(5))) == IMAGES).all()
    assert images.notes == (
        f"{folder}: hidden files are skipped: 5 ({first}, …).",
        f"{folder}: links without a target are skipped: 1 (5a.png).",
        f"{folder}: links to folders are skipped: 1 (linked).",
    )


def test_nothing_is_noted_where_nothing_is_skipped(folder: Path, tmp_path: Path) -> None:
    hidden = folder.rename(tmp_path / ".images")  # the folder that was asked for may have any name
    assert open_images(hidden).notes == ()
    assert len(open_images(hidden)) == 12


def test_a_folder_of_hidden_files_alone_says_why_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "._0.png").write_bytes(b"Mac OS X metadata")
    with pytest.raises(BatchError, match=r"no image in it .*hidden files are skipped: 1 \(\._0\.png\)"):
        open_images(tmp_path)


def test_the_order_does_not_depend_on_the_listing() -> None:
    names = ["001.png", "01.png", "1.png", "1/x.png", "2.png", "10.png", "a01.png", "a1.png", "x/1.png"]
    for order in range(50):
        shuffled = np.random.default_rng(order).permutation(names).tolist()
        assert sorted(shuffled, key=natural_order) == names


def test_a_name_of_ten_thousand_digits_is_sorted_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("9" * 10_000 + ".png", png(IMAGES[1]))
        archive.writestr("0" * 10_000 + "7.png", png(IMAGES[0]))
    assert (everything(tmp_path / "images.zip") == IMAGES[:2]).all()


def test_ranges_of_a_folder_are_those_of_the_array(folder: Path) -> None:
    images = open_images(folder)
    assert (np.concatenate(list(images.blocks(2, 3, 10))) == IMAGES[3:10]).all()


def test_webp_and_jpeg_are_read_and_grey_is_spread_over_three_channels(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(png(IMAGES[0], format="JPEG"))
    (tmp_path / "b.webp").write_bytes(png(IMAGES[1], format="WEBP"))
    (tmp_path / "c.png").write_bytes(png(IMAGES[2, :, :, 0]))
    images = everything(tmp_path)
    assert images.shape == (3, 8, 8, 3)
    assert (images[2] == IMAGES[2, :, :, :1]).all()


def test_another_size_is_named(folder: Path) -> None:
    (folder / "7.png").write_bytes(png(IMAGES[0, :4]))
    with pytest.raises(BatchError, match=r"7\.png is 8×4 and 1\.png is 8×8"):
        everything(folder)


def test_a_damaged_image_is_named(folder: Path) -> None:
    (folder / "7.png").write_bytes(png(IMAGES[6])[:60])
    with pytest.raises(BatchError, match=r"7\.png cannot be decoded"):
        everything(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "7.png is a pointer to .* LFS.*git lfs pull"),
        (b"<!doctype html><title>Sign in</title>", "7.png is a web page; expected PNG, JPEG, TIFF or WebP"),
        (png(IMAGES[6], format="GIF"), "7.png is a GIF image; .* WebP. Convert or remove it"),
        (png(IMAGES[6], format="BMP"), "7.png is a file of unknown format"),
        (b"", "7.png is a file of unknown format"),
    ],
)
def test_an_image_file_of_other_content_is_named_for_what_it_is(
    folder: Path, content: bytes, words: str
) -> None:
    (folder / "7.png").write_bytes(content)
    with pytest.raises(BatchError, match=words) as caught:
        everything(folder)
    assert "0x" not in str(caught.value)


def test_a_member_that_would_inflate_to_300_mb_is_never_inflated(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", png(IMAGES[0]) + bytes(300_000_000))
    assert (tmp_path / "bomb.zip").stat().st_size < 300_000
    with memory_below(10_000_000), pytest.raises(BatchError, match=r"1\.png has 300,000,\d+ bytes; an image"):
        open_images(tmp_path / "bomb.zip")


def test_a_member_that_inflates_to_more_than_it_claims_is_not_inflated_beyond_that(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", png(IMAGES[0]) + bytes(300_000_000))
        archive.filelist[0].file_size = 1000
    with memory_below(10_000_000), pytest.raises(BatchError, match=r"bomb\.zip is damaged"):
        open_images(tmp_path / "bomb.zip")


def test_a_file_in_a_folder_has_the_same_limit(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(IMAGES[0]))
    with (tmp_path / "2.png").open("wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(BatchError, match=r"2\.png has 1,099,511,627,776 bytes"):
        everything(tmp_path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 15_000, 60_000])  # Pillow warns of the first and refuses the others
def test_an_image_of_too_many_pixels_is_never_decoded(tmp_path: Path, side: int) -> None:
    row = zlib.compressobj()
    data = row.compress(bytes(1 + side // 8)) + row.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data))
    words = r"1\.png (is 9500×9500, more than|cannot be decoded)"
    with memory_below(10_000_000), pytest.raises(BatchError, match=words):
        open_images(tmp_path)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Fail if the block allocates this many bytes at a time through Python or NumPy."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_decoding_in_threads_leaves_the_warning_filters_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("catch_warnings changes the filters of all threads")

    monkeypatch.setattr(warnings, "catch_warnings", refuse)
    before = list(warnings.filters)
    assert (everything(folder) == IMAGES).all()
    assert warnings.filters == before


def test_transparency_is_refused(folder: Path) -> None:
    (folder / "7.png").write_bytes(png(np.zeros((8, 8, 4), np.uint8)))
    with pytest.raises(BatchError, match="no transparency"):
        everything(folder)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), r"channels come last: save images.transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 8, 8, 1), np.uint8), "three colour channels"),
        (np.zeros((2, 8, 8), np.uint8), "three colour channels"),
        (np.zeros((2, 8, 8, 3), np.float32), "expected uint8 from 0 to 255. Convert first"),
        (np.full((2, 8, 8, 3), np.nan), "expected uint8"),
        (np.zeros((2, 8, 8, 3), np.int64), "expected uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), "there is no image in it"),
    ],
)
def test_arrays_that_are_not_images_are_refused_with_a_remedy(
    tmp_path: Path, array: np.ndarray, words: str
) -> None:
    np.savez(tmp_path / "a.npz", array)
    with pytest.raises(BatchError, match=words):
        open_images(tmp_path / "a.npz")


def test_a_pickled_array_is_never_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.array([{"an": "object"}], dtype=object))
    with pytest.raises(BatchError, match="could run code"):
        open_images(tmp_path / "a.npz")


def test_a_missing_array_is_an_error_that_lists_those_in_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(BatchError, match=r"no array named 'arr_0' \(found: mu, sigma\)"):
        open_images(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["absent.npz", "absent.zip", "absent"])
def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(BatchError, match="no such file or folder"):
        open_images(tmp_path / name)


def test_a_file_of_another_kind_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(
        BatchError, match=r"weights is a Python pickle; expected an \.npz, an \.npy, a folder"
    ):
        open_images(tmp_path / "weights")


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="no image in it"):
        open_images(tmp_path)


@pytest.mark.parametrize("name", ["ref.npz.1", "REF.NPZ", "download"])
def test_an_npz_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "a.npz", IMAGES)
    assert (everything((tmp_path / "a.npz").rename(tmp_path / name)) == IMAGES).all()


def test_a_zip_of_images_may_hold_labels_beside_them(folder: Path, tmp_path: Path) -> None:
    np.save(folder / "labels.npy", np.arange(12))
    assert (everything(zipped(folder, tmp_path / "images.npz")) == IMAGES).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer to .* LFS.*`git lfs pull`"),
        (b"<!doctype html>", "is a web page; .*Download the file itself"),
        (tar(), "is a tar archive; .*Unpack it first"),
        (gzip.compress(tar(), mtime=0), "is a gzip-compressed file; .*Unpack it first"),
        (png(IMAGES[0], format="GIF"), "is a GIF image; .*Save the frames as PNG files in a folder"),
        (png(IMAGES[0]), "is a single PNG image; .*Pass the folder that holds the images"),
        (zipped_names("archive/data.pkl"), "is a PyTorch checkpoint; .*It holds weights"),
        (b"\x80\x02}q\x00.", "is a Python pickle; .*never opened"),
        (b'{"schema": 1}', r"is a JSON file; .*Write an array of images with np\.savez"),
        (b"", r"is a file of unknown format; .*Write an array of images with np\.savez"),
    ],
)
def test_a_file_that_only_has_the_name_of_an_npz_is_named_for_what_it_is(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(BatchError, match=words):
        open_images(tmp_path / "a.npz")


def numbers_then_error(produced: list[int]) -> Iterator[int]:
    for number in range(5):
        produced.append(number)
        yield number
    raise BatchError("the sixth is damaged")


def test_prefetch_keeps_the_order_and_raises_the_error_of_the_producer() -> None:
    consumed = []
    stream = prefetch(numbers_then_error([]))
    for _ in range(5):
        consumed.append(next(stream))
    with pytest.raises(BatchError, match="the sixth is damaged"):
        next(stream)
    assert consumed == list(prefetch(iter(range(5)))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("depth", [1, 2])
def test_prefetch_produces_ahead_but_never_more_than_its_depth(depth: int) -> None:
    produced: list[int] = []
    stream = prefetch(numbers_then_error(produced), depth)
    for consumed in range(1, 3):
        next(stream)
        deadline = time.monotonic() + 10
        while len(produced) < consumed + depth and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert len(produced) == consumed + depth
    stream.close()  # type: ignore[attr-defined]


def test_a_consumer_that_stops_early_ends_the_producer() -> None:
    threads = threading.active_count()
    produced: list[int] = []
    stream = prefetch(numbers_then_error(produced))
    assert [next(stream), next(stream)] == [0, 1]
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads
    assert len(produced) <= 4


@pytest.mark.parametrize("threads", [1, 4])
def test_a_map_in_threads_keeps_the_order_and_works_only_so_far_ahead(threads: int) -> None:
    begun: list[int] = []

    def square(number: int) -> int:
        begun.append(number)
        return number**2

    squares = map_in_threads(square, range(20), ahead=3, threads=threads)
    for number in range(20):
        assert next(squares) == number**2
        assert len(begun) <= number + 4
    assert list(squares) == []


def test_a_map_in_threads_raises_errors_and_ends_its_threads() -> None:
    threads = threading.active_count()
    halves = map_in_threads(lambda number: 1 / number, [2, 1, 0, 3], ahead=1)
    assert [next(halves), next(halves)] == [0.5, 1]
    with pytest.raises(ZeroDivisionError):
        next(halves)
    halves = map_in_threads(abs, range(100), ahead=5)
    next(halves)
    halves.close()
    assert threading.active_count() == threads
