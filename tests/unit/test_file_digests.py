"""The SHA-256 of a file is computed once per run on each machine, and again when the file has changed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from dit_eval.io import file_digests
from dit_eval.io.file_digests import sha256

RANKS = 3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"some weights")
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that this process has hashed, in a minute's time, when they have settled."""
    found: list[Path] = []
    hash_file, now = file_digests._hash, time.time_ns

    def count(path: Path) -> str:
        found.append(path)
        return hash_file(path)

    monkeypatch.setattr(file_digests, "_hash", count)
    monkeypatch.setattr(file_digests.time, "time_ns", lambda: now() + 60 * 10**9)
    return found


def test_a_file_that_has_not_changed_is_hashed_once(file: Path, hashed: list[Path]) -> None:
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert [sha256(file) for _ in range(3)] == [expected] * 3
    assert len(hashed) == 1


def test_a_file_of_another_size_time_or_inode_is_hashed_again(file: Path, hashed: list[Path]) -> None:
    sha256(file)
    before = file.stat()
    file.write_bytes(b"more weights than before")
    other_size = sha256(file)
    file.write_bytes(b"same size as before 1234")
    other_time = sha256(file)
    file.with_name("new").write_bytes(b"SAME size as before 1234")
    file.with_name("new").replace(file)
    other_inode = sha256(file)
    assert len({other_size, other_time, other_inode}) == len(hashed) - 1 == 3
    assert other_inode == hashlib.sha256(file.read_bytes()).hexdigest()
    assert file.stat().st_ino != before.st_ino


def test_a_change_is_noticed_even_if_the_time_of_modification_is_set_back(
    file: Path, hashed: list[Path]
) -> None:
    first, before = sha256(file), file.stat()
    file.write_bytes(b"SOME weights")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sha256(file) != first
    assert len(hashed) == 2


def test_a_file_that_was_written_just_now_is_not_remembered(file: Path) -> None:
    digests = set()
    for number in range(50):  # faster than the time stamps of some file systems change
        file.write_bytes(b"%02d" % number)
        digests.add(sha256(file))
    assert len(digests) == 50


def test_a_file_that_cannot_be_read_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sha256(tmp_path / "nothing")


CHILD = """
import sys, time
from pathlib import Path
from dit_eval.io import file_digests
hash_file = file_digests._hash
file_digests._SHARED_BYTES = 0
file_digests._SETTLED_S = 0.0
def count(path):
    print("hashed", flush=True)
    time.sleep(0.5)  # long enough for the others to come meanwhile
    return hash_file(path)
file_digests._hash = count
print(file_digests.sha256(Path(sys.argv[1])))
"""


def run_ranks(file: Path, **environment: str) -> list[str]:
    """The lines that three processes with the same parent print, which ask for the digest at once."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(file)],
            env=os.environ | {"LOCAL_WORLD_SIZE": str(RANKS)} | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(RANKS)
    ]
    return sorted(line for process in processes for line in process.communicate()[0].split())


def test_the_ranks_of_one_machine_hash_a_file_once_in_every_run(file: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    private = {"TMPDIR": str(tmp_path)}
    assert run_ranks(file, **private, TORCHELASTIC_RUN_ID="1") == sorted([*[digest] * RANKS, "hashed"])
    assert run_ranks(file, **private, TORCHELASTIC_RUN_ID="1") == [digest] * RANKS
    assert run_ranks(file, **private, TORCHELASTIC_RUN_ID="2").count("hashed") == 1
    file.write_bytes(b"SOME weights")
    changed = hashlib.sha256(file.read_bytes()).hexdigest()
    assert run_ranks(file, **private, TORCHELASTIC_RUN_ID="2") == sorted([*[changed] * RANKS, "hashed"])


def test_a_user_without_a_name_has_files_hashed(
    file: Path, tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that is started with the number of a user."""
    monkeypatch.setattr(file_digests, "_SHARED_BYTES", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[f"uid not found: {uid}"])
    assert sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_note_that_another_user_could_have_written_is_not_believed(
    file: Path, tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_digests, "_SHARED_BYTES", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)  # the folder that is created belongs to `owner`
    assert sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert hashed == [file]
    assert [path.name for folder in tmp_path.glob("dit-eval-*") for path in folder.iterdir()] == []
