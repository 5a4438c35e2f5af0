"""The cache folder: what is in it, and how it stays small.

    CACHE/features/KEY-N.npz       features of N images; the least recently used are removed beyond a limit
    CACHE/models/NAME/             downloads (see io/assets.py), which only `dit-eval cache clear` removes
    CACHE/reference_stats/NAME/

The time of last use is the modification time: of a file of features, of the folder of a download. A cache
that cannot be written costs a warning and never a result.
"""

from __future__ import annotations

import math
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dit_eval.errors import AssetError, UsageError
from dit_eval.io.assets import cache_dir
from dit_eval.io.files import replacement_file
from dit_eval.io.npz import Rows, write_arrays

_DEFAULT_LIMIT_GB = 5.0
_ABANDONED_S = 24 * 3600  # age of a temporary file whose writer no longer exists


@dataclass(frozen=True)
class CacheEntry:
    """Features of one batch of images, or the files of one downloaded asset.

    size: in bytes; last_used: seconds since 1970.
    """

    kind: Literal["features", "downloads"]
    name: str
    path: Path
    size: int
    last_used: float


def features_path(key: str, n: int) -> Path:
    """The file of cached features of n images of this key."""
    return cache_dir() / "features" / f"{key}-{n}.npz"


def cached_sizes(key: str) -> list[int]:
    """The numbers of images of which the cache has features of this key, the largest first."""
    names = [
        path.stem.rpartition("-") for path, _ in _files(cache_dir() / "features") if path.suffix == ".npz"
    ]
    return sorted((int(n) for of, _, n in names if of == key and n.isdecimal()), reverse=True)


def features_limit() -> int:
    """The size of cached features in bytes: DIT_EVAL_CACHE_LIMIT in GB, 5 by default. Raises UsageError."""
    text = os.environ.get("DIT_EVAL_CACHE_LIMIT") or str(_DEFAULT_LIMIT_GB)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise UsageError(f"DIT_EVAL_CACHE_LIMIT is {text!r}; expected a size in GB, e.g. 5.")
    return int(gigabytes * 1e9)


def store_features(path: Path, arrays: Mapping[str, np.ndarray | Rows]) -> str | None:
    """Write cached features and remove others beyond the limit; the reason as a sentence if that failed."""
    needed = sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays.values())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if needed <= features_limit():
            _make_room(path.parent, needed)
            with replacement_file(path) as file:
                write_arrays(file, arrays)
    except OSError as error:
        return (
            f"the features could not be cached, so the next evaluation computes them again: {path.parent} "
            f"cannot be written ({error.strerror or error}). The numbers do not depend on it."
        )
    return None


def list_cache() -> list[CacheEntry]:
    """What is in the cache: features, then downloads, each from the most to the least recently used."""
    entries = [
        CacheEntry("features", path.name[:12], path, status.st_size, status.st_mtime)
        for path, status in _files(cache_dir() / "features")
    ]
    for kind in ("models", "reference_stats"):
        for folder, status in _subfolders(cache_dir() / kind):
            size = sum(file.st_size for _, file in _files(folder))
            entries.append(CacheEntry("downloads", folder.name, folder, size, status.st_mtime))
    return sorted(entries, key=lambda entry: (entry.kind != "features", -entry.last_used))


def clear_cache(name: str) -> list[CacheEntry]:
    """Remove and return the entries of this name, or of the kind "features" or "downloads".

    Raises UsageError if there is none, AssetError if one cannot be removed.
    """
    chosen = [entry for entry in list_cache() if name in (entry.kind, entry.name)]
    if not chosen and name not in ("features", "downloads"):
        raise UsageError(f"{name!r} is not in the cache {cache_dir()}; `dit-eval cache list` shows what is.")
    for entry in chosen:
        try:
            shutil.rmtree(entry.path) if entry.path.is_dir() else entry.path.unlink(missing_ok=True)
        except OSError as error:
            raise AssetError(f"{entry.path} cannot be removed: {error.strerror or error}.") from None
    return chosen


def _make_room(folder: Path, needed: int) -> None:
    """Remove the least recently used files until `needed` bytes fit below the limit."""
    files = sorted(_files(folder), key=lambda file: file[1].st_mtime)
    abandoned = time.time() - _ABANDONED_S
    excess = sum(status.st_size for _, status in files) + needed - features_limit()
    for path, status in files:
        temporary = path.suffix == ".tmp"
        if (temporary and status.st_mtime < abandoned) or (not temporary and excess > 0):
            with suppress(OSError):  # another process may have removed it
                path.unlink()
            excess -= status.st_size


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """The files in a folder, which other processes may be changing; none if it cannot be read."""
    return [(path, status) for path, status in _entries(folder) if stat.S_ISREG(status.st_mode)]


def _subfolders(folder: Path) -> list[tuple[Path, os.stat_result]]:
    return [(path, status) for path, status in _entries(folder) if stat.S_ISDIR(status.st_mode)]


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            with suppress(OSError):
                yield path, path.stat()
