"""The doctor finds every planted problem, and none in a good batch."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dit_eval.cli import main
from dit_eval.diagnostics.doctor import Problem, colour_shifts, diagnose
from dit_eval.diagnostics.pixel_stats import scan_pixels
from dit_eval.diagnostics.recorded.images import build
from dit_eval.errors import BatchError
from dit_eval.evaluation.extraction import load_extraction
from dit_eval.evaluation.pipeline import make_reference
from dit_eval.evaluation.references import open_reference
from dit_eval.io.assets import folder
from dit_eval.io.batches import open_images

DIGITS = folder("reference_stats") / "digits.npz"
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def digits() -> Arrays:
    """Real images with labels, in the order of the data set."""
    with np.load(DIGITS) as arrays:
        return {name: arrays[name] for name in ("arr_0", "arr_1")}


def problems(arrays: Arrays, folder: Path, reference: Path | None = DIGITS) -> set[str]:
    """Names of the problems in these arrays, with protocol digits."""
    path = folder / "batch.npz"
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    extraction = load_extraction("digits", device="cpu", cache=False)
    opened = open_reference(reference) if reference else None
    return {problem.name for problem in diagnose(path, opened, extraction)}


def test_a_good_batch_has_no_problems(digits: Arrays, tmp_path: Path) -> None:
    assert problems(digits, tmp_path) == set()


def sort_by_class(arrays: Arrays) -> Arrays:
    order = np.argsort(arrays["arr_1"], kind="stable")
    return {name: array[order] for name, array in arrays.items()}


def sort_without_labels(arrays: Arrays) -> Arrays:
    return {"arr_0": sort_by_class(arrays)["arr_0"]}


def drop_classes(arrays: Arrays) -> Arrays:
    kept = (arrays["arr_1"] > 4) | (np.arange(len(arrays["arr_1"])) % 4 == 0)
    return {name: array[kept] for name, array in arrays.items()}


def copy_some(arrays: Arrays) -> Arrays:
    return {name: np.concatenate([array[:-9], array[:9]]) for name, array in arrays.items()}


def paint(value: int) -> Callable[[Arrays], Arrays]:
    def painted(arrays: Arrays) -> Arrays:
        images = arrays["arr_0"].copy()
        images[::20] = value
        return arrays | {"arr_0": images}

    return painted


def saturate(arrays: Arrays) -> Arrays:
    return arrays | {"arr_0": np.where(arrays["arr_0"] > 127, 255, 0).astype(np.uint8)}


def halve(arrays: Arrays) -> Arrays:
    return arrays | {"arr_0": (arrays["arr_0"] / np.float32(255))}


def break_floats(arrays: Arrays) -> Arrays:
    images = halve(arrays)["arr_0"]
    images[3] = np.nan
    return arrays | {"arr_0": images}


def keep_few(arrays: Arrays) -> Arrays:
    return {name: array[:60] for name, array in arrays.items()}


def darken(arrays: Arrays) -> Arrays:
    return arrays | {"arr_0": arrays["arr_0"] // 2}


def keep_few_labels(arrays: Arrays) -> Arrays:
    return arrays | {"arr_1": arrays["arr_1"][:50]}


def drop_labels(arrays: Arrays) -> Arrays:
    return arrays | {"arr_1": np.empty(0, np.int64)}


def use_huge_labels(arrays: Arrays) -> Arrays:
    return arrays | {"arr_1": np.random.default_rng(0).choice([0, 10**12], len(arrays["arr_0"]))}


def shorten_statistics(arrays: Arrays) -> Arrays:
    return arrays | {"mu": np.zeros(7), "sigma": np.eye(7)}


@pytest.fixture
def stale(digits: Arrays, tmp_path: Path) -> Arrays:
    """The images with the statistics of a part of them."""
    np.savez(tmp_path / "part.npz", **drop_classes(digits))  # pyright: ignore[reportArgumentType]
    made = make_reference(tmp_path / "part.npz", tmp_path / "made.npz", protocol="digits", device="cpu")
    with np.load(made) as stored:
        return digits | {"mu": stored["mu"], "sigma": stored["sigma"]}


@pytest.mark.parametrize(
    ("plant", "names"),
    [
        (sort_by_class, {"order"}),
        (sort_without_labels, {"order"}),
        (drop_classes, {"balance"}),
        (copy_some, {"duplicates"}),
        (paint(128), {"constant", "duplicates"}),
        (paint(255), {"constant", "duplicates", "saturated"}),
        (saturate, {"saturated", "duplicates", "colours"}),
        (halve, {"floats"}),
        (break_floats, {"floats"}),
        (keep_few, {"few"}),
        (darken, {"colours"}),
        (keep_few_labels, {"labels"}),
        (drop_labels, {"labels"}),
        (use_huge_labels, {"balance"}),
        (shorten_statistics, {"statistics"}),
    ],
)
def test_a_planted_problem_is_found_and_no_other(
    digits: Arrays, tmp_path: Path, plant: Callable[[Arrays], Arrays], names: set[str]
) -> None:
    assert problems(plant(digits), tmp_path) == names


def test_a_data_set_may_be_grey(digits: Arrays, tmp_path: Path) -> None:
    assert problems(digits, tmp_path, reference=None) == set()


def test_grey_images_are_found_beside_a_reference_in_colour(photographs: np.ndarray, tmp_path: Path) -> None:
    grey = photographs.mean(axis=-1, keepdims=True).astype(np.uint8).repeat(3, axis=-1)
    found = compared(grey, photographs, tmp_path)
    assert found["grey"].invalidates is False


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """300 images that resemble photographs, with the reddish tint that these have on average."""
    return np.clip(build("reference", 300, 32) + np.array([20, 0, -20]), 0, 255).astype(np.uint8)


def compared(images: np.ndarray, reference: np.ndarray, folder: Path) -> dict[str, Problem]:
    """The problems in the pixels of these images beside that reference, by name."""
    np.savez(folder / "images.npz", images)
    np.savez(folder / "reference.npz", reference)
    found = diagnose(folder / "images.npz", open_reference(folder / "reference.npz"), None)
    return {problem.name: problem for problem in found}


def test_swapped_channels_are_an_error_and_other_brightness_or_contrast_a_warning(
    photographs: np.ndarray, tmp_path: Path
) -> None:
    images, reference = photographs[::2], photographs[1::2]
    assert compared(images, reference, tmp_path) == {}
    swapped = compared(images[..., ::-1], reference, tmp_path)
    assert [(name, problem.invalidates) for name, problem in swapped.items()] == [("channels", True)]
    assert "median red minus blue is -" in swapped["channels"].description
    for darker in (images // 2, (images * 0.75).astype(np.uint8), images // 2 + 60):
        found = compared(darker, reference, tmp_path)
        assert [(name, problem.invalidates) for name, problem in found.items()] == [("colours", False)]


@pytest.mark.parametrize("n", [40, 100])
def test_random_subsets_of_one_data_set_have_the_same_colours(
    photographs: np.ndarray, digits: Arrays, n: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for images in (photographs, digits["arr_0"]):
        np.savez(tmp_path / "images.npz", images)
        whole = scan_pixels(open_images(tmp_path / "images.npz"))
        for _ in range(300):
            order = rng.permutation(len(images))
            rest = replace(whole, n=len(images) - n, colours=whole.colours[order[n:]])
            assert colour_shifts(whole.colours[order[:n]], rest) == []


def test_statistics_of_other_images_are_found_in_a_batch_and_in_a_reference(
    digits: Arrays, stale: Arrays, tmp_path: Path
) -> None:
    assert problems(stale, tmp_path) == {"statistics"}
    np.savez(tmp_path / "ref.npz", **stale)  # pyright: ignore[reportArgumentType]
    assert problems(digits, tmp_path, reference=tmp_path / "ref.npz") == {"statistics"}


def test_another_size_than_the_references_is_found(digits: Arrays, tmp_path: Path) -> None:
    larger = digits["arr_0"].repeat(2, axis=1).repeat(2, axis=2)
    np.savez(tmp_path / "large.npz", larger)
    (problem,) = diagnose(tmp_path / "large.npz", open_reference(DIGITS), None)
    assert problem.name == "size"


@pytest.mark.parametrize("quality", [25, 50])
def test_jpeg_leaves_traces_and_clean_images_have_none(tmp_path: Path, quality: int) -> None:
    clean = build("reference", 300, 64)
    np.savez(tmp_path / "clean.npz", clean)
    np.savez(tmp_path / "jpeg.npz", np.stack([through_jpeg(image, quality) for image in clean]))
    assert diagnose(tmp_path / "clean.npz", None, None) == []
    assert [problem.name for problem in diagnose(tmp_path / "jpeg.npz", None, None)] == ["jpeg"]


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_an_inception_score_that_the_order_has_changed_is_found(digits: Arrays, tmp_path: Path) -> None:
    images = sort_by_class(digits)["arr_0"].repeat(6, axis=0)  # two chunks of 5,000 and a rest
    assert {"inception-score", "order", "duplicates"} <= problems({"arr_0": images}, tmp_path)


def test_the_command_measures_by_the_protocol_of_its_reference(digits: Arrays, tmp_path: Path) -> None:
    np.savez(tmp_path / "batch.npz", **sort_by_class(digits))  # pyright: ignore[reportArgumentType]
    run = CliRunner().invoke(main, ["doctor", str(tmp_path / "batch.npz"), "digits", "--device", "cpu"])
    assert run.exit_code == 0, run.output
    assert "sorted by class, according to its predicted classes" in run.output


def test_images_are_read_as_fid_reads_them(digits: Arrays, tmp_path: Path) -> None:
    np.savez(tmp_path / "batch.npz", images=copy_some(digits)["arr_0"])
    np.savez(tmp_path / "floats.npz", images=halve(digits)["arr_0"])
    (tmp_path / "photos").mkdir()
    for i, width in enumerate((8, 9, 12)):
        Image.fromarray(digits["arr_0"][i].repeat(2, 1)[:, :width]).save(tmp_path / "photos" / f"{i}.png")
    arguments = ["--pixels-only", "--key", "images"]
    run = CliRunner().invoke(main, ["doctor", str(tmp_path / "batch.npz"), *arguments])
    assert run.output.startswith("error: duplicates: 9 of 1,797")
    run = CliRunner().invoke(main, ["doctor", str(tmp_path / "floats.npz"), *arguments])
    assert run.output.startswith("error: floats: images is float32")
    assert "astype(np.uint8) for x in -1…1" in run.output
    photos = ["doctor", str(tmp_path / "photos"), "--pixels-only"]
    assert isinstance(CliRunner().invoke(main, photos).exception, BatchError)
    run = CliRunner().invoke(main, [*photos, "--image-size", "8"])
    assert run.exit_code == 0, run.output


def test_the_command_says_what_how_bad_and_what_to_do_and_exits_1(digits: Arrays, tmp_path: Path) -> None:
    np.savez(tmp_path / "batch.npz", **copy_some(digits))  # pyright: ignore[reportArgumentType]
    run = CliRunner().invoke(main, ["doctor", str(tmp_path / "batch.npz"), str(DIGITS), "--pixels-only"])
    assert run.exit_code == 1
    assert run.output.startswith("error: duplicates: 9 of 1,797 images are copies of another.\n    effect: ")
    good = CliRunner().invoke(main, ["doctor", str(DIGITS), str(DIGITS), "--pixels-only"])
    assert (good.exit_code, good.output) == (0, f"{DIGITS}: no problems found.\n")
