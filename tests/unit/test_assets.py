"""Manifests, and downloads from a loopback server: verified, resumed, mirrored, refused offline."""

from __future__ import annotations

import hashlib
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
from tests.loopback import Server, serving

KINDS: tuple[assets.Kind, ...] = ("models", "reference_stats")
CONTENT = np.random.default_rng(2).bytes(3_000_000)


@pytest.fixture
def server() -> Iterator[Server]:
    addresses = ("/thing.bin", "/mirror", "/short", "/old")
    with serving(dict.fromkeys(addresses, CONTENT), short={"/short"}, rangeless={"/old"}) as running:
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


def test_a_file_that_changed_in_the_cache_is_refused(asset: Asset) -> None:
    assets.fetch(asset).write_bytes(b"changed")
    with pytest.raises(AssetError, match="is not the registered thing"):
        assets.fetch(asset)


def test_without_a_published_checksum_the_first_download_is_pinned(asset: Asset) -> None:
    asset = replace(asset, sha256=None)
    path = assets.fetch(asset)
    path.write_bytes(b"changed")
    with pytest.raises(AssetError, match="is not the registered thing"):
        assets.fetch(asset)


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
    ],
)
def test_an_unknown_or_missing_key_of_a_manifest_is_an_error_that_names_it(
    registry: Path, file: str, content: str, words: str
) -> None:
    (registry / file).write_text(f"[tiny]\n{content}\n")
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
