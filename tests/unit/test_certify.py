"""`dit-eval certify` on stand-ins from a server on this machine: digits in the place of ADM's samples."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.error
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from dit_eval.commands.certify import certify as command
from dit_eval.diagnostics import certify_recorded
from dit_eval.diagnostics.certificate import subtracted
from dit_eval.evaluation.pipeline import evaluate
from dit_eval.features.protocols import PROTOCOLS
from dit_eval.io import assets
from dit_eval.io.npz import write_npz
from dit_eval.results.result import METRICS
from tests.command import Ran, assert_one_sentence, dit_eval
from tests.loopback import Server, serving

DIGITS = assets.folder("reference_stats") / "digits.npz"
TOLERANCE = 1e-6


def npz(arrays: Mapping[str, np.ndarray], folder: Path) -> bytes:
    write_npz(folder / "bytes.npz", arrays)
    return (folder / "bytes.npz").read_bytes()


@pytest.fixture(scope="module")
def digits() -> Mapping[str, np.ndarray]:
    with np.load(DIGITS) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def samples(digits: Mapping[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A third of the digits with noise on them."""
    noise = np.random.default_rng(0).integers(0, 60, (599, 8, 8, 3), dtype=np.uint8)
    return npz({"arr_0": np.maximum(digits["arr_0"][::3], noise)}, tmp_path_factory.mktemp("npz"))


@pytest.fixture(scope="module")
def measured(samples: bytes, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, float]:
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    path.write_bytes(samples)
    result = evaluate(path, "digits", device="cpu", cache=False)
    assert result is not None
    return result.metrics


@pytest.fixture
def server(samples: bytes, digits: Mapping[str, np.ndarray], tmp_path: Path) -> Iterator[Server]:
    bare = {key: value for key, value in digits.items() if key not in ("arr_0", "arr_1")}
    with serving({"/samples.npz": samples, "/bare.npz": npz(bare, tmp_path)}) as running:
        yield running


@pytest.fixture
def publish(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Register a published batch with these numbers in a registry that is a copy of the project's."""
    registry = tmp_path / "registry"
    for kind in ("models", "reference_stats"):
        shutil.copytree(assets.folder(kind), registry / kind)
    monkeypatch.setattr(assets, "folder", lambda kind: registry / kind)
    certificates = registry / "reference_stats" / "certificates.toml"
    certificates.write_text("")
    with (registry / "reference_stats" / "manifest.toml").open("a", encoding="utf-8") as manifest:
        manifest.write(f'\n[bare]\nurls = ["{server.url}/bare.npz"]\n')

    def add(name: str, numbers: Mapping[str, float], *, reference: str = "digits", more: str = "") -> None:
        with certificates.open("a", encoding="utf-8") as stream:
            stream.write(f'[{name}]\nurls = ["{server.url}/samples.npz"]\n{more}\n')
            stream.write(f'reference = "{reference}"\nprotocol = "digits"\n')
            stream.write(f"published = {inline(numbers)}\n")
            stream.write(f"tolerance = {inline(dict.fromkeys(numbers, TOLERANCE))}\n")

    return add


Publish = Callable[..., None]


def inline(numbers: Mapping[str, float]) -> str:
    return "{ " + ", ".join(f"{name} = {value!r}" for name, value in numbers.items()) + " }"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "certificate.json"


def certify(out: Path, *more: object) -> Ran:
    return dit_eval("certify", "--device", "cpu", "--out", out, *more)


def test_numbers_that_hold_exit_0_and_the_certificate_says_of_what(
    publish: Publish, measured: Mapping[str, float], samples: bytes, out: Path
) -> None:
    publish("stand-in", measured)
    run = certify(out)
    assert run.returncode == 0, run.stderr
    assert "Every number holds." in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= 80
    assert "…" not in run.stdout
    certificate = json.loads(out.read_text("utf-8"))
    assert certificate["holds"]
    assert certificate["kind"] == "published"
    (batch,) = certificate["batches"]
    assert {name: number["found"] for name, number in batch["numbers"].items()} == pytest.approx(measured)
    assert {number["verdict"] for number in batch["numbers"].values()} == {"holds"}
    assert batch["files"]["samples"]["sha256"] == hashlib.sha256(samples).hexdigest()
    assert batch["files"]["reference"]["sha256"] == assets.sha256(DIGITS)
    weights = assets.lookup("models", "digits-features")
    assert batch["files"]["weights"]["sha256"] == weights.sha256
    assert batch["result"]["protocol"]["weights"]["official"]
    assert {"dit_eval", "torch", "device"} <= batch["result"]["environment"].keys()


def test_a_number_that_is_off_exits_1_and_is_named(
    publish: Publish, measured: Mapping[str, float], out: Path
) -> None:
    publish("stand-in", {**measured, "sfid": measured["sfid"] + 3 * TOLERANCE})
    run = certify(out)
    assert run.returncode == 1, run.stderr
    assert "Does not hold: stand-in sfid." in run.stdout
    numbers = json.loads(out.read_text("utf-8"))["batches"][0]["numbers"]
    assert [name for name, number in numbers.items() if number["verdict"] != "holds"] == ["sfid"]
    assert numbers["sfid"]["difference"] == pytest.approx(-3 * TOLERANCE, rel=1e-3)


def test_a_number_that_cannot_be_computed_does_not_hold(
    publish: Publish, measured: Mapping[str, float], out: Path
) -> None:
    publish("stand-in", {name: measured[name] for name in ("fid", "recall")}, reference="bare")
    run = certify(out)
    assert run.returncode == 1, run.stderr
    assert "Does not hold: stand-in recall." in run.stdout
    (batch,) = json.loads(out.read_text("utf-8"))["batches"]
    assert batch["numbers"]["fid"]["verdict"] == "holds"
    assert batch["numbers"]["recall"]["found"] is None
    assert "recall" in batch["result"]["missing"]


def test_an_interrupted_download_is_exit_2_and_goes_on_where_it_stopped(
    publish: Publish, measured: Mapping[str, float], server: Server, samples: bytes, out: Path
) -> None:
    publish("stand-in", measured)
    server.short.add("/samples.npz")
    run = certify(out)
    assert_one_sentence(run)
    assert "Run again to resume" in run.stderr
    assert list(out.parent.iterdir()) == []
    server.short.clear()
    assert certify(out).returncode == 0
    assert server.requests == [("/samples.npz", None), ("/samples.npz", f"bytes={len(samples) // 2}-")]


def test_a_file_of_another_digest_is_exit_2_and_an_older_certificate_stays(
    publish: Publish, measured: Mapping[str, float], out: Path
) -> None:
    publish("stand-in", measured, more=f'sha256 = "{"0" * 64}"')
    out.write_text("older")
    run = certify(out)
    assert_one_sentence(run)
    assert "stand-in could not be downloaded" in run.stderr
    assert "which is not the registered file" in run.stderr
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert out.read_text() == "older"


def test_nothing_is_measured_before_every_file_is_there(
    publish: Publish, measured: Mapping[str, float], server: Server, out: Path, own_cache: Path
) -> None:
    publish("first", measured)
    publish("second", measured, reference="bare")
    del server.files["/bare.npz"]
    assert_one_sentence(certify(out))
    assert not (own_cache / "features").exists()
    assert not out.exists()


def test_only_one_batch_is_fetched_and_measured_if_it_is_named(
    publish: Publish, measured: Mapping[str, float], server: Server, out: Path
) -> None:
    publish("first", measured)
    publish("second", {"fid": measured["fid"]})
    assert certify(out, "--only", "second").returncode == 0
    assert len(server.requests) == 1
    assert [batch["name"] for batch in json.loads(out.read_text("utf-8"))["batches"]] == ["second"]
    unknown = certify(out, "--only", "third")
    assert_one_sentence(unknown)
    assert "known: first, second" in unknown.stderr


def test_offline_says_where_to_put_the_file_and_asks_nobody(
    publish: Publish, measured: Mapping[str, float], server: Server, out: Path
) -> None:
    publish("stand-in", measured)
    run = certify(out, "--offline", "--only", "stand-in")
    assert_one_sentence(run)
    assert "--offline forbids the download" in run.stderr
    assert server.requests == []


@pytest.mark.parametrize("why", ["offline", "no network"])
def test_where_nothing_can_be_downloaded_the_recorded_numbers_are_compared(
    publish: Publish,
    measured: Mapping[str, float],
    server: Server,
    out: Path,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_route(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    publish("stand-in", measured)
    monkeypatch.setattr(certify_recorded, "CHECKS", {"noise": certify_recorded.CHECKS["noise"]})
    if why == "no network":
        monkeypatch.setattr("urllib.request.urlopen", no_route)
    options = ["--offline"] if why == "offline" else []
    run = certify(out, *options)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("so the recorded numbers are compared instead.") == 1
    assert json.loads(out.read_text("utf-8"))["kind"] == "recorded"
    assert_one_sentence(certify(out, "--only", "stand-in", *options))
    assert server.requests == []


def test_what_is_not_a_number_does_not_hold() -> None:
    outcomes = {
        found: subtracted("fid", 2.0, found, tolerance=0.5).outcome
        for found in (2.5, 1.5, 2.6, float("nan"), float("inf"), None)
    }
    assert list(outcomes.values()) == ["holds", "holds", "off", "off", "off", "absent"]


@pytest.mark.parametrize("name", assets.certificates())
def test_every_published_batch_is_whole(name: str) -> None:
    entry = assets.certificates()[name]
    assert entry.urls[0].startswith("https://")
    assert entry.licence
    assert entry.source
    assert entry.protocol in PROTOCOLS
    assets.lookup("reference_stats", entry.reference)
    assert entry.published.keys() == entry.tolerance.keys() <= METRICS.keys()
    assert all(0 < tolerance < 1 for tolerance in entry.tolerance.values())
    (only,) = (option for option in command.params if option.name == "only")
    assert name in getattr(only, "help", "")
