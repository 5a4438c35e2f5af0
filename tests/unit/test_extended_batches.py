"""A finished batch grows to more images, of which the first ones are not sampled again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from dit_eval.errors import BatchError, UsageError
from dit_eval.generation.pipeline import SamplingProgress, generate
from dit_eval.generation.shards import ShardFolder
from dit_eval.io.assets import sha256
from dit_eval.io.npz import members

SHAPE = (4, 4, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), dtype=np.uint8)


def shards_of(out: Path, num: int, **settings: object) -> ShardFolder:
    plan = {"num": num, "seed": 0, **settings}
    return ShardFolder(out, plan, num=num, shard_size=4, image_size=4)


def write_missing(shards: ShardFolder) -> list[int]:
    missing = shards.missing()
    for shard in missing:
        shards.write(shard, IMAGES[4 * shard : min(4 * shard + 4, shards.num)], 2.0, device="cpu", passes=5.0)
    return missing


def finish(shards: ShardFolder, *, extend: bool = False) -> list[int]:
    """The shards that were missing."""
    shards.open(extend=extend)
    missing = write_missing(shards)
    assert shards.merge(np.arange(shards.num), {})
    return missing


@pytest.mark.parametrize(("num", "missing"), [(8, [2]), (6, [1, 2])])
def test_an_extended_batch_is_the_batch_of_that_many_images(tmp_path, num, missing):
    finish(shards_of(tmp_path / "whole.npz", 12))
    finish(shards_of(tmp_path / "b.npz", num))
    assert finish(shards_of(tmp_path / "b.npz", 12), extend=True) == missing
    assert sha256(tmp_path / "b.npz") == sha256(tmp_path / "whole.npz")
    records = [json.loads((tmp_path / name).read_text("utf-8")) for name in ("b.json", "whole.json")]
    assert records[0] == records[1]  # cost included
    assert records[0]["passes_per_image"] == 5


def test_a_batch_is_extended_only_on_request_and_with_equal_settings(tmp_path):
    finish(shards_of(tmp_path / "b.npz", 8))
    before = sha256(tmp_path / "b.npz")
    with pytest.raises(UsageError, match=r"num \(8 before, 12 now\)"):
        shards_of(tmp_path / "b.npz", 12).open()
    with pytest.raises(UsageError, match=r"num \(8 before, 4 now\)"):
        shards_of(tmp_path / "b.npz", 4).open(extend=True)
    with pytest.raises(UsageError, match=r"num \(8 before, 12 now\), seed \(0 before, 1 now\)"):
        shards_of(tmp_path / "b.npz", 12, seed=1).open(extend=True)
    assert sha256(tmp_path / "b.npz") == before


class Killed(Exception):
    pass


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_batch_survives_a_kill_while_its_file_is_split(tmp_path, monkeypatch, written):
    """Killed before the shard of this number, or before the file is deleted."""
    finish(shards_of(tmp_path / "whole.npz", 12))
    finish(shards_of(tmp_path / "b.npz", 8))
    shards = shards_of(tmp_path / "b.npz", 12)
    write, unlink = shards.write, Path.unlink

    def write_or_die(shard: int, *arguments: Any, **cost: Any) -> None:
        if shard == written:
            raise Killed
        write(shard, *arguments, **cost)

    def unlink_or_die(path: Path, **options: Any) -> None:
        if path == shards.out:
            raise Killed
        unlink(path, **options)

    monkeypatch.setattr(shards, "write", write_or_die)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink_or_die)
        with pytest.raises(Killed):
            shards.open(extend=True)
    again = shards_of(tmp_path / "b.npz", 12)
    assert len(list(again.folder.glob("0*.npz"))) == written
    assert finish(again, extend=True) == [2]
    assert sha256(tmp_path / "b.npz") == sha256(tmp_path / "whole.npz")
    assert not again.folder.exists()


def test_a_damaged_batch_is_not_extended(tmp_path):
    finish(shards_of(tmp_path / "b.npz", 8))
    content = bytearray((tmp_path / "b.npz").read_bytes())
    offset = content.index(IMAGES[3].tobytes())
    content[offset] ^= 1
    (tmp_path / "b.npz").write_bytes(content)
    with pytest.raises(BatchError, match="CRC-32"):
        shards_of(tmp_path / "b.npz", 12).open(extend=True)
    assert (tmp_path / "b.npz").exists()


def test_generate_samples_only_the_new_images(tmp_path):
    sampled: list[SamplingProgress] = []
    settings = {"cfg": 1.5, "steps": 2, "batch_size": 4, "labels": "balanced"}
    generate("digits", num=8, out=tmp_path / "b.npz", **settings)
    generate("digits", num=16, out=tmp_path / "b.npz", extend=True, progress=sampled.append, **settings)
    generate("digits", num=16, out=tmp_path / "whole.npz", **settings)
    assert sampled[-1].total == 8
    assert sha256(tmp_path / "b.npz") == sha256(tmp_path / "whole.npz")
    assert members(tmp_path / "b.npz")["arr_0"].shape[0] == 16
    record = json.loads((tmp_path / "b.json").read_text("utf-8"))
    assert record["passes_per_image"] == 4  # two steps, each with both passes of guidance


def test_only_a_file_can_be_extended():
    with pytest.raises(UsageError, match="extend concern a file"):
        generate("digits", num=4, steps=2, extend=True, into=Mock())


@pytest.mark.parametrize("labels", ["sorted", "file"])
def test_labels_that_depend_on_the_number_of_images_are_refused(tmp_path, labels):
    (tmp_path / "labels.txt").write_text("0 1 2 3")
    chosen = str(tmp_path / "labels.txt") if labels == "file" else labels
    with pytest.raises(UsageError, match="cannot be extended"):
        generate("digits", num=4, steps=2, labels=chosen, extend=True, out=tmp_path / "b.npz")
