"""A batch of images that many processes write together and any of them may leave at any moment.

    OUT.partial/plan.json        the settings that all shards share
    OUT.partial/00000032.npz     images 32, 33, …: whole, or not there
    OUT.json, OUT.npz            there once every shard was: where the batch comes from, and the batch

Every file comes into being under another name and is renamed when it is whole and on the disk.
Whoever finds all shards in the folder merges them; a lock lets one do so at a time.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from dit_eval.errors import BatchError, UsageError
from dit_eval.io.assets import sha256
from dit_eval.io.batch_record import read_json
from dit_eval.io.npz import Rows, members, write_npz


class ShardFolder:
    """The folder beside an npz in which it grows.

    out: path of the finished file; settings: all that decides its bytes, as JSON values; num: images of
    `shape` (H, W, 3) in all, `size` of them in a shard. Methods raise BatchError where the disk fails.
    """

    def __init__(
        self, out: Path, settings: Mapping[str, Any], *, num: int, size: int, shape: tuple[int, int, int]
    ) -> None:
        self.out, self.settings, self.num, self.size, self.shape = out, settings, num, size, shape
        self.folder = out.with_suffix(".partial")
        self.record = out.with_suffix(".json")

    def __len__(self) -> int:
        return -(-self.num // self.size)

    def open(self) -> None:
        """Make the folder, or go on in one that another run with the same settings has made.

        Raises UsageError, naming what differs, if the folder or the finished file has other settings,
        and BatchError if the disk has no room for what is missing.
        """
        if self.out.exists():
            self._require_equal(self.out, read_json(self.record).get("plan", {}))
            return self._remove_folder()  # left over if a process was killed after the last rename
        with self._lock():
            if self.finished():  # by whoever held the lock before us
                return self._remove_folder()
            plan = self.folder / "plan.json"
            if plan.exists():
                self._require_equal(self.folder, read_json(plan))
            else:
                _write_json(plan, self.settings)
            return self._require_space()

    def clear(self) -> None:
        """Remove the finished file and all shards, whatever their settings."""
        for path in (self.out, self.record):
            path.unlink(missing_ok=True)
        self._remove_folder()

    def finished(self) -> bool:
        """True if the batch of these settings is there."""
        return self.out.exists() and read_json(self.record).get("plan") == self.settings

    def missing(self) -> list[int]:
        """The numbers of the shards that are not there."""
        return [number for number in range(len(self)) if not self._path(number).exists()]

    def write(
        self, number: int, images: NDArray[np.uint8], seconds: float | None = None, device: str = ""
    ) -> None:
        """Keep one shard, (n, H, W, 3), and how long drawing it took which device, where that was timed."""
        assert images.shape == (self._count(number), *self.shape)
        own = self.folder / f"{platform.node()}-{os.getpid()}.npz"
        timing = {} if seconds is None else {"seconds": np.array(seconds), "device": np.array(device)}
        try:
            write_npz(own, {"arr_0": images, **timing})
            own.replace(self._path(number))
        except (BatchError, OSError) as error:
            if not self.finished():  # else another process has drawn the same, and merged
                raise BatchError(
                    f"{error} Finished shards are kept: make room and run the same command again to go on."
                ) from None

    def merge(self, labels: NDArray[np.int64], provenance: Mapping[str, Any]) -> bool:
        """Write the npz if every shard is there; True if the batch is finished, by us or by another.

        labels: (num,), stored as arr_1; provenance: what OUT.json says beside plan, checksums and speed.
        """
        if self.missing():
            return self.finished()
        with self._lock():
            if not self.finished():
                whole = self.folder / "whole.npz"
                images = Rows((self.num, *self.shape), np.uint8, self._images())
                write_npz(whole, {"arr_0": images, "arr_1": labels})
                # What a Result calls the digest of these images; taking it compares the file's checksums.
                digests = {name: array.digest() for name, array in members(whole).items()}
                facts = {
                    "schema": 1,
                    "plan": self.settings,
                    "sha256": sha256(whole),
                    "digest": digests["arr_0"],
                    "speed": self._speed(),
                    **provenance,
                }
                _write_json(self.record, facts)
                whole.replace(self.out)
            self._remove_folder()
        return True

    def _images(self) -> Iterator[NDArray[np.uint8]]:
        for number in range(len(self)):
            images = members(self._path(number))["arr_0"].read()
            if images.shape != (self._count(number), *self.shape):
                raise BatchError(
                    f"{self._path(number)} is not the shard that was written. Delete it and run again."
                )
            yield images

    def _speed(self) -> dict[str, Any] | None:
        """What the timed shards took: `device`, `images`, `seconds`; None if none was timed.

        Each counts as a full one, because it is drawn at full size. Seconds are those of all processes, one
        after another, so `images / seconds` is the speed of one.
        """
        timed = [shard for shard in map(members, map(self._path, range(len(self)))) if "seconds" in shard]
        if not timed:
            return None
        return {
            "device": " and ".join(sorted({str(shard["device"].read()) for shard in timed})),
            "images": len(timed) * self.size,
            "seconds": sum(float(shard["seconds"].read()) for shard in timed),
        }

    def _path(self, number: int) -> Path:
        return self.folder / f"{number * self.size:08d}.npz"

    def _count(self, number: int) -> int:
        return min(self.size, self.num - number * self.size)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One process at a time in the folder, which is made if need be."""
        lock = FileLock(self.folder / "lock")
        try:
            while not lock.is_locked:
                self.folder.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # whoever merged has just removed the folder: once more
                    lock.acquire()
            yield
        except OSError as error:
            raise BatchError(f"{self.out} cannot be written: {error.strerror or error}.") from None
        finally:
            lock.release()

    def _remove_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _require_equal(self, place: Path, found: Mapping[str, Any]) -> None:
        if not found:
            raise UsageError(
                f"{place} exists and nothing says how it was made. Choose another --out, or --fresh."
            )
        differing = [
            f"{key} ({_brief(found.get(key))} there, {_brief(self.settings.get(key))} here)"
            for key in sorted({*found, *self.settings})
            if found.get(key) != self.settings.get(key)
        ]
        if differing:
            raise UsageError(
                f"{place} was made with other settings: {', '.join(differing)}. "
                "Repeat those to go on, choose another --out, or --fresh to start over."
            )

    def _require_space(self) -> None:
        images = sum(map(self._count, self.missing())) + self.num  # the shards, then all of them in one file
        needed, free = images * math.prod(self.shape), shutil.disk_usage(self.folder).free
        if free < needed:
            raise BatchError(
                f"{self.out} needs {needed / 1e9:.2f} GB for the shards and the finished file, and its disk "
                f"has {free / 1e9:.2f} GB free. Make room, or choose --out on another disk."
            )


def _brief(value: Any) -> str:
    """A setting in a sentence; of a digest, its beginning."""
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else str(value)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file that appears under its name when it is whole and on the disk."""
    own = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        with own.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        own.replace(path)
    finally:
        own.unlink(missing_ok=True)
