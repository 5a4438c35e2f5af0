"""Batches, references and checkpoints at https:// and hf:// addresses, from a loopback server."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

import dit_eval
from dit_eval.errors import AssetError, UnreachableError, UsageError
from dit_eval.evaluation.references import open_reference
from dit_eval.io import assets
from dit_eval.io.addresses import asset_at, is_address
from tests.loopback import Server, serving

REPOSITORY = "/datasets/owner/stats/resolve/v1/256/batch.npz"
HUB = "hf://datasets/owner/stats@v1/256/batch.npz"


def content(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]
    return stream.getvalue()


IMAGES = content(arr_0=np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    with serving({REPOSITORY: IMAGES, "/batch.npz": IMAGES}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_addresses_are_told_from_paths() -> None:
    assert all(map(is_address, ("https://a/b.npz", "hf://a/b/c.npz", "http://127.0.0.1/x")))
    assert not any(map(is_address, ("batch.npz", "imagenet-256", "/https/a", Path("https://a/b.npz"), None)))


def test_hub_addresses_name_kind_repository_revision_and_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    (url,) = asset_at("hf://owner/model/last.safetensors", "models").urls
    assert url == "https://huggingface.co/owner/model/resolve/main/last.safetensors"
    (url,) = asset_at(HUB, "reference_stats").urls
    assert url == "https://huggingface.co" + REPOSITORY
    with pytest.raises(UsageError, match="expected hf://"):
        asset_at("hf://owner/model", "models")


@pytest.mark.parametrize("hub", [True, False])
def test_samples_at_an_address_are_downloaded_once(server: Server, hub: bool) -> None:
    address = HUB if hub else f"{server.url}/batch.npz"
    results = [dit_eval.evaluate(address, "digits", device="cpu") for _ in range(2)]
    assert results[0] is not None
    assert results[1] is not None
    assert results[0].metrics == results[1].metrics
    assert len(server.requests) == 1


def test_a_redirection_is_followed_and_an_interrupted_download_resumed(server: Server) -> None:
    server.redirects["/moved.npz"] = "/batch.npz"
    server.short.add("/batch.npz")
    asset = asset_at(f"{server.url}/moved.npz", "reference_stats")
    with pytest.raises(AssetError, match=r"could not be downloaded.*Run again to resume"):
        assets.fetch(asset)
    server.short.clear()
    assert assets.fetch(asset).read_bytes() == IMAGES
    assert server.requests[-1][1] == f"bytes={len(IMAGES) // 2}-"


def test_a_file_that_changed_after_the_first_download_is_refused(server: Server) -> None:
    asset = asset_at(HUB, "reference_stats")
    assets.fetch(asset).write_bytes(IMAGES[:-1])
    with pytest.raises(AssetError, match="its SHA-256 is"):
        open_reference(HUB)


def test_what_is_at_the_address_must_be_an_npz(server: Server) -> None:
    server.files["/page.npz"] = b"<html>sign in</html>"
    with pytest.raises(AssetError, match=r"a web page; expected an \.npz"):
        open_reference(f"{server.url}/page.npz")


def test_offline_only_the_cache_is_used(server: Server) -> None:
    with pytest.raises(UnreachableError, match="--offline forbids the download"):
        open_reference(HUB, offline=True)
    open_reference(HUB)
    assert open_reference(HUB, offline=True).images is not None


def test_statistics_under_the_names_of_jax_are_read(server: Server) -> None:
    server.files["/jax.npz"] = content(ref_mu=np.zeros(4), ref_sigma=np.eye(4))
    pool = open_reference(f"{server.url}/jax.npz").pool
    assert pool is not None
    assert (pool.covariance == np.eye(4)).all()


def test_a_checkpoint_at_an_address_is_fetched(server: Server, tmp_path: Path) -> None:
    server.files["/owner/model/resolve/main/digits.safetensors"] = assets.fetch(
        assets.lookup("models", "digits")
    ).read_bytes()
    options = {"num": 4, "steps": 2, "device": "cpu"}
    address = "hf://owner/model/digits.safetensors"
    from_hub = dit_eval.generate("digits", ckpt=address, out=tmp_path / "a.npz", **options)
    bundled = dit_eval.generate("digits", out=tmp_path / "b.npz", **options)
    with np.load(from_hub) as a, np.load(bundled) as b:
        np.testing.assert_array_equal(a["arr_0"], b["arr_0"])


def test_what_is_wrong_with_a_download_names_the_address_and_not_the_file_in_the_cache(
    server: Server, tmp_path: Path
) -> None:
    server.files["/odd.npz"] = content(other=np.zeros(3))
    server.files["/stats.npz"] = content(mu=np.zeros(64), sigma=np.eye(64))
    server.files["/odd.pt"] = content(other=np.zeros(3))
    np.savez(tmp_path / "a.npz", np.zeros((4, 8, 8, 3), np.uint8))
    samples, odd, stats = tmp_path / "a.npz", f"{server.url}/odd.npz", f"{server.url}/stats.npz"
    key = assets.cached_path(asset_at(odd, "reference_stats")).parent.name
    for call, address in (
        (lambda: dit_eval.evaluate(samples, odd), odd),
        (lambda: dit_eval.evaluate(odd, "digits"), odd),
        (lambda: dit_eval.evaluate(stats, "digits"), stats),
        (lambda: dit_eval.evaluate(samples, f"{server.url}/absent.npz"), f"{server.url}/absent.npz"),
        (lambda: dit_eval.generate("digits", ckpt=f"{server.url}/odd.pt", num=4), f"{server.url}/odd.pt"),
        (lambda: dit_eval.evaluate(samples, HUB[:-4] + "2.npz"), HUB[:-4] + "2.npz"),
    ):
        with pytest.raises(dit_eval.DitEvalError) as caught:
            call()
        assert str(caught.value).startswith(address)
        before_the_remedy = str(caught.value).partition("put it at")[0]
        assert str(assets.cache_dir()) not in before_the_remedy
        assert key not in before_the_remedy


def test_a_changed_download_is_said_to_be_so_with_its_address(server: Server) -> None:
    assets.fetch(asset_at(HUB, "reference_stats")).write_bytes(IMAGES[:-1])
    with pytest.raises(AssetError, match=f"is not the file that was first downloaded from {HUB}"):
        open_reference(HUB)
