"""Registered files: manifests, bundled files, the download cache.

The only module that uses the network. A file is used only after its SHA-256 has been compared with the
manifest's; if none is published, with that of the first download, which is kept beside the file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, overload
from urllib.parse import urlsplit

from platformdirs import user_cache_path

from dit_eval.errors import AssetError, UnreachableError, UsageError, did_you_mean
from dit_eval.io.file_digests import sha256
from dit_eval.io.files import KIND_NAMES, FileKind, file_kind, mark_used, publish, write_text
from dit_eval.io.records import make_record, read_toml

Kind = Literal["models", "reference_stats"]
Family = Literal["DiT", "SiT", "REPA"]
DownloadProgress = Callable[[int, "int | None"], None]  # bytes so far, total bytes if known
DownloadBar = Callable[[str], AbstractContextManager[DownloadProgress]]  # called with the name of the asset
Entry = TypeVar("Entry", bound="Asset")

# What an asset without a published checksum must be at least
_FORMATS: Mapping[Kind, tuple[FileKind, ...]] = {
    "models": ("torch", "safetensors", "pickle"),
    "reference_stats": ("npz",),
}
_CHUNK = 1 << 20
_TIMEOUT_S = 30
_download_bar: ContextVar[DownloadBar | None] = ContextVar("download_bar", default=None)


@dataclass(frozen=True, kw_only=True)
class Asset:
    """An entry of a manifest: a file, its provenance and its checksum."""

    name: str
    kind: Kind
    urls: tuple[str, ...] = ()  # the official address, then mirrors
    file: str = ""  # path of a bundled file, relative to the manifest
    sha256: str | None = None  # None if none is published
    bytes: int | None = None
    licence: str = ""
    source: str = ""

    @property
    def bundled(self) -> bool:
        """True if the file is part of the package."""
        return bool(self.file)

    @property
    def title(self) -> str:
        """How messages call it."""
        return self.name

    @property
    def registration(self) -> str:
        """What its file is compared with, for messages."""
        return f"the registered {self.name}"


@dataclass(frozen=True, kw_only=True)
class ModelEntry(Asset):
    """A network: its role, its architecture, and how it is sampled by default."""

    kind: Kind = "models"
    role: Literal["dit", "vae", "features"]
    family: Family = "DiT"
    model: str = ""  # the architecture's name, e.g. "XL/2"; `config` for any other
    config: Mapping[str, Any] = field(default_factory=dict)  # arguments of DiTConfig or of diffusers' VAE
    image_size: int | None = None
    scale: float | None = None  # the factor by which a VAE's latents are multiplied in training
    reference: str | None = None
    num: int | None = None
    cfg: float | None = None
    steps: int | None = None
    sampler: str | None = None
    path: str | None = None
    prediction: str | None = None
    vae: str | None = None

    @property
    def defaults(self) -> dict[str, Any]:
        """The sampling options that the entry sets."""
        options = ("reference", "num", "cfg", "steps", "sampler", "path", "prediction", "vae")
        return {name: value for name in options if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class CertificateEntry(Asset):
    """A batch of samples with published metrics: those metrics, and how far ours may be from them."""

    kind: Kind = "reference_stats"
    protocol: str
    reference: str
    published: Mapping[str, float]
    tolerance: Mapping[str, float]


def cache_dir() -> Path:
    """The folder of downloads and cached features: $DIT_EVAL_CACHE, or the platform's cache folder."""
    return Path(os.environ.get("DIT_EVAL_CACHE") or user_cache_path("dit-eval"))


def folder(kind: Kind) -> Path:
    """The folder of bundled assets of one kind, in a wheel or in a checkout."""
    package = Path(str(files("dit_eval")))
    installed = package / "_assets" / kind
    return installed if installed.is_dir() else package.parent / kind


@overload
def manifest(kind: Literal["models"]) -> Mapping[str, ModelEntry]: ...
@overload
def manifest(kind: Kind) -> Mapping[str, Asset]: ...
def manifest(kind: Kind) -> Mapping[str, Asset]:
    """The registered assets of one kind by name, in the manifest's order. Raises AssetError."""
    return _read_manifest(kind, "manifest.toml", ModelEntry if kind == "models" else Asset)


def certificates() -> Mapping[str, CertificateEntry]:
    """The published batches that `certify` measures, by name. Raises AssetError."""
    return _read_manifest("reference_stats", "certificates.toml", CertificateEntry)


def _read_manifest(kind: Kind, file: str, record: type[Entry]) -> Mapping[str, Entry]:
    """The entries of a TOML file as records. Raises AssetError for anything else, naming entry and key."""
    path = folder(kind) / file
    entries = {
        name: make_record(record, path, name, values, name=name, kind=kind)
        for name, values in read_toml(path).items()
    }
    for entry in entries.values():
        if not (entry.file or entry.urls):
            raise AssetError(f"{path}: entry [{entry.name}] has neither a 'file' nor 'urls'.")
    return entries


@overload
def lookup(kind: Literal["models"], name: str) -> ModelEntry: ...
@overload
def lookup(kind: Kind, name: str) -> Asset: ...
def lookup(kind: Kind, name: str) -> Asset:
    """The asset registered under `name`; of the models also the first one of an architecture, such as "XL/2".

    Raises UsageError, with the registered names, if there is none.
    """
    entries = manifest(kind)
    if name not in entries:
        wanted = name.upper() if "-" in name else f"DIT-{name}".upper()
        for entry in manifest("models").values() if kind == "models" else ():
            if f"{entry.family}-{entry.model}".upper() == wanted:
                return entry
        raise UsageError(
            f"{name!r} is neither a file nor a registered name (registered: {', '.join(entries)})."
            f"{did_you_mean(name, entries)}"
        )
    return entries[name]


def cached_path(asset: Asset) -> Path:
    """The path of the asset's file, which is there only once it has been fetched."""
    if asset.bundled:
        return folder(asset.kind) / asset.file
    return cache_dir() / asset.kind / asset.name / urlsplit(asset.urls[0]).path.rsplit("/", 1)[-1]


def is_present(asset: Asset) -> bool:
    """True if the asset is bundled or in the cache."""
    return cached_path(asset).is_file()


def pinned_sha256(asset: Asset) -> str | None:
    """The asset's published SHA-256, else that of its first download; None for neither."""
    pin = _pin(cached_path(asset))
    return asset.sha256 or (pin.read_text("ascii", "replace").strip() if pin.is_file() else None)


def _pin(path: Path) -> Path:
    """The file beside a download that keeps its SHA-256."""
    return path.with_name(path.name + ".sha256")


@contextmanager
def downloads_shown(bar: DownloadBar) -> Iterator[None]:
    """Show a progress bar for every download in the block, however deep in the calls it is."""
    token = _download_bar.set(bar)
    try:
        yield
    finally:
        _download_bar.reset(token)


def fetch(asset: Asset, *, offline: bool = False) -> Path:
    """The path of the asset's verified file: bundled, cached, or downloaded now.

    Processes that fetch the same asset at once share one download. An interrupted download is resumed. A
    cached file needs no writable cache. Raises AssetError if the file cannot be downloaded or does not match
    its checksum, and UnreachableError, a subclass, if no address of it can be reached.
    """
    path = cached_path(asset)
    if not asset.bundled and not path.is_file():
        if offline:
            raise UnreachableError(
                f"{asset.title} is not in the cache and --offline forbids the download. "
                f"Download {asset.urls[0]} on another machine and put it at {path}."
            )
        _download_once(asset, path)
    _verify(asset, path)
    if not asset.bundled:
        mark_used(path.parent)
    return path


def _download_once(asset: Asset, path: Path) -> None:
    """Download the asset unless another process does so meanwhile."""
    from filelock import FileLock  # slow to load, as the modules of the network are

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            if not path.is_file():
                bar = _download_bar.get()
                with bar(asset.title) if bar else nullcontext() as progress:
                    _download(asset, path, progress)
    except OSError as error:
        raise AssetError(
            f"the cache folder {path.parent} cannot be written ({error.strerror or error}). "
            "Set DIT_EVAL_CACHE to a writable folder."
        ) from None


def _verify(asset: Asset, path: Path) -> None:
    """Raise AssetError if a file is not the asset's.

    Where no checksum is published, the format is checked once and the checksum kept beside the file.
    """
    if asset.bundled:
        remedy = "Install dit-eval again."
    else:
        remedy = f"`dit-eval cache clear {asset.name}` removes it; then run again to fetch a fresh copy."
    try:
        expected = pinned_sha256(asset)
        if expected is None and (problem := _problem(asset, path)):
            raise AssetError(f"{path} is not {asset.registration}: it is {problem}. {remedy}")
        found = sha256(path)
    except OSError as error:
        raise AssetError(f"{path} cannot be read: {error.strerror or error}. {remedy}") from None
    if expected is None:
        with suppress(AssetError):  # a cache that another user has filled may be read-only
            write_text(_pin(path), found + "\n", AssetError)
    elif found != expected:
        raise AssetError(
            f"{path} is not {asset.registration}: its SHA-256 is {found}, expected {expected}. " + remedy
        )


def _download(asset: Asset, path: Path, progress: DownloadProgress | None) -> None:
    """Download to a .part file from the first address that has the asset, verify it and rename it."""
    from http.client import HTTPException

    part = path.with_name(path.name + ".part")
    failures, reached = [], False

    def failed(url: str, reason: object) -> None:
        failures.append(f"{reason}" if url == asset.title else f"{url} ({reason})")

    for url in asset.urls:
        try:
            if not (part.is_file() and part.stat().st_size == asset.bytes):
                _require_space(asset, path.parent)
                _append_rest(url, part, progress)
        except (OSError, ValueError, HTTPException) as error:
            failed(url, getattr(error, "reason", None) or error)
            reached |= not _is_unreachable(error)
            continue
        reached = True
        problem = _problem(asset, part)
        if problem is None:
            return publish(part, path)
        part.unlink()
        failed(url, f"{problem}, so it was discarded")
    raise (AssetError if reached else UnreachableError)(
        f"{asset.title} could not be downloaded: {'; '.join(failures)}. "
        f"Run again to resume, or download it on another machine and put it at {path}."
    )


def fetch_repository(name: str) -> Path:
    """The folder of a model repository of Hugging Face, downloaded by its own library, which verifies it.

    HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE apply. Raises AssetError if it cannot be had.
    """
    from huggingface_hub import snapshot_download  # slow to load

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # of the library's many kinds, and of the HTTP library below it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AssetError(
            f"{name!r} is neither a folder nor a repository that Hugging Face lets us download ({reason})."
        ) from None


def _is_unreachable(error: Exception) -> bool:
    """True if no server answered."""
    from urllib.error import HTTPError, URLError

    return isinstance(error, URLError) and not isinstance(error, HTTPError)


def _problem(asset: Asset, file: Path) -> str | None:
    """Why a file is not the asset's: by its checksum or, where none is published, by its format."""
    kind = file_kind(file)
    if asset.sha256 is not None:
        found = sha256(file)
        if found == asset.sha256:
            return None
        size = file.stat().st_size
        return (
            f"{KIND_NAMES[kind]} of {size:,} bytes with SHA-256 {found}, which is not the registered file; "
            f"expected {asset.sha256}"
        )
    if kind in _FORMATS[asset.kind]:
        return None
    expected = " or ".join(KIND_NAMES[format] for format in _FORMATS[asset.kind])
    return f"{KIND_NAMES[kind]}; expected {expected}"


def _require_space(asset: Asset, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if asset.bytes is not None and free < asset.bytes:
        raise AssetError(
            f"{asset.title} needs {asset.bytes / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free. "
            "Make room, or set DIT_EVAL_CACHE to another disk."
        )


def _append_rest(url: str, part: Path, progress: DownloadProgress | None) -> None:
    """Append to `part` what it lacks of `url`. Raises OSError or HTTPException if the transfer fails."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    size = part.stat().st_size if part.is_file() else 0
    request = Request(url, headers={"User-Agent": "dit-eval"})
    if size:
        request.add_header("Range", f"bytes={size}-")
    try:
        response = urlopen(request, timeout=_TIMEOUT_S)
    except HTTPError as error:
        error.close()
        if error.code == 416 and size:  # the part is not shorter than the file: start over
            part.unlink()
            return _append_rest(url, part, progress)
        raise
    with response:
        resumed = response.status == 206 and f"bytes {size}-" in response.headers.get("Content-Range", "")
        done = size if resumed else 0
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
