from __future__ import annotations

import io
import json
import os
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from dit_eval.errors import BatchError, UsageError
from dit_eval.generation import shards as shards_module
from dit_eval.generation.shards import ShardFolder, interruption_noted
from dit_eval.io.assets import sha256
from dit_eval.io.npz import members

SHAPE = (4, 4, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (10, *SHAPE), dtype=np.uint8)
LABELS = np.arange(10)


def folder(tmp_path, **settings) -> ShardFolder:
    return ShardFolder(tmp_path / "b.npz", {"seed": 0} | settings, num=10, shard_size=4, image_size=4)


def write_all(shards: ShardFolder, numbers=(0, 1, 2)) -> None:
    for number in numbers:
        shards.write(number, IMAGES[4 * number : 4 * number + 4])


def finished(tmp_path) -> ShardFolder:
    shards = folder(tmp_path)
    shards.open()
    write_all(shards)
    assert shards.merge(LABELS, {})
    return shards


def test_merged_shards_are_the_batch(tmp_path):
    shards = finished(tmp_path)
    with np.load(shards.out) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], IMAGES)
        np.testing.assert_array_equal(arrays["arr_1"], LABELS)
        assert arrays["arr_1"].dtype == np.int64
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "b.npz"]


def test_record_beside_the_batch_holds_its_plan_and_checksum(tmp_path):
    shards = finished(tmp_path)
    record = json.loads(shards.record.read_text("utf-8"))
    assert record["plan"] == shards.settings
    assert record["sha256"] == sha256(shards.out)


def test_speed_is_that_of_the_timed_shards_in_full_size_over_all_processes(tmp_path):
    untimed = folder(tmp_path / "untimed")
    untimed.open()
    write_all(untimed)
    assert untimed.merge(LABELS, {})
    timed = folder(tmp_path / "timed")
    timed.open()
    write_all(timed, (0,))
    timed.write(1, IMAGES[4:8], seconds=2.0, device="b")
    timed.write(2, IMAGES[8:], seconds=0.5, device="a")
    assert timed.merge(LABELS, {})
    speeds = [json.loads(shards.record.read_text("utf-8"))["speed"] for shards in (untimed, timed)]
    assert speeds == [None, {"device": "a and b", "images": 8, "seconds": 2.5}]
    assert sha256(untimed.out) == sha256(timed.out)


def test_nothing_is_merged_while_a_shard_is_missing(tmp_path):
    shards = folder(tmp_path)
    shards.open()
    write_all(shards, (0, 2))
    assert shards.missing() == [1]
    assert not shards.merge(LABELS, {})
    assert not shards.out.exists()


def test_order_of_writing_shards_does_not_matter(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for parent, order in ((first, (0, 1, 2)), (second, (2, 0, 1))):
        shards = folder(parent)
        shards.open()
        write_all(shards, order)
        shards.merge(LABELS, {})
    assert sha256(first / "b.npz") == sha256(second / "b.npz")


def test_folder_of_other_settings_is_refused_with_the_differences(tmp_path):
    folder(tmp_path, cfg=1.5).open()
    with pytest.raises(UsageError, match=r"cfg \(1.5 before, 4.0 now\), seed \(0 before, 1 now\)"):
        folder(tmp_path, cfg=4.0, seed=1).open()


def test_finished_batch_of_other_settings_is_refused_and_kept(tmp_path):
    shards = finished(tmp_path)
    with pytest.raises(UsageError, match="seed"):
        folder(tmp_path, seed=1).open()
    assert shards.finished()


def test_file_of_unknown_origin_is_refused_and_kept(tmp_path):
    (tmp_path / "b.npz").write_bytes(b"mine")
    with pytest.raises(UsageError, match="without a record of how it was made"):
        folder(tmp_path).open()
    assert (tmp_path / "b.npz").read_bytes() == b"mine"


NOT_RECORDS = [
    b"3",
    b"null",
    b"[]",
    b"",
    b"{}",
    b"no JSON",
    b'{"plan": 3}',
    b'{"plan": {}}',
    b'{"metrics": {"fid": 1}}',
    b"\xff",
]


@pytest.mark.parametrize("content", NOT_RECORDS, ids=str)
@pytest.mark.parametrize("npz", [True, False], ids=["finished", "new"])
def test_unrelated_json_is_neither_replaced_nor_deleted(tmp_path, content, npz):
    shards = finished(tmp_path) if npz else folder(tmp_path)
    shards.record.write_bytes(content)
    for action in (shards.open, shards.clear):
        with pytest.raises(UsageError, match=r"b\.json exists and is not the record of a batch.* --out"):
            action()
    assert shards.record.read_bytes() == content
    assert shards.out.exists() == npz
    assert not shards.folder.exists()


def test_json_that_appears_while_sampling_stops_the_merge_and_keeps_the_shards(tmp_path):
    shards = folder(tmp_path)
    shards.open()
    write_all(shards)
    shards.record.write_text("mine")
    with pytest.raises(UsageError, match="not the record of a batch"):
        shards.merge(LABELS, {})
    assert shards.record.read_text() == "mine"
    assert shards.missing() == []
    shards.record.unlink()
    assert shards.merge(LABELS, {})


@pytest.mark.parametrize("content", NOT_RECORDS, ids=str)
def test_plan_of_a_folder_that_cannot_be_read_is_refused(tmp_path, content):
    shards = folder(tmp_path)
    shards.open()
    (shards.folder / "plan.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"other settings|without a record"):
        shards.open()


@pytest.mark.parametrize(
    "arrays", [{"other": IMAGES[:4]}, {"arr_0": IMAGES[:4].astype(float)}, {"arr_0": IMAGES[:3]}], ids=list
)
def test_file_that_is_not_the_shard_that_was_written_is_named(tmp_path, arrays):
    shards = folder(tmp_path)
    shards.open()
    write_all(shards)
    np.savez(shards.folder / "00000004.npz", **arrays)
    with pytest.raises(BatchError, match=r"00000004\.npz is not the shard that was written"):
        shards.merge(LABELS, {})


@pytest.mark.parametrize(("written", "count"), [((), 0), ((2,), 2), ((0, 2), 6)])
def test_interruption_notes_the_number_of_images_on_the_disk(tmp_path, written, count):
    shards = folder(tmp_path)
    shards.open()
    write_all(shards, written)
    with pytest.raises(KeyboardInterrupt) as stop, interruption_noted(shards.out, num=10, shard_size=4):
        raise KeyboardInterrupt
    assert stop.value.__notes__ == [f"{count} of 10 images of {shards.out} are sampled."]


def test_interruption_after_the_merge_notes_all_images(tmp_path):
    shards = finished(tmp_path)
    with pytest.raises(KeyboardInterrupt) as stop, interruption_noted(shards.out, num=10, shard_size=4):
        raise KeyboardInterrupt
    assert stop.value.__notes__ == [f"10 of 10 images of {shards.out} are sampled."]


def test_opening_a_finished_batch_removes_the_folder_of_a_killed_process(tmp_path):
    shards = finished(tmp_path)
    shards.folder.mkdir()
    (shards.folder / "00000000.npz").touch()
    shards.open()
    assert not shards.folder.exists()
    assert shards.finished()


def test_clearing_removes_batch_record_and_shards(tmp_path):
    shards = finished(tmp_path)
    shards.folder.mkdir()
    shards.clear()
    assert list(tmp_path.iterdir()) == []


def test_damaged_shard_is_named_and_never_merged(tmp_path):
    shards = folder(tmp_path)
    shards.open()
    write_all(shards)
    path = shards.folder / "00000004.npz"
    content = bytearray(path.read_bytes())
    content[150] ^= 1
    path.write_bytes(content)
    with pytest.raises(BatchError, match=r"00000004\.npz"):
        shards.merge(LABELS, {})
    assert not shards.out.exists()


@pytest.mark.parametrize("position", [62, 200, -100, -10], ids=["header", "pixels", "name", "directory"])
def test_damage_that_is_found_while_merging_leaves_the_shards_and_says_what_to_do(tmp_path, position):
    shards = folder(tmp_path)
    shards.open()
    write_all(shards)
    path = shards.folder / "00000004.npz"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(BatchError, match=r"00000004\.npz.*Delete this shard and run the same command again"):
        shards.merge(LABELS, {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.partial"]
    assert {file.name for file in shards.folder.iterdir()} - {"lock", "plan.json"} == {
        path.name,
        "00000000.npz",
        "00000008.npz",
    }
    path.unlink()
    write_all(shards, shards.missing())
    assert shards.merge(LABELS, {})
    assert sha256(shards.out) == json.loads(shards.record.read_text("utf-8"))["sha256"]


def test_merge_reads_every_byte_of_the_images_once(tmp_path, monkeypatch):
    images = np.random.default_rng(1).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    shards = ShardFolder(tmp_path / "b.npz", {}, num=30, shard_size=10, image_size=64)
    shards.open()
    for shard in range(3):
        shards.write(shard, images[10 * shard : 10 * shard + 10], seconds=1.0, device="a")
    size = sum(path.stat().st_size for path in shards.folder.glob("0*.npz"))
    opened, read, open_file = [], [], io.open

    class Counted(io.FileIO):
        def readinto(self, buffer):
            read.append(super().readinto(buffer))
            return read[-1]

        def readall(self):
            read.append(len(content := super().readall()))
            return content

    def count(path, mode="r", *arguments, **options):
        if mode == "rb" and shards.folder in Path(str(path)).parents:
            opened.append(Path(path).name)
            return io.BufferedReader(Counted(path))
        return open_file(path, mode, *arguments, **options)

    monkeypatch.setattr(io, "open", count)
    assert shards.merge(np.zeros(30, np.int64), {})
    monkeypatch.undo()
    assert {name: opened.count(name) for name in opened} == {
        f"{10 * shard:08d}.npz": 2
        for shard in range(3)  # directory and times, then images
    }
    assert images.nbytes <= sum(read) < 1.2 * size
    record = json.loads(shards.record.read_text("utf-8"))
    assert record["sha256"] == sha256(shards.out)
    assert record["digest"] == members(shards.out)["arr_0"].digest()


def test_a_shard_that_is_written_again_while_it_is_merged_changes_nothing(tmp_path, monkeypatch):
    shards = folder(tmp_path)
    shards.open()
    write_all(shards)
    shards.write(1, IMAGES[4:8], seconds=1.0, device="a GPU")
    open_shard = ShardFolder._open_shard

    def write_again(self, shard):
        found = open_shard(self, shard)
        self.write(shard, IMAGES[4 * shard : 4 * shard + 4], seconds=2.0, device="another GPU")
        return found

    monkeypatch.setattr(ShardFolder, "_open_shard", write_again)
    assert shards.merge(LABELS, {})
    np.testing.assert_array_equal(np.load(shards.out)["arr_0"], IMAGES)
    speed = json.loads(shards.record.read_text("utf-8"))["speed"]
    assert speed == {"device": "a GPU", "images": 4, "seconds": 1.0}


def test_shards_are_listed_without_a_request_for_each(tmp_path, monkeypatch):
    shards = ShardFolder(tmp_path / "b.npz", {"seed": 0}, num=500, shard_size=1, image_size=1)
    shards.open()
    for number in range(499):
        (shards.folder / f"{number:08d}.npz").touch()
    stat, count = os.stat, 0

    def counted_stat(*arguments, **options):
        nonlocal count
        count += 1
        return stat(*arguments, **options)

    monkeypatch.setattr(os, "stat", counted_stat)
    shards.open()
    assert shards.missing() == [499]
    assert count < 30


def test_nothing_is_missing_of_a_finished_batch(tmp_path):
    shards = finished(tmp_path)
    assert shards.missing() == []
    assert shards.has(1)


def test_shard_that_another_process_has_merged_is_not_an_error(tmp_path):
    shards = finished(tmp_path)
    shards.write(0, IMAGES[:4])
    assert shards.merge(LABELS, {})


def test_one_of_many_threads_merges(tmp_path):
    shards = folder(tmp_path)
    shards.open()
    write_all(shards)
    results = []
    threads = [threading.Thread(target=lambda: results.append(shards.merge(LABELS, {}))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4
    np.testing.assert_array_equal(np.load(shards.out)["arr_0"], IMAGES)
    assert not shards.folder.exists()


def test_disk_too_small_for_shards_and_batch_is_refused_before_sampling(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 2 * IMAGES.nbytes - 1))
    with pytest.raises(BatchError, match="Free some space"):
        folder(tmp_path).open()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 2 * IMAGES.nbytes))
    folder(tmp_path).open()


def test_failed_write_says_how_to_resume_and_leaves_no_shard(tmp_path, monkeypatch):
    shards = folder(tmp_path)
    shards.open()

    def full_disk(*_):
        raise BatchError("b.npz cannot be written: No space left on device.")

    monkeypatch.setattr(shards_module, "write_npz", full_disk)
    with pytest.raises(BatchError, match="run the same command again"):
        shards.write(0, IMAGES[:4])
    assert shards.missing() == [0, 1, 2]


def test_folder_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BatchError, match="cannot be written"):
        folder(tmp_path / "file").open()
