"""A batch of images that is written in shards, by many processes of which any may be killed at any time.

    OUT.partial/plan.json        the settings shared by all shards
    OUT.partial/00000032.npz     images 32, 33, …
    OUT.json, OUT.npz            the record of the batch, and the batch, once every shard is complete

A file OUT.json that is no such record is never replaced or deleted.

Every file is renamed into place when it is complete and on the disk. Two processes may write the same shard:
its images are the same. Any process that finds all shards in the folder merges them; a lock lets one do so at
a time.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from dit_eval.errors import BatchError, UsageError
from dit_eval.io.checksums import BackgroundHash, crc32_append
from dit_eval.io.files import read_json, write_json
from dit_eval.io.npz import Member, Rows, array_hash, members, write_npz

_REMEDY = "Delete this shard and run the same command again; the others are kept."

_COST = ("seconds", "device", "passes")  # arrays of a shard beside its images, each if it is known
_Shard = dict[str, Member]  # arr_0, the images, and _COST


class ShardFolder:
    """The folder beside an npz in which its shards are collected.

    out: path of the finished file; settings: everything that determines its bytes, as JSON values; num:
    number of images; shard_size: images per shard; image_size: pixels per side. Methods raise BatchError if
    files cannot be read or written.
    """

    def __init__(
        self, out: Path, settings: Mapping[str, Any], *, num: int, shard_size: int, image_size: int
    ) -> None:
        self.out, self.settings, self.num, self.shard_size = out, settings, num, shard_size
        self.image_shape = (image_size, image_size, 3)
        self.folder = _folder(out)
        self.record = out.with_suffix(".json")

    def __len__(self) -> int:
        return -(-self.num // self.shard_size)

    def open(self, *, extend: bool = False) -> None:
        """Create the folder, or reuse one that an earlier run with the same settings has left.

        extend: a finished file that has fewer images and otherwise the same settings becomes the first shards
        of this batch, without its last shard if that is incomplete. Raises UsageError if OUT.json is not the
        record of a batch, or if the folder or the finished file has other settings, which it names;
        BatchError if the disk has too little space for the missing shards.
        """
        self._require_own_record()
        if self.out.exists() and not (extend and self._holds_fewer_images()):
            self._require_same_settings(self.out, read_json(self.record).get("plan", {}))
            return self._remove_folder()  # left behind if a process was killed after the last rename
        with self._lock():
            if self.finished():  # by the previous holder of the lock
                return self._remove_folder()
            plan = self.folder / "plan.json"
            if plan.exists():
                self._require_same_settings(self.folder, read_json(plan))
            else:
                write_json(plan, self.settings, BatchError)
            if self.out.exists():
                self._split_file()
        return self._require_space()

    def clear(self) -> None:
        """Delete the finished file, its record and all shards, whatever their settings.

        Raises UsageError if OUT.json is not the record of a batch.
        """
        self._require_own_record()
        for path in (self.out, self.record):
            path.unlink(missing_ok=True)
        self._remove_folder()

    def finished(self) -> bool:
        """True if the finished file of these settings exists."""
        return self.out.exists() and read_json(self.record).get("plan") == self.settings

    def missing(self) -> list[int]:
        """The numbers of the shards that do not exist; none if the batch is finished."""
        names = _names_in(self.folder)
        missing = [shard for shard in range(len(self)) if _shard_name(shard * self.shard_size) not in names]
        return [] if missing and self.finished() else missing

    def has(self, shard: int) -> bool:
        """True if a shard exists, or the finished file."""
        return self._path(shard).exists() or self.out.exists()

    def images_in(self, shard: int) -> int:
        """The number of images in a shard: `shard_size`, or fewer in the last one."""
        return min(self.shard_size, self.num - shard * self.shard_size)

    def write(
        self,
        shard: int,
        images: NDArray[np.uint8],
        seconds: float | None = None,
        *,
        device: str = "",
        passes: float | None = None,
    ) -> None:
        """Write a shard of images (n, H, W, 3) and, as far as they are known, what it cost.

        seconds: how long `device` took for it; passes: through the network, per image.
        """
        assert images.shape == (self.images_in(shard), *self.image_shape)
        cost = {} if seconds is None else {"seconds": np.array(seconds), "device": np.array(device)}
        if passes is not None:
            cost["passes"] = np.array(passes)
        try:
            write_npz(self._path(shard), {"arr_0": images, **cost})
        except BatchError as error:
            if not self.finished():  # else another process has merged the same images
                raise BatchError(
                    f"{error} Finished shards are kept: free some space and run the same command again."
                ) from None

    def merge(self, labels: NDArray[np.int64], provenance: Mapping[str, Any]) -> bool:
        """Write the npz and its record if no shard is missing; True if the batch is finished.

        labels: (num,), stored as arr_1; provenance: stored in the record beside plan, checksums and speed.
        """
        if self.missing():
            return False
        with self._lock():
            if not self.finished():  # by the previous holder of the lock
                merged = self.folder / "whole.npz"
                measured = self._merge_into(merged, labels)
                record = {"schema": 1, "plan": self.settings, **measured, **provenance}
                self._require_own_record()  # another program may have written a file since `open`
                write_json(self.record, record, BatchError)
                merged.replace(self.out)
            self._remove_folder()
        return True

    def relabel(self, label: str) -> None:
        """Replace the label in the record of the finished batch."""
        write_json(self.record, {**read_json(self.record), "label": label}, BatchError)

    def _merge_into(self, merged: Path, labels: NDArray[np.int64]) -> dict[str, Any]:
        """Write the npz; its SHA-256, the digest of its images (see `array_hash`), and what they cost.

        The images are read once. Their checksum, which the file holds before them, follows from those of the
        shards; every shard is compared with its own while it is copied.
        """
        shards = [self._open_shard(shard) for shard in range(len(self))]
        shape, crc = (self.num, *self.image_shape), 0
        for shard in shards:
            crc = crc32_append(crc, shard["arr_0"].crc, shard["arr_0"].nbytes)
        with (
            BackgroundHash(hashlib.sha256()) as sha256,
            BackgroundHash(array_hash(np.dtype(np.uint8), shape)) as digest,
        ):
            images = Rows(shape, np.uint8, _images(shards, digest), crc)
            write_npz(merged, {"arr_0": images, "arr_1": labels}, sha256)
            digests = {"sha256": sha256.hexdigest(), "digest": digest.hexdigest()}
        return digests | {"speed": self._speed(shards), "passes_per_image": _mean_passes(shards)}

    def _open_shard(self, shard: int) -> _Shard:
        path, expected = self._path(shard), (self.images_in(shard), *self.image_shape)
        with _remedy_added():
            found = members(path, load=_COST)
        images = found.get("arr_0")
        if images is None or (images.shape, images.dtype) != (expected, np.uint8):
            what = "no images" if images is None else f"images of {images.dtype} {images.shape}"
            raise BatchError(
                f"{path} is not the shard that was written: it holds {what} instead of uint8 {expected}. "
                f"{_REMEDY}"
            )
        return found

    def _speed(self, shards: Sequence[_Shard]) -> dict[str, Any] | None:
        """`device`, `images` and `seconds` of the timed shards; None if none was timed.

        Every shard counts as a full one because it is sampled at full size. Seconds are summed over
        processes, so `images / seconds` is the speed of one process.
        """
        timed = [shard for shard in shards if "seconds" in shard]
        if not timed:
            return None
        return {
            "device": " and ".join(sorted({str(shard["device"].read()) for shard in timed})),
            "images": len(timed) * self.shard_size,
            "seconds": sum(float(shard["seconds"].read()) for shard in timed),
        }

    def _holds_fewer_images(self) -> bool:
        """True if the finished file has these settings, but fewer images."""
        found = read_json(self.record).get("plan", {})
        num = found.get("num")
        return isinstance(num, int) and num < self.num and {**found, "num": self.num} == self.settings

    def _split_file(self) -> None:
        """Replace the finished file by shards of this batch; each gets the mean cost of the file's images."""
        images, record = members(self.out)["arr_0"], read_json(self.record)
        if images.digest() != record.get("digest"):
            raise BatchError(f"{self.out} does not hold the images that {self.record} describes.")
        cost: dict[str, Any] = {"passes": record.get("passes_per_image")}
        if speed := record.get("speed"):
            seconds = self.shard_size * speed["seconds"] / speed["images"]
            cost |= {"seconds": seconds, "device": speed["device"]}
        for shard in range(len(images) // self.shard_size):
            if not self._path(shard).exists():  # it may have been split in part before a process was killed
                first = shard * self.shard_size
                self.write(
                    shard, next(images.blocks(self.shard_size, first, first + self.shard_size)), **cost
                )
        self.out.unlink()  # its record stays until `merge` replaces it, so that others still recognise it

    def _path(self, shard: int) -> Path:
        return self.folder / _shard_name(shard * self.shard_size)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Exclusive access to the folder, which is created if necessary."""
        lock = FileLock(self.folder / "lock")
        try:
            while not lock.is_locked:
                self.folder.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # the folder was just removed after a merge; retry
                    lock.acquire()
            yield
        except OSError as error:
            raise BatchError(f"{self.out} cannot be written: {error.strerror or error}.") from None
        finally:
            lock.release()

    def _remove_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _require_own_record(self) -> None:
        """Raise UsageError if OUT.json exists and is not a record that `merge` has written."""
        record = read_json(self.record)
        if self.record.exists() and not (isinstance(record.get("plan"), dict) and "digest" in record):
            raise UsageError(
                f"{self.record} exists and is not the record of a batch, which would replace it. Move it, or "
                "choose another --out."
            )

    def _require_same_settings(self, path: Path, recorded: Mapping[str, Any]) -> None:
        if not recorded:
            raise UsageError(
                f"{path} exists without a record of how it was made. Choose another --out, or delete it "
                "(`dit-eval sample` does so with --fresh)."
            )
        differences = [
            f"{key} ({_abbreviate(recorded.get(key))} before, {_abbreviate(self.settings.get(key))} now)"
            for key in sorted({*recorded, *self.settings})
            if recorded.get(key) != self.settings.get(key)
        ]
        if differences:
            raise UsageError(
                f"{path} was made with other settings: {', '.join(differences)}. "
                "Use the same settings to resume, or choose another --out, or delete it "
                "(`dit-eval sample` does so with --fresh)."
            )

    def _require_space(self) -> None:
        images = sum(map(self.images_in, self.missing())) + self.num  # the shards, then the merged file
        needed, free = images * math.prod(self.image_shape), shutil.disk_usage(self.out.parent).free
        if free < needed:
            raise BatchError(
                f"{self.out} needs {needed / 1e9:.2f} GB for the shards and the finished file, but its disk "
                f"has {free / 1e9:.2f} GB free. Free some space, or choose an --out on another disk."
            )


@contextmanager
def interruption_noted(out: Path, *, num: int, shard_size: int) -> Iterator[None]:
    """Add to a KeyboardInterrupt of the block a note of how many images of the batch are sampled."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        names = _names_in(_folder(out))
        starts = [first for first in range(0, num, shard_size) if _shard_name(first) in names]
        sampled = num if out.exists() else sum(min(shard_size, num - first) for first in starts)
        interrupt.add_note(f"{sampled:,} of {num:,} images of {out} are sampled.")
        raise


def _folder(out: Path) -> Path:
    return out.with_suffix(".partial")


def _shard_name(first: int) -> str:
    """The file of the shard that begins with the image of index `first`."""
    return f"{first:08d}.npz"


def _names_in(folder: Path) -> set[str]:
    """The names of the files in a folder; empty if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise BatchError(f"{folder} cannot be read: {error.strerror or error}.") from None


def _mean_passes(shards: Sequence[_Shard]) -> float | None:
    """Passes through the network per image; None if they were not counted for every shard."""
    if not all("passes" in shard for shard in shards):
        return None
    return sum(float(shard["passes"].read()) for shard in shards) / len(shards)


def _images(shards: Sequence[_Shard], digest: BackgroundHash) -> Iterator[NDArray[np.uint8]]:
    """The images of shards as blocks, which are added to the digest."""
    for shard in shards:
        with _remedy_added():
            for block in shard["arr_0"].verified_blocks():
                digest.update(block)
                yield block


@contextmanager
def _remedy_added() -> Iterator[None]:
    """Add to the BatchError of a shard what to do."""
    try:
        yield
    except BatchError as error:
        raise BatchError(f"{error} {_REMEDY}") from None


def _abbreviate(value: Any) -> str:
    """A setting as text; the first twelve digits of a SHA-256."""
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else str(value)
