"""Files at an address: https://… and hf://…, downloaded once into the cache.

A file of which no checksum is published is pinned: its SHA-256 is kept at the first download and compared at
every later use.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard
from urllib.parse import quote, urlsplit

from dit_eval.errors import DitEvalError, UsageError
from dit_eval.io.assets import Asset, Kind

_ADDRESS = re.compile(r"(https?|hf)://", re.IGNORECASE)
_HUB = re.compile(
    r"hf://(?P<kind>datasets/|spaces/)?(?!datasets/|spaces/)(?P<repository>[^/@]+/[^/@]+)"
    r"(@(?P<revision>refs/(pr|convert)/[^/]+|[^/]+))?/(?P<file>.+)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class FileAtAddress(Asset):
    """A file at an address, by which messages call it: its name is a key of the cache."""

    address: str

    @property
    def title(self) -> str:
        """The address."""
        return self.address

    @property
    def registration(self) -> str:
        """What the file is compared with."""
        return f"the file that was first downloaded from {self.address}"


def is_address(name: object) -> TypeGuard[str]:
    """True for text that begins with https://, http:// or hf://."""
    return isinstance(name, str) and _ADDRESS.match(name) is not None


def asset_at(address: str, kind: Kind) -> FileAtAddress:
    """The file at an address, to be fetched.

    hf://[datasets/]OWNER/REPOSITORY[@REVISION]/FILE is a public file of Hugging Face, or of HF_ENDPOINT.
    Raises UsageError for an address of another form.
    """
    url = _hub_url(address) if address.lower().startswith("hf://") else address
    if not Path(urlsplit(url).path).name:
        raise UsageError(f"{address}: expected the address of a file.")
    name = re.sub(r"[^\w.-]", "-", Path(url).stem)
    key = hashlib.sha256(address.encode()).hexdigest()[:12]
    return FileAtAddress(name=f"{name}-{key}", kind=kind, urls=(url,), address=address)


@contextmanager
def named_by_address(name: object, path: Path) -> Iterator[None]:
    """Within the block, errors about `path` name the address instead if `name` is one, from which it is."""
    try:
        yield
    except DitEvalError as error:
        if not is_address(name):
            raise
        raise type(error)(str(error).replace(str(path), name)) from error.__cause__


def _hub_url(address: str) -> str:
    match = _HUB.fullmatch(address)
    if match is None:
        raise UsageError(f"{address}: expected hf://[datasets/]OWNER/REPOSITORY[@REVISION]/FILE.")
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    kind, revision = match["kind"] or "", match["revision"] or "main"
    path = f"{match['repository']}/resolve/{quote(revision, safe='')}/{quote(match['file'])}"
    return f"{endpoint.rstrip('/')}/{kind}{path}"
