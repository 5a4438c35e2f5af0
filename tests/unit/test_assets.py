"""Downloads from a loopback server: verified, resumed, mirrored, refused offline."""

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
from dit_eval.io.assets import Asset
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


def test_a_download_is_shown_by_name_and_bytes_and_only_where_it_was_asked_for(asset: Asset) -> None:
    opened: list[str] = []
    seen: list[tuple[int, int | None]] = []

    @contextmanager
    def bar(name: str) -> Iterator[assets.Progress]:
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
def test_every_command_shows_its_downloads_alike(
    arguments: tuple[str, ...], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    far = {kind: Asset(name="far", kind=kind, urls=(f"{server.url}/far.npz",)) for kind in KINDS}
    far["models"] = replace(far["models"], about={"role": "dit", "model": "S/8", "image_size": 256})
    known = {kind: {**assets.manifest(kind), "far": far[kind]} for kind in KINDS}
    monkeypatch.setattr(assets, "manifest", known.__getitem__)
    monkeypatch.setattr(cli, "download_bar", lambda name: nullcontext(opened.append(name)))
    np.savez(tmp_path / "samples.npz", np.zeros((4, 8, 8, 3), np.uint8))
    CliRunner().invoke(cli.main, [argument.format(folder=tmp_path) for argument in arguments])
    assert opened == ["far"]


def test_an_interrupted_download_goes_on_where_it_stopped(asset: Asset, server: Server) -> None:
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
    with pytest.raises(AssetError, match=r"Run again to go on where it stopped"):
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


def test_no_network_is_a_sentence(asset: Asset) -> None:
    asset = replace(asset, urls=("http://127.0.0.1:9/thing.bin",))
    with pytest.raises(AssetError, match="could not be downloaded"):
        assets.fetch(asset)


def test_a_cache_that_cannot_be_written_is_a_sentence(
    asset: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetError, match="Set DIT_EVAL_CACHE"):
        assets.fetch(asset)


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifests_are_whole(kind: assets.Kind) -> None:
    for asset in assets.manifest(kind).values():
        assert asset.licence, asset.name
        assert asset.source, asset.name
        assert asset.bundled or asset.urls, asset.name
        assert asset.sha256 is None or len(asset.sha256) == 64


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(UsageError, match=r"registered: .*inception-2015-12-05"):
        assets.lookup("models", "inception-2016")
