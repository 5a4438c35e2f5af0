"""Batches: every container gives the same images; anything else is an error that says what to do."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dit_eval.errors import BatchError
from dit_eval.io.batches import open_images, prefetch

IMAGES = np.random.default_rng(1).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


def png(image: np.ndarray, **options: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, options.get("format", "PNG"))
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images, 1.png … 12.png, and a text file."""
    path = tmp_path / "images"
    path.mkdir()
    for number, image in enumerate(IMAGES, 1):
        (path / f"{number}.png").write_bytes(png(image))
    (path / "notes.txt").write_text("not an image")
    return path


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    return path


def everything(path: Path, rows: int = 5) -> np.ndarray:
    return np.concatenate(list(open_images(path).blocks(rows)))


def test_a_folder_and_a_zip_give_the_images_in_natural_order(folder: Path, tmp_path: Path) -> None:
    assert (everything(folder) == IMAGES).all()
    assert (everything(zipped(folder, tmp_path / "images.zip")) == IMAGES).all()


def test_a_folder_and_its_zip_have_one_digest(folder: Path, tmp_path: Path) -> None:
    archive = zipped(folder, tmp_path / "images.zip")
    assert open_images(folder).digest() == open_images(archive).digest()


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
    np.save(tmp_path / "images.npy", IMAGES)
    with pytest.raises(BatchError, match=r"images\.npy is neither an \.npz, a folder nor a zip"):
        open_images(tmp_path / "images.npy")


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
        (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        (b"<!doctype html>", "It is a web page; download the file itself"),
        (b"", r"found: unknown\)\. Write an array of images with np\.savez"),
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
