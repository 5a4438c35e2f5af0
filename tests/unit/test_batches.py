"""Batches: every container gives the same images, everything else is a sentence."""

from __future__ import annotations

import io
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
    """Twelve pictures, 1.png … 12.png, and a file that is none."""
    path = tmp_path / "pictures"
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
    assert (everything(zipped(folder, tmp_path / "pictures.zip")) == IMAGES).all()


def test_a_folder_and_its_zip_have_one_digest(folder: Path, tmp_path: Path) -> None:
    archive = zipped(folder, tmp_path / "pictures.zip")
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


def test_a_damaged_picture_is_named(folder: Path) -> None:
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
def test_arrays_that_are_no_images_are_refused_with_the_remedy(
    tmp_path: Path, array: np.ndarray, words: str
) -> None:
    np.savez(tmp_path / "a.npz", array)
    with pytest.raises(BatchError, match=words):
        open_images(tmp_path / "a.npz")


def test_a_pickled_array_is_never_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.array([{"an": "object"}], dtype=object))
    with pytest.raises(BatchError, match="could run code"):
        open_images(tmp_path / "a.npz")


def test_a_missing_key_says_which_there_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(BatchError, match=r"no array named 'arr_0' \(found: mu, sigma\)"):
        open_images(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["absent.npz", "absent.zip", "absent"])
def test_a_path_that_is_not_there_is_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(BatchError, match="no such file or folder"):
        open_images(tmp_path / name)


def test_a_file_of_another_kind_is_a_sentence(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    with pytest.raises(BatchError, match=r"images\.npy is neither an \.npz, a folder nor a zip"):
        open_images(tmp_path / "images.npy")


def test_an_empty_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="no image in it"):
        open_images(tmp_path)


def test_prefetch_keeps_the_order_and_raises_the_sources_error() -> None:
    def numbers() -> Iterator[int]:
        yield from range(5)
        raise BatchError("the sixth is damaged")

    seen = []
    with pytest.raises(BatchError, match="the sixth is damaged"):
        seen.extend(prefetch(numbers()))
    for number in prefetch(numbers()):
        seen.append(number)
        if number == 2:
            break
    assert seen[-3:] == [0, 1, 2]
