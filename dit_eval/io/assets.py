"""Files that the program did not make: manifests, cache, download → check → rename.

The only module that touches the network. A file is used only after its SHA-256 has been compared
with the manifest's; where nobody has published one, the digest of the first download is kept beside
the file and holds from then on.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from platformdirs import user_cache_path

from dit_eval.errors import AssetError, UsageError

Kind = Literal["models", "reference_stats"]
Progress = Callable[[int, "int | None"], None]  # bytes so far, bytes in all where known
Bar = Callable[[str], AbstractContextManager[Progress]]  # opened with the name of what is downloaded

_CHUNK = 1 << 20
_TIMEOUT_S = 30
_bar: ContextVar[Bar | None] = ContextVar("bar", default=None)


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One entry of a manifest: a file, where it comes from and how to know it."""

    name: str
    kind: Kind
    urls: tuple[str, ...] = ()  # the first is the official one, the others are mirrors
    file: str = ""  # path below the manifest's folder, for what is bundled
    sha256: str | None = None  # None: nobody has published it
    bytes: int | None = None
    licence: str = ""
    source: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)  # the entry's other keys

    @property
    def bundled(self) -> bool:
        """True if the file is part of the package."""
        return bool(self.file)


def cache_dir() -> Path:
    """Where downloads and features are kept: $DIT_EVAL_CACHE, or the platform's cache folder."""
    chosen = os.environ.get("DIT_EVAL_CACHE")
    return Path(chosen) if chosen else user_cache_path("dit-eval")


def folder(kind: Kind) -> Path:
    """The folder of bundled assets of one kind, in a wheel or in a checkout."""
    package = Path(str(files("dit_eval")))
    installed = package / "_assets" / kind
    return installed if installed.is_dir() else package.parent / kind


@cache
def manifest(kind: Kind, file: str = "manifest.toml") -> Mapping[str, Asset]:
    """The assets of one kind that a TOML file in its folder registers, by name, in the file's order."""
    path = folder(kind) / file
    known = ("urls", "file", "sha256", "bytes", "licence", "source")
    assets = {}
    for name, entry in tomllib.loads(path.read_text("utf-8")).items():
        fields = {key: entry[key] for key in known if key in entry}
        fields["urls"] = tuple(fields.get("urls", ()))
        about = {key: value for key, value in entry.items() if key not in known}
        assets[name] = Asset(name=name, kind=kind, about=about, **fields)
    return assets


def lookup(kind: Kind, name: str) -> Asset:
    """The asset registered under `name`. Raises UsageError with the names there are."""
    try:
        return manifest(kind)[name]
    except KeyError:
        known = ", ".join(manifest(kind))
        raise UsageError(f"{name!r} is neither a file nor a registered name (registered: {known}).") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cached_path(asset: Asset) -> Path:
    """Where the asset lies, or will lie once it has been fetched."""
    if asset.bundled:
        return folder(asset.kind) / asset.file
    return cache_dir() / asset.kind / asset.name / asset.urls[0].rsplit("/", 1)[-1]


def is_present(asset: Asset) -> bool:
    """True if the asset can be had without the network."""
    return cached_path(asset).is_file()


@contextmanager
def downloads_shown(bar: Bar) -> Iterator[None]:
    """Open a bar for every download inside, however deep: what needs a file need not know of bars."""
    token = _bar.set(bar)
    try:
        yield
    finally:
        _bar.reset(token)


def fetch(asset: Asset, *, offline: bool = False) -> Path:
    """The asset's verified file: bundled, cached, or downloaded now.

    Several processes may ask at once; one downloads. An interrupted download goes on where it stopped.
    Raises AssetError if the file cannot be had or is not the registered one.
    """
    path = cached_path(asset)
    if asset.bundled:
        _verify(asset, path)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(
            f"the cache folder {path.parent} cannot be made ({error.strerror}). "
            "Set DIT_EVAL_CACHE to a folder that can be written."
        ) from None
    with FileLock(path.with_name(path.name + ".lock")):
        if not path.is_file():
            if offline:
                raise AssetError(
                    f"{asset.name} is not in the cache and --offline forbids the download. "
                    f"Fetch {asset.urls[0]} on another machine and put it at {path}."
                )
            bar = _bar.get()
            with bar(asset.name) if bar else nullcontext() as progress:
                _download(asset, path, progress)
        _verify(asset, path)
    return path


def _verify(asset: Asset, path: Path) -> None:
    expected = asset.sha256 or _pinned(path)
    if expected is not None and sha256(path) != expected:
        raise AssetError(
            f"{path} is not the registered {asset.name} (SHA-256 should be {expected}). "
            "Delete it and run again to fetch a fresh copy."
        )


def _pin_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _pinned(path: Path) -> str | None:
    pin = _pin_file(path)
    return pin.read_text("ascii").strip() if pin.is_file() else None


def _download(asset: Asset, path: Path, progress: Progress | None) -> None:
    """.part → check → rename."""
    part = path.with_name(path.name + ".part")
    if not (part.is_file() and part.stat().st_size == asset.bytes):
        _fill(asset, path, part, progress)
    found = sha256(part)
    if asset.sha256 is not None and found != asset.sha256:
        size = part.stat().st_size
        part.unlink()
        raise AssetError(
            f"the download of {asset.name} is not the registered file: SHA-256 {found} ({size:,} bytes), "
            f"expected {asset.sha256}. It was discarded. Run again; if it happens twice, the file behind "
            f"{asset.urls[0]} has changed or a proxy rewrites it."
        )
    if asset.sha256 is None:
        _pin_file(path).write_text(found + "\n", "ascii")
    part.replace(path)


def _fill(asset: Asset, path: Path, part: Path, progress: Progress | None) -> None:
    """Bring `part` to its full length from the first address that delivers."""
    free = shutil.disk_usage(path.parent).free
    if asset.bytes is not None and free < asset.bytes:
        raise AssetError(
            f"{asset.name} needs {asset.bytes / 1e9:.1f} GB and {path.parent} has {free / 1e9:.1f} GB free. "
            "Make room, or set DIT_EVAL_CACHE to another disk."
        )
    failures = []
    for url in asset.urls:
        try:
            _receive(url, part, progress)
            return
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            failures.append(f"{url} ({reason})")
    raise AssetError(
        f"{asset.name} could not be downloaded: {'; '.join(failures)}. "
        f"Run again to go on where it stopped, or fetch it elsewhere and put it at {path}."
    )


def _receive(url: str, part: Path, progress: Progress | None) -> None:
    """Append to `part` what is missing of `url`. Raises OSError or HTTPException when it stops early."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "dit-eval"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # the part is as long as the file or longer: begin again
            part.unlink()
            return _receive(url, part, progress)
        raise
    with response:
        resumed = response.status == 206 and f"bytes {have}-" in response.headers.get("Content-Range", "")
        done = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if resumed else "wb") as stream:
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection closed after {done:,} of {total:,} bytes")
    return None
