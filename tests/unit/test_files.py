"""Files appear whole or not at all, and are recognised by their content."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dit_eval.errors import BatchError, ResultError
from dit_eval.io.batch_record import read_record
from dit_eval.io.files import FileKind, atomic_file, file_kind, read_json, write_json, write_text
from dit_eval.io.npz import write_npz

MEGABYTE = 1 << 20


def test_a_file_appears_when_the_block_ends_and_replaces_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_file(path) as file:
            file.write(b"new")
            raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError, match="the source is gone"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_the_error_that_the_caller_chose(tmp_path: Path) -> None:
    with (
        pytest.raises(BatchError, match=r"a\.npz cannot be written: No space left on device\."),
        atomic_file(tmp_path / "a.npz", BatchError),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(ResultError, match="cannot be written: No such file or directory"):
        write_text(tmp_path / "absent" / "a.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_two_threads_write_one_path_at_once_and_the_last_to_finish_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    both_writing = threading.Barrier(2, timeout=30)

    def write(content: bytes) -> None:
        with atomic_file(path) as file:
            file.write(content[: len(content) // 2])
            both_writing.wait()
            assert len(list(tmp_path.glob(".a.bin.*.tmp"))) == 2
            both_writing.wait()
            file.write(content[len(content) // 2 :])

    contents = [letter * MEGABYTE for letter in (b"a", b"b")]
    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_write_one_path_at_once_and_it_is_always_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    program = (
        "import sys; from pathlib import Path; from dit_eval.io.files import write_text\n"
        f"for _ in range(40): write_text(Path({str(path)!r}), sys.argv[1] * {MEGABYTE})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, letter]) for letter in "ab"]
    sizes = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            content = path.read_bytes()
            sizes.add((len(content), len(set(content))))
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sizes == {(MEGABYTE, 1)}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_json_is_indented_utf8_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"images": "8×8"})
    assert path.read_bytes() == '{\n  "images": "8×8"\n}\n'.encode()
    assert read_json(path) == {"images": "8×8"}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"3", b"\xff", b'{"fid": NaN}', b"[" * 100_000, b'{"a": ' * 100_000]
)
def test_what_is_not_a_json_object_reads_as_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") == {}
    assert read_json(tmp_path / "absent.json") == {}


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return stream.getvalue()


def image(format: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, format)
    return stream.getvalue()


def saved(save, *arguments, **options) -> bytes:
    stream = io.BytesIO()
    save(*(stream if argument is ... else argument for argument in arguments), **options)
    return stream.getvalue()


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    return stream.getvalue()


NPZ = saved(np.savez, ..., mu=np.zeros(3))
WEIGHTS = {"weight": torch.zeros(3)}
CONTENTS: list[tuple[str, bytes, FileKind]] = [
    ("a.npz", NPZ, "npz"),
    ("compressed.npz", saved(np.savez_compressed, ..., np.zeros(3)), "npz"),
    ("ref.npz.1", NPZ, "npz"),
    ("REF.NPZ", NPZ, "npz"),
    ("download", NPZ, "npz"),
    ("archive.zip", NPZ, "npz"),
    ("with_notes.npz", zipped("arr_0.npy", "notes.txt"), "npz"),
    ("prefixed.npz", b"#!/bin/sh\n" + NPZ, "npz"),
    ("empty.npz", zipped(), "zip"),
    ("images.zip", zipped("1.png", "2.JPG"), "zip"),
    ("images.npz", zipped("1.png"), "zip"),
    ("labelled.zip", zipped("1.png", "labels.npy"), "zip"),
    ("cut.npz", NPZ[:-30], "damaged-zip"),
    ("cut.zip", zipped("1.png")[:20], "damaged-zip"),
    ("a.pt", saved(torch.save, WEIGHTS, ...), "torch"),
    ("a.npz", saved(torch.save, WEIGHTS, ...), "torch"),
    ("old.pt", saved(torch.save, WEIGHTS, ..., _use_new_zipfile_serialization=False), "pickle"),
    ("a.pkl", pickle.dumps({"a": 1}), "pickle"),
    ("a.npy", saved(np.save, ..., np.zeros(3)), "npy"),
    ("a.npz", saved(np.save, ..., np.zeros(3)), "npy"),
    ("a.npz", gzip.compress(NPZ, mtime=0), "gzip"),
    ("a.tar", tar(), "tar"),
    ("a.jpg", image("PNG"), "png"),
    ("a.png", image("JPEG"), "jpeg"),
    ("a.webp", image("WEBP"), "webp"),
    ("a.gif", image("GIF"), "gif"),
    ("a.npz", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git-lfs"),
    ("a.npz", b"\n<!DOCTYPE html><html><head>", "html"),
    ("a.npz", b"<html>", "html"),
    ("a.json", json.dumps({"schema": 1}, indent=2).encode(), "json"),
    ("a.json", b"[1, 2]", "json"),
    ("a.txt", b"{not json}", "unknown"),
    ("a.npz", b"PK is how this text begins", "unknown"),
    ("a.npz", b"", "unknown"),
]


@pytest.mark.parametrize(
    ("name", "content", "kind"), CONTENTS, ids=[f"{row[0]}-{row[2]}" for row in CONTENTS]
)
def test_a_file_is_recognised_by_its_content_whatever_its_name_says(
    tmp_path: Path, name: str, content: bytes, kind: FileKind
) -> None:
    (tmp_path / name).write_bytes(content)
    assert file_kind(tmp_path / name) == kind


def test_safetensors_are_recognised_and_must_be_as_long_as_their_header(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.bin")
    assert file_kind(tmp_path / "a.bin") == "safetensors"
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.bin").read_bytes()[:20])
    assert file_kind(tmp_path / "cut.safetensors") == "unknown"


def test_a_damaged_directory_of_a_zip_is_not_an_exception(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for position in range(len(NPZ)):
        content = bytearray(NPZ)
        content[position] ^= 0xFF
        path.write_bytes(content)
        assert file_kind(path) in ("npz", "zip", "damaged-zip", "unknown")


def test_folders_devices_and_paths_without_a_file_are_kinds_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images.npz").mkdir()
    assert file_kind(tmp_path / "images.npz") == "folder"
    assert file_kind(tmp_path / "absent.npz") == "missing"
    os.mkfifo(tmp_path / "pipe")
    assert file_kind(tmp_path / "pipe") == "unknown"
    write_text(tmp_path / "secret", "text")

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    assert file_kind(tmp_path / "secret") == "unreadable"


def test_a_record_belongs_to_an_npz_and_holds_a_plan(tmp_path: Path) -> None:
    write_npz(tmp_path / "b.npz", {"arr_0": np.zeros(1)})
    assert read_record(tmp_path / "b.npz") == {}
    write_json(tmp_path / "b.json", {"schema": 1})
    assert read_record(tmp_path / "b.npz") == {}
    record = {"plan": {"model": "tiny", "sampler": "ddpm", "cfg": 1.5, "image_size": 8}, "macs": 31}
    write_json(tmp_path / "b.json", record)
    assert read_record(tmp_path / "b.npz") == record
    (tmp_path / "b").mkdir()
    assert read_record(tmp_path / "b") == {}


@pytest.mark.parametrize(
    "damage",
    [
        {"plan": 3},
        {"plan": {}},
        {"plan": {"model": "tiny", "sampler": "ddpm", "cfg": "1.5", "image_size": 8}},
        {"macs": "31"},
        {"speed": [1]},
        {"speed": {"device": "cpu", "images": 3, "seconds": 0}},
    ],
)
def test_a_json_of_another_shape_is_no_record_of_a_batch(tmp_path: Path, damage: dict[str, object]) -> None:
    write_npz(tmp_path / "b.npz", {"arr_0": np.zeros(1)})
    record = {"plan": {"model": "tiny", "sampler": "ddpm", "cfg": 1.5, "image_size": 8}}
    write_json(tmp_path / "b.json", record | damage)
    assert read_record(tmp_path / "b.npz") == {}


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX only")
def test_a_path_that_is_no_utf8_can_be_written_as_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"path": os.fsdecode(b"\xff.npz")})
    assert read_json(tmp_path / "a.json") == {"path": os.fsdecode(b"\xff.npz")}
