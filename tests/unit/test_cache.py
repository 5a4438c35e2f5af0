"""The cache: the same numbers with it, without it and whatever is wrong with it; small and bounded."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dit_eval.errors import StatisticsError, UsageError
from dit_eval.evaluation.extraction import load_extraction
from dit_eval.evaluation.feature_stats import DiskRows, FeatureStats
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.features.extractor import FeatureExtractor
from dit_eval.features.network import Activations
from dit_eval.io import assets
from dit_eval.io.batches import open_images
from dit_eval.io.cache import features_limit, features_path, list_cache, store_features
from dit_eval.io.image_files import DecodedImage, FileSet
from dit_eval.io.npz import Rows, write_npz
from dit_eval.results.result import Result
from dit_eval.runtime.distributed import Rank
from tests.command import assert_one_sentence, dit_eval

DIGITS = assets.folder("reference_stats") / "digits.npz"


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    with np.load(DIGITS) as arrays:
        return arrays["arr_0"]


@pytest.fixture
def batch(digits: np.ndarray, tmp_path: Path) -> Path:
    """1,500 images: more than one block of 1,024 rows and more than one of 2,000 with the reference."""
    write_npz(tmp_path / "batch.npz", {"arr_0": digits[:1500] ^ 1})
    return tmp_path / "batch.npz"


def evaluated(samples: object, reference: object = "digits", **options: object) -> Result:
    result = evaluate(samples, reference, protocol="digits", device="cpu", **options)  # type: ignore[arg-type]
    assert result is not None
    return result


def assert_same_numbers(result: Result, expected: Result) -> None:
    assert result.metrics == expected.metrics
    assert result.intervals == expected.intervals
    assert result.influence.keys() == expected.influence.keys()
    assert all((result.influence[name] == expected.influence[name]).all() for name in expected.influence)


def features_in(cache: Path) -> list[Path]:
    return list((cache / "features").iterdir())


def test_cached_features_give_the_same_numbers_to_the_last_bit(batch: Path, own_cache: Path) -> None:
    uncached = evaluated(batch, cache=False)
    assert not (own_cache / "features").exists()
    first, second = evaluated(batch), evaluated(batch)
    assert (first.samples["cached"], second.samples["cached"]) == (False, True)
    assert second.reference["cached"]
    for result in (first, second):
        assert_same_numbers(result, uncached)
        assert result.warnings == ()


def some_features(n: int) -> Activations:
    generator = np.random.default_rng(n)
    widths = (2048, 2023, 1008)
    pool, spatial, logits = (generator.standard_normal((n, width), np.float32) for width in widths)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Activations(*map(torch.from_numpy, (pool, spatial, probabilities)))


def test_an_entry_of_twelve_images_is_smaller_than_their_covariance() -> None:
    stats = FeatureStats(5000, 2048, 2023, 1008, 12)
    stats.update(some_features(12), 0)
    arrays = stats.to_arrays().values()
    size = sum(np.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays)
    assert size < 12 * 20_000
    assert size < 2048 * 2048


@pytest.mark.parametrize("cuts", [(0, 1), (700, 1024), (1024, 1500)])
def test_shares_of_several_ranks_add_up_to_the_statistics_of_one_process(cuts: tuple[int, int]) -> None:
    """Float64 sums in another order differ by at most n·2⁻⁵³ = 1.8·10⁻¹³ of the sum of absolute values."""
    features = Activations(*(array[:, :40] for array in some_features(1600)))
    whole = FeatureStats(500, 40, 40, 40, 1600)
    whole.update(features, 0)
    shares = []
    for start, stop in pairwise((0, *cuts, 1600)):
        share = FeatureStats(500, 40, 40, 40, 1600)
        for first in range(start, stop, 64):
            rows = slice(first, min(first + 64, stop))
            share.update(Activations(*(array[rows] for array in features)), first)
        shares.append(share)
    sums = [share.moments() for share in shares]
    joined = shares[0]
    for share in shares[1:]:
        joined.append(in_memory(share), moments=False)
    joined.set_moments({name: np.sum([part[name] for part in sums], axis=0) for name in sums[0]})
    assert joined.n == whole.n
    for kind in ("pool", "spatial"):
        found, expected = getattr(joined, kind), getattr(whole, kind)
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-12, atol=1e-14)
    assert (joined.features == whole.features).all()
    assert (joined.spatial_features[:] == whole.spatial_features[:]).all()
    assert (joined.probabilities[:] == whole.probabilities[:]).all()
    assert joined.score.in_file_order() == pytest.approx(whole.score.in_file_order(), rel=1e-14)


def in_memory(stats: FeatureStats) -> dict[str, np.ndarray]:
    return {
        name: np.concatenate(list(array.blocks)) if isinstance(array, Rows) else array
        for name, array in stats.to_arrays().items()
    }


def test_stored_statistics_are_the_same_to_the_last_bit() -> None:
    features = Activations(*(array[:, :40] for array in some_features(1600)))
    stats = FeatureStats(500, 40, 40, 40, 1600)
    for first in range(0, 1600, 64):
        stats.update(Activations(*(array[first : first + 64] for array in features)), first)
    read = FeatureStats.from_arrays(500, in_memory(stats))
    for kind in ("pool", "spatial"):
        assert (getattr(read, kind).mean == getattr(stats, kind).mean).all()
        assert (getattr(read, kind).covariance == getattr(stats, kind).covariance).all()
    assert read.score.in_file_order() == stats.score.in_file_order()


def test_a_folder_a_zip_and_an_npz_of_the_same_images_share_one_entry(
    digits: np.ndarray, tmp_path: Path, own_cache: Path
) -> None:
    images = digits[:40]
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "folder" / f"{number}.png")
            archive.write(tmp_path / "folder" / f"{number}.png", f"renamed/{number:05d}.png")
    np.savez_compressed(tmp_path / "images.npz", images)
    results = [evaluated(tmp_path / name, DIGITS) for name in ("folder", "images.zip", "images.npz")]
    assert len({result.samples["digest"] for result in results}) == 1
    assert [result.samples["cached"] for result in results] == [False, True, True]
    assert len(features_in(own_cache)) == 2  # of the samples and of the reference
    assert len({result.metrics["fid"] for result in results}) == 1


def test_batches_that_begin_alike_are_told_apart(digits: np.ndarray, tmp_path: Path, own_cache: Path) -> None:
    images = digits[:100].copy()
    write_npz(tmp_path / "one.npz", {"arr_0": images})
    images[-1] ^= 255
    write_npz(tmp_path / "other.npz", {"arr_0": images})
    one, other, again = (evaluated(tmp_path / f"{name}.npz") for name in ("one", "other", "one"))
    assert [result.samples["cached"] for result in (one, other, again)] == [False] * 3
    assert len(features_in(own_cache)) == 2  # of the reference, and of the samples that were last
    assert one.samples["digest"] == again.samples["digest"] != other.samples["digest"]
    assert_same_numbers(again, one)
    assert other.metrics["fid"] == evaluated(tmp_path / "other.npz", cache=False).metrics["fid"]
    assert other.metrics["fid"] != one.metrics["fid"]


@pytest.fixture
def through_network(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the blocks that have passed the feature network."""
    forward, sizes = FeatureExtractor._forward, []

    def count(extractor: FeatureExtractor, images: torch.Tensor) -> Activations:
        sizes.append(len(images))
        return forward(extractor, images)

    monkeypatch.setattr(FeatureExtractor, "_forward", count)
    evaluated(DIGITS, ignore_sample_statistics=True)  # so that the reference is cached
    sizes.clear()
    return sizes


@pytest.mark.parametrize("sizes", [(640, 1280, 1500), (64, 1408, 1472)])
def test_of_an_extended_batch_only_the_new_images_pass_the_network(
    digits: np.ndarray, tmp_path: Path, through_network: list[int], sizes: tuple[int, ...]
) -> None:
    """Chunks of the inception score and blocks of the moments end within what is added."""
    path = tmp_path / "batch.npz"
    for n, new in zip(sizes, np.diff((0, *sizes)), strict=True):
        write_npz(path, {"arr_0": digits[:n] ^ 1})
        through_network.clear()
        result = evaluated(path)
        assert sum(through_network) == new
        assert not result.samples["cached"]
        uncached = evaluated(path, cache=False)
        assert_same_numbers(result, uncached)
        assert result.samples["digest"] == uncached.samples["digest"]
        through_network.clear()
        assert evaluated(path).samples["cached"]
        assert through_network == []


def test_images_are_extracted_again_after_a_block_that_was_not_full(
    digits: np.ndarray, tmp_path: Path, through_network: list[int]
) -> None:
    for n in (100, 200):
        write_npz(tmp_path / "batch.npz", {"arr_0": digits[:n] ^ 1})
        evaluated(tmp_path / "batch.npz")
    assert through_network == [64, 36, 64, 64, 64, 8]


def test_a_batch_that_only_begins_like_a_cached_one_is_extracted_from_the_first_image_on(
    digits: np.ndarray, tmp_path: Path, through_network: list[int]
) -> None:
    images = digits[:256] ^ 1
    write_npz(tmp_path / "one.npz", {"arr_0": images[:128]})
    evaluated(tmp_path / "one.npz")
    images[127] ^= 255
    write_npz(tmp_path / "other.npz", {"arr_0": images})
    through_network.clear()
    result = evaluated(tmp_path / "other.npz")
    assert sum(through_network) == 256
    assert_same_numbers(result, evaluated(tmp_path / "other.npz", cache=False))


def test_a_file_changed_in_place_is_noticed_whatever_its_times_say(
    digits: np.ndarray, tmp_path: Path
) -> None:
    path, images = tmp_path / "batch.npz", digits[:100].copy()
    write_npz(path, {"arr_0": images})
    before, status = evaluated(path), path.stat()
    images[-1] ^= 255
    with path.open("r+b") as file:  # the same file and size
        changed = tmp_path / "changed.npz"
        write_npz(changed, {"arr_0": images})
        file.write(changed.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    after = evaluated(path)
    assert not after.samples["cached"]
    assert after.samples["digest"] == open_images(path).digest() != before.samples["digest"]


@pytest.mark.parametrize("cache", [False, True])
def test_every_image_file_is_decoded_once(
    digits: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: bool
) -> None:
    for number, image in enumerate(digits[:70]):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    decode, decoded = FileSet.decode, []

    def count(files: FileSet, name: str, **options: Any) -> DecodedImage:
        decoded.append(name)
        return decode(files, name, **options)

    monkeypatch.setattr(FileSet, "decode", count)
    evaluated(tmp_path, cache=cache)
    assert len(decoded) == 70 + 1 + (16 if cache else 0)  # the size, and the name of the entry


def test_no_rank_but_the_first_hashes(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hashed(*_: object) -> None:
        raise AssertionError("an image was hashed")

    sent = []
    monkeypatch.setattr("dit_eval.evaluation.extraction.broadcast_from_rank0", lambda _, value: value)
    monkeypatch.setattr("dit_eval.evaluation.extraction.sum_to_rank0", sent.append)
    monkeypatch.setattr(
        "dit_eval.evaluation.extraction.gather_to_rank0", lambda _, arrays: sent.append(arrays) or []
    )
    monkeypatch.setattr("dit_eval.io.npz.array_hash", hashed)
    extraction = replace(load_extraction("digits", device="cpu"), rank=Rank(1, 2, 1))
    stats, record = extraction.extract(open_images(batch), "samples", None)
    assert (stats, record) == (None, {})
    moments, arrays = sent
    assert moments["n"] == len(arrays["features"]) == 750


def test_skipped_files_and_a_reference_with_the_name_of_a_registered_one_are_warnings_of_the_result(
    digits: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("samples", "digits"):
        Path(folder).mkdir()
        for number, image in enumerate(digits[:70]):
            Image.fromarray(image).save(Path(folder, f"{number}.png"))
    before = evaluated("samples", DIGITS)
    for name in (".hidden.png", "._0.png"):
        Path("samples", name).write_bytes(Path("samples", "0.png").read_bytes())
    after = evaluated("samples", "digits")
    assert after.samples == {**before.samples, "cached": True}
    assert after.warnings[0] == "samples: hidden files are skipped: 2 (._0.png, .hidden.png)."
    assert "the reference is the local" in after.warnings[1]
    assert "not the registered digits" in after.warnings[1]
    run = dit_eval("fid", "samples", "digits", "--protocol", "digits", "--device", "cpu")
    assert "Warning: samples: hidden files are skipped" in run.stderr
    made = dit_eval("ref", "make", "samples", "--out", "a.npz", "--protocol", "digits", "--device", "cpu")
    assert made.stderr == "Warning: samples: hidden files are skipped: 2 (._0.png, .hidden.png).\n"


def assert_one_cache_warning(result: Result, expected: Result, words: str) -> None:
    assert_same_numbers(result, expected)
    (warning,) = result.warnings
    assert warning.startswith("the features could not be cached")
    assert words in warning


def test_a_cache_that_cannot_be_written_costs_one_warning(
    batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluated(batch, cache=False)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "file"))
    assert_one_cache_warning(evaluated(batch), expected, str(tmp_path / "file" / "features"))
    run = dit_eval("fid", batch, "digits", "--device", "cpu")
    assert run.returncode == 0
    assert run.stderr.count("Warning: ") == 1


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    if sys.platform != "linux":
        pytest.skip("tmpfs is a file system of Linux")
    folder = tmp_path / "tmpfs"
    folder.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder))
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here ({mounted.stderr.strip()})")
    yield folder
    subprocess.run(("umount", "-l", str(folder)), check=True)


def test_a_full_cache_costs_one_warning_and_leaves_nothing_behind(
    batch: Path, tmpfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluated(batch, cache=False)
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmpfs))
    (tmpfs / "filler").write_bytes(bytes(1_700_000))
    assert_one_cache_warning(evaluated(batch), expected, "No space left on device")
    assert features_in(tmpfs) == []


def test_a_read_only_cache_is_read_and_costs_one_warning_where_it_lacks_features(
    batch: Path, tmpfs: Path, tmp_path: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_npz(tmp_path / "small.npz", {"arr_0": digits[:70]})
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmpfs))
    small, whole = evaluated(tmp_path / "small.npz", tmp_path / "small.npz"), evaluated(batch, cache=False)
    subprocess.run(("mount", "-o", "remount,ro", str(tmpfs)), check=True)
    again = evaluated(tmp_path / "small.npz", tmp_path / "small.npz")
    assert again.samples["cached"]
    assert_same_numbers(again, small)
    assert_one_cache_warning(evaluated(batch), whole, "Read-only file system")


def test_an_unwritable_folder_for_temporary_files_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(StatisticsError, match=r"No such file or directory.*Set TMPDIR"):
        DiskRows(7, np.float32)


def test_a_full_folder_for_temporary_files_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = DiskRows(7, np.float32)

    class Full:
        def seek(self, *_: int) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    monkeypatch.setattr(rows, "_file", Full())
    with pytest.raises(StatisticsError, match=r"No space left on device.*set TMPDIR"):
        rows.append(np.zeros((1, 7)))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other arrays"])
def test_a_damaged_entry_is_computed_and_written_again(
    batch: Path, own_cache: Path, digits: np.ndarray, damage: str
) -> None:
    expected = evaluated(batch)
    contents = {path: path.read_bytes() for path in features_in(own_cache)}
    for path, content in contents.items():
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"cut": content[:middle], "flipped": flipped}.get(damage, b""))
        if damage == "other arrays":
            write_npz(path, {"features": digits})
    again = evaluated(batch)
    assert not again.samples["cached"]
    assert_same_numbers(again, expected)
    assert {path: path.read_bytes() for path in features_in(own_cache)} == contents


def megabyte(number: int, age_s: float) -> Path:
    """An entry of a million bytes that was last used so long ago."""
    path = features_path(str(number), 1)
    assert store_features(path, {"features": np.full(1_000_000, number, np.uint8)}) is None
    used = time.time() - age_s
    os.utime(path, (used, used))
    return path


def test_the_least_recently_used_entries_make_room_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIT_EVAL_CACHE_LIMIT", "0.0035")
    oldest, used, middle = megabyte(1, 300), megabyte(2, 400), megabyte(3, 200)
    os.utime(used)
    newest = megabyte(4, 0)
    assert [path.exists() for path in (oldest, used, middle, newest)] == [False, True, True, True]
    assert store_features(features_path("large", 1), {"features": np.zeros(4_000_000, np.uint8)}) is None
    assert sorted(features_path("", 1).parent.iterdir()) == sorted([used, middle, newest])


def test_reading_an_entry_is_using_it(batch: Path, own_cache: Path) -> None:
    evaluated(batch)
    for path in features_in(own_cache):
        os.utime(path, (0, 0))
    evaluated(batch)
    assert all(path.stat().st_mtime > time.time() - 1000 for path in features_in(own_cache))


def test_temporary_files_of_killed_processes_are_removed_after_a_day(own_cache: Path) -> None:
    abandoned, recent = (own_cache / "features" / f".{name}.npz.0.tmp" for name in ("abandoned", "recent"))
    megabyte(1, 0)
    for path in (abandoned, recent):
        path.write_bytes(b"half")
    used = time.time() - 90_000
    os.utime(abandoned, (used, used))
    megabyte(2, 0)
    assert not abandoned.exists()
    assert recent.exists()


@pytest.mark.parametrize("limit", ["", "5", "0", "0.5"])
def test_the_limit_is_in_gigabytes(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIT_EVAL_CACHE_LIMIT", limit)
    assert features_limit() == {"": 5e9, "5": 5e9, "0": 0, "0.5": 5e8}[limit]


@pytest.mark.parametrize("limit", ["much", "-1", "nan", "inf"])
def test_a_limit_that_is_no_size_is_refused_before_the_work(
    limit: str, batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIT_EVAL_CACHE_LIMIT", limit)

    def progress(*_: object) -> None:
        raise AssertionError("the work has begun")

    with pytest.raises(UsageError, match=f"DIT_EVAL_CACHE_LIMIT is '{limit}'; expected a size in GB"):
        evaluated(batch, progress=progress)


def test_the_command_lists_and_clears_entries_by_name_and_by_kind(own_cache: Path) -> None:
    first, second = megabyte(1, 60), megabyte(2, 0)
    for kind, name in (("models", "net"), ("reference_stats", "ref")):
        (own_cache / kind / name).mkdir(parents=True)
        (own_cache / kind / name / "file").write_bytes(bytes(2_000_000))
    listed = dit_eval("cache", "list")
    assert listed.returncode == 0
    lines = listed.stdout.splitlines()
    assert lines[0] == "features: 2.0 MB of at most 5,000.0 MB"
    assert [line.split()[0] for line in lines[1:3]] == ["2-1.npz", "1-1.npz"]
    assert lines[3] == "downloads: 4.0 MB"
    assert {line.split()[0] for line in lines[4:6]} == {"net", "ref"}
    assert lines[-1] == f"Cache: {own_cache}"
    cleared = dit_eval("cache", "clear", "net", "1-1.npz")
    assert cleared.stdout == "removed downloads net (2.0 MB)\nremoved features 1-1.npz (1.0 MB)\n"
    assert not first.exists()
    assert second.exists()
    assert [entry.name for entry in list_cache()] == ["2-1.npz", "ref"]
    assert_one_sentence(dit_eval("cache", "clear", "../.."))
    assert_one_sentence(dit_eval("cache", "clear", "net"))
    assert_one_sentence(dit_eval("cache", "clear"))
    dit_eval("cache", "clear", "features")
    assert [entry.name for entry in list_cache()] == ["ref"]
    dit_eval("cache", "clear", "downloads")
    assert list_cache() == []
    assert dit_eval("cache", "clear", "downloads").returncode == 0
    assert dit_eval("cache", "list").returncode == 0
