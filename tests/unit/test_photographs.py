"""Photographs as they are: crops of other loaders, formats that are taken or refused, classes in folders."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

from dit_eval.diagnostics.recorded import images as procedural
from dit_eval.errors import BatchError, DitEvalError, UsageError
from dit_eval.evaluation.pipeline import evaluate, make_reference
from dit_eval.evaluation.references import open_reference
from dit_eval.io.batches import Images, open_images
from dit_eval.io.crops import CROPS, ImageOptions
from dit_eval.results.comparability import differences, meaning
from dit_eval.results.result import Result
from tests.recorded import recorded

ADM, CENTER = ImageOptions(image_size=64), ImageOptions(image_size=64, crop="center")


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """The images that ADM's function was given: twenty, from 64×64 to 511×128 pixels."""
    sizes = recorded("center_crop")["sizes"]
    built = procedural.build("reference", len(sizes), 512)
    return [image[:height, :width] for image, (height, width) in zip(built, sizes, strict=True)]


@pytest.fixture(scope="module")
def folder(photographs: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as PNG files."""
    path = tmp_path_factory.mktemp("photographs")
    for number, image in enumerate(photographs):
        Image.fromarray(image).save(path / f"{number}.png")
    return path


def pixels(images: Images) -> np.ndarray:
    return np.concatenate(list(images.blocks(7)))


def evaluated(samples: Any, reference: Any, **options: Any) -> Result:
    result = evaluate(samples, reference, protocol="digits", device="cpu", **options)
    assert result is not None
    return result


def small_images(n: int, seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def save_all(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


# Crops


def test_the_crop_of_adm_is_that_of_its_function_bit_for_bit(folder: Path) -> None:
    expected = recorded("center_crop")["cropped_64"]
    assert len(expected) == 20
    assert (pixels(open_images(folder, ADM)) == expected).all()


@pytest.mark.parametrize("size", [48, 64, 150])
def test_the_crop_named_center_is_torchvisions_bit_for_bit(photographs: list[np.ndarray], size: int) -> None:
    bicubic = transforms.InterpolationMode.BICUBIC
    original = transforms.Compose([transforms.Resize(size, bicubic), transforms.CenterCrop(size)])
    for photograph in photographs:
        image = Image.fromarray(photograph)
        assert (CROPS["center"](image, size) == np.asarray(original(image))).all()


def test_the_two_crops_differ(folder: Path) -> None:
    assert (pixels(open_images(folder, ADM)) != pixels(open_images(folder, CENTER))).any()


@pytest.mark.parametrize("crop", CROPS)
def test_images_of_the_right_size_are_left_alone_and_no_crop_is_recorded(tmp_path: Path, crop: str) -> None:
    images = small_images(5, 0, 64)
    opened = open_images(save_all(tmp_path, images), ImageOptions(image_size=64, crop=crop))
    assert (pixels(opened) == images).all()
    assert opened.crop is None


def test_the_crop_is_known_once_a_later_image_has_been_cropped(folder: Path, tmp_path: Path) -> None:
    save_all(tmp_path, small_images(3, 0, 64))
    (tmp_path / "9.png").write_bytes((folder / "0.png").read_bytes())
    opened = open_images(tmp_path, ADM)
    pixels(opened)
    assert opened.crop == "adm"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop": "adm"}, "--crop adm needs the size of its result, e.g. --image-size 256"),
        ({"crop": "center"}, "--crop center needs the size"),
        ({"crop": "random", "image_size": 64}, "crop 'random' is not one of adm, center, none"),
        ({"image_size": 0}, "image_size is 0; expected an integer of at least 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ImageOptions(**options)


def test_images_of_several_sizes_name_the_option_that_helps(folder: Path) -> None:
    with pytest.raises(BatchError, match=r"1\.png is 196×495 and 0\.png is 512×200; .*--image-size N"):
        pixels(open_images(folder))


def test_without_a_crop_and_in_arrays_images_must_have_the_size(tmp_path: Path) -> None:
    images = small_images(5, 0)
    np.savez(tmp_path / "a.npz", images)
    np.save(tmp_path / "a.npy", images)
    save_all(tmp_path / "folder", images)
    words = "its images are 8×8, and --image-size is 64"
    for name, crop in (("a.npz", "adm"), ("a.npy", "center"), ("folder", "none")):
        with pytest.raises(BatchError, match=words):
            open_images(tmp_path / name, ImageOptions(image_size=64, crop=crop))
        open_images(tmp_path / name, ImageOptions(image_size=8, crop=crop))
    for samples, reference in ((images, "digits"), (small_images(5, 0, 64), tmp_path / "a.npz")):
        with pytest.raises(BatchError, match=words):
            evaluated(samples, reference, image_size=64)


def test_a_narrow_image_is_never_enlarged_beyond_the_limit_of_pixels(tmp_path: Path) -> None:
    Image.new("1", (1_000_000, 1)).save(tmp_path / "1.png")
    tracemalloc.start()
    with pytest.raises(
        BatchError, match=r"1\.png is 1000000×1, and with a short side of 64 it has more than"
    ):
        open_images(tmp_path, ADM)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


# Formats


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def sixteen_bit_png(levels: np.ndarray) -> bytes:
    """A PNG of RGB levels uint16 (H, W, 3), which Pillow does not write."""
    height, width, _ = levels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels))
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


RGB = Image.fromarray(small_images(1, 3)[0])
GREY, PALETTE = RGB.convert("L"), RGB.quantize(16)
LEVELS = np.random.default_rng(0).integers(0, 1 << 16, (8, 8, 3), dtype=np.uint16)
GREY_NOTE, OPAQUE_NOTE = (
    "grey images are used with three equal",
    "alpha channels without transparency are dropped",
)


@pytest.mark.parametrize(
    ("content", "expected", "words"),
    [
        (encoded(GREY), GREY.convert("RGB"), [GREY_NOTE]),
        (encoded(GREY.convert("LA")), GREY.convert("RGB"), [GREY_NOTE, OPAQUE_NOTE]),
        (encoded(RGB.convert("1")), RGB.convert("1").convert("RGB"), [GREY_NOTE]),
        (encoded(RGB.convert("RGBA")), RGB, [OPAQUE_NOTE]),
        (encoded(RGB.convert("RGBA"), "WEBP", lossless=True), RGB, []),  # WebP drops what is opaque
        (encoded(PALETTE), PALETTE.convert("RGB"), []),
        (encoded(PALETTE, transparency=b"\xff" * 16), PALETTE.convert("RGB"), [OPAQUE_NOTE]),
        (encoded(PALETTE, transparency=200), PALETTE.convert("RGB"), [OPAQUE_NOTE]),  # a colour not in use
        (encoded(RGB, transparency=(1, 2, 3)), RGB, [OPAQUE_NOTE]),
        (encoded(RGB, "TIFF"), RGB, []),
        (encoded(RGB, "TIFF", compression="tiff_lzw"), RGB, []),
        (encoded(RGB.convert("RGBA"), "TIFF"), RGB, [OPAQUE_NOTE]),
        (encoded(RGB.convert("CMYK"), "TIFF"), RGB.convert("CMYK").convert("RGB"), ["CMYK images"]),
        (sixteen_bit_png(LEVELS), Image.fromarray((LEVELS >> 8).astype(np.uint8)), ["16 bits per channel"]),
    ],
)
def test_what_is_unambiguous_is_taken_with_a_note(
    tmp_path: Path, content: bytes, expected: Image.Image, words: list[str]
) -> None:
    Image.fromarray(small_images(1, 0)[0]).save(tmp_path / "1.png")
    for name in ("2.png", "3.png", "4.png", "5.png"):
        (tmp_path / name).write_bytes(content)
    images = open_images(tmp_path)
    assert images.notes == ()
    assert (pixels(images)[1:] == np.asarray(expected)).all()
    pixels(images)  # once more
    assert len(images.notes) == len(words)
    for note, start in zip(images.notes, words, strict=True):
        assert start in note
        assert note.endswith(": 4 (2.png, 3.png, 4.png, …).")


def test_a_jpeg_in_cmyk_is_what_adms_loader_makes_of_it(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(encoded(RGB.convert("CMYK"), "JPEG"))
    images = open_images(tmp_path)
    with Image.open(tmp_path / "1.jpg") as original:
        assert (pixels(images) == np.asarray(original.convert("RGB"))).all()
    assert "CMYK images are converted to RGB" in images.notes[0]


def transparent(mode: str) -> Image.Image:
    image = RGB.convert(mode)
    alpha = Image.new("L", RGB.size, 255)
    alpha.putpixel((3, 4), 254)
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encoded(transparent("RGB")), "transparent pixels; .*background"),
        (encoded(transparent("L")), "transparent pixels"),
        (encoded(PALETTE, transparency=b"\xff\xfe"), "transparent pixels"),
        (encoded(RGB, transparency=RGB.getpixel((0, 0))), "transparent pixels"),
        (encoded(transparent("RGB"), "WEBP", lossless=True), "transparent pixels"),
        (encoded(Image.fromarray(LEVELS[..., 0])), "16-bit grey levels; expected 8 bits .*Convert it first"),
        (encoded(Image.fromarray(LEVELS[..., 0]), "TIFF"), "16-bit grey levels"),
        (encoded(GREY.convert("F"), "TIFF"), "mode F; expected RGB, grey, palette or CMYK"),
        (encoded(GREY.convert("I"), "TIFF"), "mode I;"),
        (encoded(RGB.convert("LAB"), "TIFF"), "mode LAB; .*Convert it to RGB first"),
        (encoded(RGB, "TIFF", save_all=True, append_images=[RGB, RGB]), "several pages; expected one"),
    ],
)
def test_what_is_ambiguous_is_an_error_that_says_what_to_do(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "7.png").write_bytes(content)
    with pytest.raises(BatchError, match=rf"7\.png has {words}"):
        open_images(tmp_path)


def test_a_part_of_the_images_is_noted_by_its_own_names(tmp_path: Path) -> None:
    save_all(tmp_path, small_images(9, 0))
    GREY.save(tmp_path / "7.png")
    images = open_images(tmp_path)
    for _ in images.blocks(2, 5):
        pass
    assert images.notes == (f"{tmp_path}: {GREY_NOTE} channels: 1 (7.png).",)


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_rotation_in_exif_data_is_not_applied_but_noted(tmp_path: Path, format: str) -> None:
    photograph = Image.fromarray(procedural.image("reference", 0, 64)[:48])
    for name, orientation in (("1.png", 1), ("2.png", 6)):
        content = encoded(photograph, format, exif=rotated(orientation), quality=90)
        (tmp_path / name).write_bytes(content)
    images = open_images(tmp_path)
    first, second = pixels(images)
    assert (first == second).all()
    (note,) = images.notes
    assert note == f"{tmp_path}: rotations in EXIF data are not applied, as by ADM's loader: 1 (2.png)."


def test_the_orientation_of_a_tiff_is_applied_by_pillow_and_so_is_not_noted(tmp_path: Path) -> None:
    photograph = Image.fromarray(procedural.image("reference", 0, 64)[:48])
    photograph.save(tmp_path / "1.tif", exif=rotated(6))
    images = open_images(tmp_path)
    assert (pixels(images)[0] == np.rot90(np.asarray(photograph), -1)).all()
    assert images.notes == ()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_say_nothing(tmp_path: Path) -> None:
    for number, exif in enumerate((b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(40))):
        RGB.save(tmp_path / f"{number}.jpg", exif=exif)
    images = open_images(tmp_path)
    assert len(pixels(images)) == 3
    assert images.notes == ()


# Classes


def class_folders(path: Path, images: np.ndarray) -> Path:
    """The images in folders n10, n9 and n9/inner, in this order."""
    for number, image in enumerate(images):
        inside = path / ("n10", "n9", "n9/inner")[number % 3]
        inside.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(inside / f"{number}.png")
    return path


def test_labels_are_those_of_torchvisions_image_folder(tmp_path: Path) -> None:
    path = class_folders(tmp_path / "photographs", small_images(11, 0))
    images = open_images(path)
    expected = {Path(name).relative_to(path).as_posix(): label for name, label in ImageFolder(path).samples}
    labels = images.labels()
    assert labels is not None
    names = images._files.names  # type: ignore[attr-defined]
    assert dict(zip(names, labels.tolist(), strict=True)) == expected
    assert images.notes == (
        f"{path}: the labels are the positions of the 2 class folders in sorted order (n10 … n9).",
    )
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.write(path / name, name)
    assert (open_images(tmp_path / "a.zip").labels() == labels).all()


def test_one_folder_or_images_beside_folders_are_no_classes(tmp_path: Path) -> None:
    save_all(tmp_path / "a", small_images(3, 0))
    assert open_images(tmp_path).labels() is None
    save_all(tmp_path / "b", small_images(3, 1))
    assert open_images(tmp_path).labels() is not None
    save_all(tmp_path, small_images(1, 2))
    images = open_images(tmp_path)
    assert images.labels() is None
    assert images.notes == ()


def test_class_folders_add_counts_by_class_and_change_no_number(tmp_path: Path) -> None:
    images = small_images(12, 0)
    path = class_folders(tmp_path / "photographs", images)
    np.savez(tmp_path / "a.npz", pixels(open_images(path)))
    np.savez(tmp_path / "ref.npz", small_images(9, 1))
    labelled, plain = (evaluated(tmp_path / name, tmp_path / "ref.npz") for name in ("photographs", "a.npz"))
    assert labelled.metrics == plain.metrics
    assert labelled.intervals == plain.intervals
    assert labelled.fingerprint == plain.fingerprint
    assert plain.classes == {}
    assert (labelled.classes["precision"]["label"], labelled.classes["precision"]["n"]) == ([0, 1], [4, 8])


# npy files, and arrays of other names


def test_an_npy_is_the_same_batch_as_an_npz(tmp_path: Path) -> None:
    images = small_images(20, 0)
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "a.npz", images)
    opened, stored = (open_images(tmp_path / name) for name in ("a.npy", "a.npz"))
    assert (pixels(opened) == images).all()
    assert (np.concatenate(list(opened.blocks(3, 4, 11))) == images[4:11]).all()
    assert (opened.digest(), opened.first_digest()) == (stored.digest(), stored.first_digest())
    results = [evaluated(path, path) for path in (tmp_path / "a.npy", tmp_path / "a.npz")]
    assert results[0].metrics == results[1].metrics
    assert results[0].fingerprint == results[1].fingerprint


def test_an_npy_of_a_gigabyte_is_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 64, 64, 3), np.uint8))
    content = (tmp_path / "a.npy").read_bytes()
    n = (1 << 30) // (64 * 64 * 3)
    header = content[:128].replace(b"(1, 64, 64, 3), }    ", f"({n}, 64, 64, 3), }}".encode())
    assert len(header) == 128
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + n * 64 * 64 * 3)
    tracemalloc.start()
    images = open_images(tmp_path / "a.npy")
    assert next(images.blocks(5, n - 5)).shape == (5, 64, 64, 3)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("array", "cut", "words"),
    [
        (np.array([{"an": "object"}], dtype=object), 0, "never opened because it could run code"),
        (small_images(3, 0), 1, "'a' claims 704 bytes and holds 703; the file is damaged"),
        (np.asfortranarray(small_images(3, 0)), 0, "is in Fortran order"),
        (small_images(3, 0).astype(np.float32), 0, "expected uint8 from 0 to 255. Convert first"),
        (small_images(3, 0)[:0], 0, "there is no image in it"),
    ],
)
def test_an_npy_of_something_else_is_refused(tmp_path: Path, array: np.ndarray, cut: int, words: str) -> None:
    np.save(tmp_path / "a.npy", array)
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[: len(content) - cut])
    with pytest.raises(BatchError, match=words):
        open_images(tmp_path / "a.npy")


def test_an_array_of_another_name_is_read_by_its_key(tmp_path: Path) -> None:
    images = small_images(9, 0)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(9))
    np.savez(tmp_path / "ref.npz", small_images(8, 1))
    for opener in (open_images, open_reference):
        with pytest.raises(BatchError, match="'images': pass --key images"):
            opener(tmp_path / "a.npz")
    np.savez(tmp_path / "two.npz", images=images, more=images)
    with pytest.raises(BatchError, match="statistics alone can only be the reference"):
        open_images(tmp_path / "two.npz")
    by_key = evaluated(tmp_path / "a.npz", tmp_path / "ref.npz", key="images")
    assert by_key.metrics == evaluated(images, tmp_path / "ref.npz").metrics
    swapped = evaluated(tmp_path / "two.npz", tmp_path / "a.npz", key="images")
    assert swapped.reference["digest"] == by_key.samples["digest"]
    with pytest.raises(BatchError, match="no array named 'images'"):
        evaluated(tmp_path / "ref.npz", tmp_path / "a.npz", key="images")


# What a result and a reference say


def test_notes_of_single_images_reach_the_result_with_and_without_the_cache(tmp_path: Path) -> None:
    samples, reference = (save_all(tmp_path / name, small_images(40, i)) for i, name in enumerate("ab"))
    RGB.convert("RGBA").save(samples / "30.png")
    GREY.save(reference / "35.png")
    expected = (f"{samples}: {OPAQUE_NOTE}: 1 (30.png).", f"{reference}: {GREY_NOTE} channels: 1 (35.png).")
    for cached in (False, True):
        result = evaluated(samples, reference)
        assert (result.samples["cached"], result.warnings[:2]) == (cached, expected)


def mixed(path: Path) -> Path:
    """Twenty images of 8×8 pixels, then twenty of other sizes."""
    save_all(path, small_images(20, 0))
    for number in range(20, 40):
        Image.fromarray(procedural.image("reference", number, 32)[: 20 + number % 7]).save(
            path / f"{number}.png"
        )
    return path


def test_the_cache_never_mixes_crops_even_where_the_first_images_need_none(tmp_path: Path) -> None:
    path = mixed(tmp_path / "photographs")
    results = {}
    for crop in ("adm", "center", "adm"):
        found = evaluated(path, "digits", image_size=8, crop=crop)
        expected = evaluated(path, "digits", image_size=8, crop=crop, cache=False)
        assert found.metrics == expected.metrics
        assert found.samples["digest"] == expected.samples["digest"]
        assert not found.samples["cached"]  # one entry for both, of which the last is kept
        results[crop] = found
    assert results["adm"].metrics["fid"] != results["center"].metrics["fid"]


def test_a_crop_is_recorded_and_part_of_the_fingerprint_only_where_it_was_used(tmp_path: Path) -> None:
    path = mixed(tmp_path / "photographs")
    cropped = evaluated(path, "digits", image_size=8)
    centre = evaluated(path, "digits", image_size=8, crop="center")
    np.savez(tmp_path / "a.npz", pixels(open_images(path, ImageOptions(image_size=8))))
    plain = evaluated(tmp_path / "a.npz", "digits", image_size=8)
    assert (cropped.samples["crop"], centre.samples["crop"]) == ("adm", "center")
    assert cropped.metrics == plain.metrics
    assert "crop" not in plain.samples
    assert len({result.fingerprint for result in (cropped, centre, plain)}) == 3
    assert differences(centre, cropped) == ["crop of the images (adm there, center here)"]
    fields = meaning(plain.protocol, plain.samples, plain.reference)
    assert meaning(cropped.protocol, cropped.samples, cropped.reference) == {**fields, "samples.crop": "adm"}
    assert Result.from_json(cropped.to_json()).samples == cropped.samples


def test_a_reference_names_its_crop_and_keeps_labels_and_notes(tmp_path: Path) -> None:
    path = tmp_path / "photographs"
    mixed(path / "n2")
    save_all(path / "n1", small_images(5, 1))
    options = {"image_size": 8, "crop": "center"}
    made = make_reference(path, tmp_path / "ref.npz", protocol="digits", device="cpu", **options)
    reference = open_reference(made)
    assert reference.images is not None
    images = open_images(path, ImageOptions(**options))  # type: ignore[arg-type]
    assert (pixels(reference.images) == pixels(images)).all()
    assert (reference.images.labels() == [0] * 5 + [1] * 40).all()  # type: ignore[union-attr]
    provenance = reference.provenance
    assert (provenance["crop"], provenance["size"], provenance["n"]) == ("center", [8, 8], 45)
    assert provenance["warnings"] == list(images.notes)
    assert "2 class folders in sorted order (n1 … n2)" in images.notes[0]
    by_file, by_folder = (
        evaluated(small_images(9, 3), ref, image_size=8, crop="center") for ref in (made, path)
    )
    assert by_file.metrics == pytest.approx(by_folder.metrics, rel=1e-9)
    assert by_folder.reference["crop"] == "center"


def test_a_reference_that_fails_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DitEvalError):
        make_reference(folder, tmp_path / "ref.npz", protocol="digits", device="cpu")
    assert list(tmp_path.iterdir()) == []
