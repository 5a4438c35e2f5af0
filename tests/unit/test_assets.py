"""Manifests, and downloads from a loopback server: verified, resumed, mirrored, refused offline."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dit_eval import cli
from dit_eval.errors import AssetError, UsageError
from dit_eval.io import assets
from dit_eval.io.assets import Asset, ModelEntry
from dit_eval.io.cache import list_cache
from tests.command import dit_eval
from tests.loopback import Server, serving

KINDS: tuple[assets.Kind, ...] = ("models", "reference_stats")
CONTENT = np.random.default_rng(2).bytes(3_000_000)


LOGIN_PAGE = b"<!DOCTYPE html><html><title>Sign in</title></html>"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, mu=np.zeros(3), sigma=np.eye(3))
    return stream.getvalue()


@pytest.fixture
def server() -> Iterator[Server]:
    addresses = ("/thing.bin", "/mirror", "/short", "/old")
    files = dict.fromkeys(addresses, CONTENT) | {"/login": LOGIN_PAGE, "/lfs": LFS_POINTER, "/ref.npz": npz()}
    with serving(files, short={"/short"}, rangeless={"/old"}) as running:
        yield running


@pytest.fixture
def asset(server: Server) -> Asset:
    return Asset(
        name="thing",
        kind="models",
        urls=(f"{server.url}/thing.bin",),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        bytes=len(CONTENT),
    )


@pytest.fixture
def unpublished(server: Server) -> Asset:
    """A reference without a published checksum."""
    return Asset(name="ref", kind="reference_stats", urls=(f"{server.url}/ref.npz",))


def part_of(asset: Asset) -> Path:
    path = assets.cached_path(asset)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(path.name + ".part")


def test_a_download_is_verified_kept_and_not_repeated(asset: Asset, server: Server) -> None:
    path = assets.fetch(asset)
    assert path.read_bytes() == CONTENT
    assert assets.fetch(asset, offline=True) == path
    assert len(server.requests) == 1


def test_a_download_is_shown_by_name_and_bytes_only_inside_downloads_shown(asset: Asset) -> None:
    opened: list[str] = []
    seen: list[tuple[int, int | None]] = []

    @contextmanager
    def bar(name: str) -> Iterator[assets.DownloadProgress]:
        opened.append(name)
        yield lambda done, total: seen.append((done, total))

    with assets.downloads_shown(bar):
        path = assets.fetch(asset)
        assert seen[-1] == (len(CONTENT), len(CONTENT))
        assets.fetch(asset)
    path.unlink()
    assets.fetch(asset)
    assert opened == ["thing"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("sample", "--model", "far", "--num", "1", "--out", "{folder}/batch.npz"),
        ("models", "fetch", "far"),
        ("fid", "{folder}/samples.npz", "far", "--protocol", "digits"),
        ("ref", "fetch", "far"),
    ],
)
def test_every_command_shows_its_downloads(
    arguments: tuple[str, ...], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    urls = (f"{server.url}/far.npz",)
    far = (
        ModelEntry(name="far", role="dit", model="S/8", image_size=256, urls=urls),
        Asset(name="far", kind="reference_stats", urls=urls),
    )
    known = {asset.kind: {**assets.manifest(asset.kind), "far": asset} for asset in far}
    monkeypatch.setattr(assets, "manifest", known.__getitem__)
    monkeypatch.setattr(cli, "download_bar", lambda name: nullcontext(opened.append(name)))
    np.savez(tmp_path / "samples.npz", np.zeros((4, 8, 8, 3), np.uint8))
    CliRunner().invoke(cli.main, [argument.format(folder=tmp_path) for argument in arguments])
    assert opened == ["far"]


def test_an_interrupted_download_is_resumed(asset: Asset, server: Server) -> None:
    part_of(asset).write_bytes(CONTENT[:1234])
    assert assets.fetch(asset).read_bytes() == CONTENT
    assert server.requests == [("/thing.bin", "bytes=1234-")]


def test_a_server_without_ranges_sends_the_whole_again(asset: Asset, server: Server) -> None:
    part_of(asset).write_bytes(b"rubbish")
    asset = replace(asset, urls=(f"{server.url}/old",))
    part_of(asset).write_bytes(b"rubbish")
    assert assets.fetch(asset).read_bytes() == CONTENT


def test_a_part_that_is_already_whole_is_not_fetched_again(asset: Asset, server: Server) -> None:
    part_of(asset).write_bytes(CONTENT)
    assert assets.fetch(asset).read_bytes() == CONTENT
    assert server.requests == []


def test_a_connection_that_closes_early_keeps_the_part_and_says_so(asset: Asset, server: Server) -> None:
    broken = replace(asset, urls=(f"{server.url}/short",))
    with pytest.raises(AssetError, match=r"Run again to resume"):
        assets.fetch(broken)
    assert 0 < part_of(broken).stat().st_size < len(CONTENT)
    assert not assets.is_present(broken)


def test_a_mirror_serves_when_the_first_address_does_not(asset: Asset, server: Server) -> None:
    asset = replace(asset, urls=(f"{server.url}/absent", f"{server.url}/mirror"))
    assert assets.fetch(asset).read_bytes() == CONTENT


def test_a_wrong_checksum_is_an_error_and_nothing_is_kept(asset: Asset) -> None:
    asset = replace(asset, sha256="0" * 64)
    with pytest.raises(AssetError, match="is not the registered file"):
        assets.fetch(asset)
    assert not part_of(asset).exists()
    assert not assets.is_present(asset)


def test_using_a_file_is_noted_without_changing_what_its_digest_is_remembered_by(asset: Asset) -> None:
    path = assets.fetch(asset)
    before = path.stat()
    os.utime(path.parent, (0, 0))
    assert assets.fetch(asset) == path
    assert (path.stat().st_mtime_ns, path.stat().st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
    (entry,) = list_cache()
    assert entry.last_used > time.time() - 100


def test_a_file_that_changed_in_the_cache_is_refused(asset: Asset) -> None:
    assets.fetch(asset).write_bytes(b"changed")
    with pytest.raises(AssetError, match="is not the registered thing"):
        assets.fetch(asset)


def test_without_a_published_checksum_the_first_download_is_pinned(unpublished: Asset) -> None:
    path = assets.fetch(unpublished)
    path.write_bytes(npz() + b"changed")
    with pytest.raises(AssetError, match=r"ref\.npz is not the registered ref: .*`dit-eval cache clear ref`"):
        assets.fetch(unpublished)
    assert dit_eval("cache", "clear", "ref").returncode == 0
    assert assets.fetch(unpublished).read_bytes() == npz()


@pytest.mark.parametrize(
    ("page", "words"), [("login", "a web page"), ("lfs", "a pointer to a file in Git"), ("old", "unknown")]
)
@pytest.mark.parametrize(
    ("kind", "expected"), [("reference_stats", "an .npz of arrays"), ("models", "a PyTorch checkpoint or")]
)
def test_a_page_that_is_not_the_file_is_never_pinned(
    server: Server, page: str, words: str, kind: assets.Kind, expected: str
) -> None:
    asset = Asset(name="ref", kind=kind, urls=(f"{server.url}/{page}",))
    with pytest.raises(AssetError, match=f"ref could not be downloaded: .*{words}.*; expected {expected}"):
        assets.fetch(asset)
    assert [path.suffix for path in assets.cached_path(asset).parent.iterdir()] == [".lock"]


def test_a_mirror_serves_when_the_first_address_sends_a_login_page(asset: Asset, server: Server) -> None:
    for entry in (asset, replace(asset, sha256=None, kind="reference_stats")):
        right = "mirror" if entry.sha256 else "ref.npz"
        entry = replace(entry, name=right, urls=(f"{server.url}/login", f"{server.url}/{right}"))
        assert assets.fetch(entry).read_bytes() == server.files[f"/{right}"]


def test_a_file_that_a_user_put_into_the_cache_is_checked_and_pinned_too(unpublished: Asset) -> None:
    path = assets.cached_path(unpublished)
    path.parent.mkdir(parents=True)
    path.write_bytes(LOGIN_PAGE)
    with pytest.raises(AssetError, match=r"it is a web page; expected an \.npz .*`dit-eval cache clear ref`"):
        assets.fetch(unpublished, offline=True)
    path.write_bytes(npz())
    assert assets.fetch(unpublished, offline=True) == path
    path.write_bytes(npz() + b"changed")
    with pytest.raises(AssetError, match="is not the registered ref"):
        assets.fetch(unpublished, offline=True)


def test_a_cached_file_needs_neither_a_lock_nor_a_writable_cache(
    asset: Asset, unpublished: Asset, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {entry: assets.fetch(entry) for entry in (asset, unpublished)}

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for path in paths.values():
        path.with_name(path.name + ".lock").unlink()
        path.with_name(path.name + ".sha256").unlink(missing_ok=True)
    for name in ("mkdir", "replace", "touch"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr("filelock.FileLock", refuse)
    for entry, path in paths.items():
        assert assets.fetch(entry) == path
        assert [file.name for file in path.parent.iterdir()] == [path.name]
    with pytest.raises(AssetError, match=r"Read-only file system.*Set DIT_EVAL_CACHE to a writable"):
        assets.fetch(replace(asset, name="another"))


def test_offline_says_where_to_put_the_file(asset: Asset, server: Server) -> None:
    with pytest.raises(AssetError, match=r"--offline forbids the download.*put it at .*thing\.bin"):
        assets.fetch(asset, offline=True)
    assert server.requests == []


def test_no_network_is_an_error(asset: Asset) -> None:
    asset = replace(asset, urls=("http://127.0.0.1:9/thing.bin",))
    with pytest.raises(AssetError, match="could not be downloaded"):
        assets.fetch(asset)


def test_a_cache_that_cannot_be_written_is_an_error(
    asset: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetError, match="Set DIT_EVAL_CACHE"):
        assets.fetch(asset)


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_of_the_manifests_is_complete(kind: assets.Kind) -> None:
    for asset in assets.manifest(kind).values():
        assert asset.licence, asset.name
        assert asset.source, asset.name
        assert asset.bundled or asset.urls, asset.name
        assert asset.sha256 is None or len(asset.sha256) == 64


def test_an_unknown_name_is_an_error_that_lists_the_registered_ones() -> None:
    with pytest.raises(UsageError, match=r"registered: .*inception-2015-12-05"):
        assets.lookup("models", "inception-2016")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only manifests, for tests that write them."""
    for kind in KINDS:
        (tmp_path / kind).mkdir()
    monkeypatch.setattr(assets, "folder", lambda kind: tmp_path / kind)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (
            "models/manifest.toml",
            'role = "dit"\nstpes = 50',
            r"manifest\.toml: entry \[tiny\] has the unknown key 'stpes'; known keys are urls, .*steps",
        ),
        ("models/manifest.toml", 'role = "dit"\nkind = "models"', "unknown key 'kind'"),
        ("models/manifest.toml", "steps = 50", r"entry \[tiny\] lacks the key 'role'"),
        ("reference_stats/manifest.toml", "steps = 50", "unknown key 'steps'"),
        (
            "reference_stats/certificates.toml",
            'protocol = "adm"\nreference = "tiny"\npublished = {}',
            r"certificates\.toml: entry \[tiny\] lacks the key 'tolerance'",
        ),
        ("models/manifest.toml", 'role = "dit"', r"entry \[tiny\] has neither a 'file' nor 'urls'"),
        ("models/manifest.toml", 'role = "painter"', r"entry \[tiny\] .* role = 'painter'"),
        ("models/manifest.toml", 'role = "dit"\nsteps = "50"', r"entry \[tiny\] .* steps = '50'"),
        ("models/manifest.toml", 'role = "dit"\nsteps = true', r"entry \[tiny\] .* steps = True"),
        ("models/manifest.toml", 'role = "dit"\nurls = "https://a"', r"entry \[tiny\] .* urls = 'https://a'"),
        ("reference_stats/manifest.toml", "urls = [3]", r"entry \[tiny\] .* urls = \[3\]"),
        ("reference_stats/manifest.toml", "[", "cannot be read as TOML"),
        ("reference_stats/manifest.toml", "[[tiny]]", "'tiny' is not a table"),
        (
            "reference_stats/certificates.toml",
            'protocol = "adm"\nreference = "tiny"\npublished = { fid = "2" }\ntolerance = {}',
            r"entry \[tiny\] .* published = \{'fid': '2'\}",
        ),
    ],
)
def test_an_unknown_or_missing_key_of_a_manifest_is_an_error_that_names_it(
    registry: Path, file: str, content: str, words: str
) -> None:
    (registry / file).write_text(f"{content}\n" if content.startswith("[") else f"[tiny]\n{content}\n")
    kind, name = file.split("/")
    with pytest.raises(AssetError, match=words):
        assets.certificates() if name == "certificates.toml" else assets.manifest(kind)  # type: ignore[arg-type]


def test_a_model_has_as_defaults_the_sampling_options_that_its_entry_sets(registry: Path) -> None:
    (registry / "models" / "manifest.toml").write_text(
        '[tiny]\nrole = "dit"\nfile = "a"\nimage_size = 8\ncfg = 1.5\nsteps = 0\npath = "linear"\n'
    )
    entry = assets.lookup("models", "tiny")
    assert (entry.role, entry.family, entry.bundled, entry.urls) == ("dit", "DiT", True, ())
    assert entry.defaults == {"cfg": 1.5, "steps": 0, "path": "linear"}


def test_every_model_says_what_its_role_needs() -> None:
    for entry in assets.manifest("models").values():
        assert entry.role in ("dit", "vae", "features"), entry.name
        if entry.role == "dit":
            assert entry.image_size, entry.name
            assert bool(entry.model) != bool(entry.config), entry.name
        if entry.role == "vae":
            assert entry.scale, entry.name
            assert entry.config, entry.name
