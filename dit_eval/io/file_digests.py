"""The SHA-256 of files, computed once per run on each machine and again whenever a file has changed."""

from __future__ import annotations

import getpass
import hashlib
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from dit_eval.errors import ResultError
from dit_eval.io.files import read_json, write_json

_SETTLED_S = 2.0  # within the resolution of its time stamps, a file can change without a trace
_SHARED_BYTES = 1 << 26  # smaller files are hashed faster than other processes are asked

_Identity = tuple[int, ...]
_known: dict[_Identity, str] = {}  # the digests of files that had settled


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises OSError if it cannot be read.

    A file is hashed once per run: by one of the processes that torchrun has started on this machine. It is
    hashed again if its inode, its size, or the time of its last modification or status change differs.
    """
    identity = _identity(path)
    if time.time_ns() - max(identity[-2:]) < _SETTLED_S * 1e9:
        return _hash(path)
    if identity not in _known:
        digest = _hash_once_per_machine(path, identity)
        if _identity(path) != identity:
            return digest
        _known[identity] = digest
    return _known[identity]


def _identity(path: Path) -> _Identity:
    status = path.stat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hash_once_per_machine(path: Path, identity: _Identity) -> str:
    """The digest that the first process of a torchrun to come here computes and notes for the others.

    The others wait meanwhile. If the first one dies, the next one hashes the file.
    """
    if os.environ.get("LOCAL_WORLD_SIZE", "1") == "1" or path.stat().st_size < _SHARED_BYTES:
        return _hash(path)
    from filelock import FileLock  # slow to load

    torchrun = f"{os.environ.get('TORCHELASTIC_RUN_ID')} {os.getppid()}"  # the parent of its ranks
    key = {"run": torchrun, "file": [str(path.resolve()), *identity]}
    try:
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
        note = _private_folder() / f"{name}.json"
        with FileLock(note.with_suffix(".lock")):
            found = read_json(note)
            if found.get("key") == key:
                return found["sha256"]
            digest = _hash(path)
            if _identity(path) == identity:
                with suppress(ResultError):  # then the others hash the file too
                    write_json(note, {"key": key, "sha256": digest})
            return digest
    except (OSError, NotImplementedError):  # an unwritable folder, or one whose file system cannot lock files
        return _hash(path)


def _private_folder() -> Path:
    """A folder of this machine that only this user can write. Raises OSError if there is none."""
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()  # containers have users without names
    folder = Path(tempfile.gettempdir(), f"dit-eval-{user}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder
