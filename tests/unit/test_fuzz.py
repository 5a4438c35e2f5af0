"""Files with anything in them: whatever reads one raises nothing but DitEvalError.

100 cases each among the unit tests, and 10,000 with `make slow`.
"""

from __future__ import annotations

import copy
import io
import json
import string
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from dit_eval.diagnostics.doctor import diagnose
from dit_eval.dit import load_dit
from dit_eval.errors import BatchError, DitEvalError
from dit_eval.evaluation.extraction import load_extraction
from dit_eval.evaluation.references import has_statistics, open_reference
from dit_eval.evaluation.stats_files import read_stats
from dit_eval.features.network import read_weights
from dit_eval.generation.plan import choose_labels
from dit_eval.generation.shards import ShardFolder
from dit_eval.io import assets
from dit_eval.io.batch_record import read_record
from dit_eval.io.batches import open_images
from dit_eval.io.npz import write_npz
from dit_eval.results import compare_formats
from dit_eval.results.check import check
from dit_eval.results.check_formats import render
from dit_eval.results.check_settings import read_settings
from dit_eval.results.compare import compare
from dit_eval.results.result import Result, read_result
from tests.handmade import handmade
from tests.tiny import CONFIG

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
Case = Callable[..., None]
Fuzz = Callable[..., Callable[[Case], None]]


@pytest.fixture(params=[100, pytest.param(10_000, marks=pytest.mark.simulation)])
def fuzz(request: pytest.FixtureRequest) -> Fuzz:
    """A decorator that runs a function on many values of its arguments' strategies."""
    profile = settings(
        max_examples=request.param,
        deadline=None,
        database=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.function_scoped_fixture,
            HealthCheck.filter_too_much,
        ],
    )
    return lambda **strategies: lambda case: profile(given(**strategies)(case))()


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The content with some bytes changed, and cut in one case of three."""

    def damage(cut: int, flips: list[tuple[int, int]]) -> bytes:
        changed = bytearray(content)
        for position, bits in flips:
            changed[position] ^= bits
        return bytes(changed[:cut] if cut % 3 == 0 else changed)

    flip = st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255))
    return st.builds(damage, st.integers(0, len(content)), st.lists(flip, max_size=4))


LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    LEAF, lambda leaf: st.lists(leaf, max_size=3) | st.dictionaries(st.text(max_size=8), leaf, max_size=3)
)


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value of which up to three parts are removed, or replaced by other values or by each other."""
    value = [copy.deepcopy(value)]
    for _ in range(draw(st.integers(0, 3))):
        *parents, key = draw(st.sampled_from(list(_places(value))))
        target = value
        for parent in parents:
            target = target[parent]
        if parents and draw(st.booleans()):
            del target[key]
        else:
            other = draw(st.sampled_from(list(_places(value))))
            replacement = value
            for part in other:
                replacement = replacement[part]
            target[key] = draw(JSON | st.just(copy.deepcopy(replacement)))
    return value[0]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every part of a JSON value."""
    if path:
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _places(part, (*path, key))


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_to_an_archive_is_an_error_or_changes_nothing(
    fuzz: Fuzz, compressed: bool, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, arr_0=IMAGES)

    @fuzz(content=damaged(buffer.getvalue()))
    def read(content: bytes) -> None:
        (tmp_path / "a.npz").write_bytes(content)
        try:
            images = open_images(tmp_path / "a.npz")
            images.digest()
            found = np.concatenate(list(images.blocks(3)))
        except BatchError:
            return
        assert (found == IMAGES).all()


DTYPES = [
    "u1",
    "i1",
    "i8",
    "u8",
    "f2",
    "f4",
    "f8",
    "c16",
    "?",
    "U3",
    "U0",
    "S3",
    "V4",
    "M8[s]",
    "u1,f4",
    "(2,)f4",
]
NAMES = ["arr_0", "arr_1", "mu", "sigma", "mu_s", "sigma_s", "provenance", "other"]
PROVENANCE = {"made_by": "dit-eval", "n": 5, "protocol": {"name": "adm", "fingerprint": "a" * 12, "k": 3}}


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """An array of any type and of up to five axes."""
    shape = draw(st.lists(st.integers(0, 4), max_size=5))
    array = np.zeros(shape, draw(st.sampled_from(DTYPES)))
    if array.nbytes and array.dtype.kind != "U":  # not every pattern is a text
        pattern = draw(st.sampled_from([b"\0", b"\1", b"\xff", b"0", b"\x7f\xf8"]))
        array.reshape(-1).view(np.uint8)[:] = np.frombuffer(pattern * array.nbytes, np.uint8)[: array.nbytes]
    return array


def metadata() -> st.SearchStrategy[dict[str, np.ndarray]]:
    """The arrays of a reference, some of them replaced by others."""
    whole = {
        "arr_0": IMAGES[:5],
        "arr_1": np.arange(5),
        "mu": np.zeros(4),
        "sigma": np.eye(4),
        "mu_s": np.zeros(3),
        "sigma_s": np.eye(3),
    }
    provenance = mutated(PROVENANCE).map(lambda value: np.array(json.dumps(value)))
    kept = st.sets(st.sampled_from(sorted(whole))).map(lambda names: {name: whole[name] for name in names})
    others = st.dictionaries(st.sampled_from(NAMES), arrays(), max_size=2)
    labels = st.lists(st.integers(-(10**13), 10**13), max_size=6).map(
        lambda values: np.array(values, np.int64)
    )
    return st.builds(
        lambda kept, others, record, labels: kept | {"provenance": record, "arr_1": labels} | others,
        kept, others, provenance, labels,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_metadata_arrays_of_any_type_and_shape(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "ref.npz"

    @fuzz(content=metadata())
    def read(content: dict[str, np.ndarray]) -> None:
        np.savez(path, **content)  # type: ignore[arg-type]
        has_statistics(path)
        with suppress(DitEvalError):
            reference = open_reference(path)
            reference.statistics_digest()
            if reference.images:
                reference.images.digest()
                reference.images.labels()
                assert sum(map(len, reference.images.blocks(2))) == len(reference.images)
        with suppress(DitEvalError):
            read_stats(path)
        with suppress(DitEvalError):
            diagnose(path, None, None)


def encoded(format: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(IMAGES[1]).save(stream, format)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_image_files(fuzz: Fuzz, format: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(encoded("PNG"))

    @fuzz(content=damaged(encoded(format)), zipped=st.booleans())
    def read(content: bytes, zipped: bool) -> None:
        (tmp_path / "images" / "2.png").write_bytes(content)
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for path in (tmp_path / "images").iterdir():
                archive.write(path, path.name)
        with suppress(BatchError):
            images = open_images(tmp_path / ("images.zip" if zipped else "images"))
            assert next(images.blocks(2)).shape == (2, 8, 8, 3)


def test_zip_archives_of_images(fuzz: Fuzz, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("1.png", "folder/2.png", "__MACOSX/._1.png"):
            archive.writestr(name, encoded("PNG"))

    @fuzz(content=damaged(buffer.getvalue()))
    def read(content: bytes) -> None:
        (tmp_path / "images.zip").write_bytes(content)
        with suppress(BatchError):
            open_images(tmp_path / "images.zip").digest()


RECORD = {
    "schema": 1,
    "plan": {"model": "tiny", "sampler": "ddpm", "cfg": 1.5, "image_size": 8, "seed": 0, "labels": "uniform"},
    "sha256": "a" * 64,
    "digest": "b" * 64,
    "macs": 31,
    "speed": {"device": "cpu", "images": 10, "seconds": 1.5},
}


def test_records_of_batches(fuzz: Fuzz, tmp_path: Path) -> None:
    write_npz(tmp_path / "batch.npz", {"arr_0": IMAGES})
    shards = ShardFolder(tmp_path / "batch.npz", RECORD["plan"], num=10, shard_size=5, image_size=8)  # type: ignore[arg-type]

    @fuzz(record=mutated(RECORD))
    def read(record: Any) -> None:
        (tmp_path / "batch.json").write_text(json.dumps(record))
        found = read_record(tmp_path / "batch.npz")
        result = handmade(model=None)
        taken = {key: found[key] for key in ("plan", "macs", "speed") if key in found}
        result = Result.from_json(replace(result, samples={**result.samples, **taken}).to_json())
        assert result.name
        with suppress(DitEvalError):
            shards.open()


def a_result() -> dict[str, Any]:
    ends = {"se": 0.1, "low": 9.4, "high": 9.8}
    shares = {"label": [0, 1], "n": [3, 4], "inside": [1, 2]}
    result = replace(
        handmade(),
        label="step 1000",
        date="2026-11-26T09:30:00+00:00",
        intervals={"fid": ends, "precision": ends},
        classes={"precision": shares},
        influence={"fid": np.linspace(-1, 1, 10, dtype=np.float32)},
    )
    return json.loads(result.to_json())


def test_results(fuzz: Fuzz, tmp_path: Path) -> None:
    @fuzz(value=mutated(a_result()))
    def read(value: Any) -> None:
        (tmp_path / "result.json").write_text(json.dumps(value))
        with suppress(DitEvalError):
            result = read_result(tmp_path / "result.json")
            assert result.name
            assert result.table()
            assert result._repr_html_()
            assert Result.from_json(result.to_json()).metrics == result.metrics
            compared = compare(tmp_path / "result.json", handmade(error=0.1))
            assert all(compare_formats.render(compared, style) for style in compare_formats.FORMATS)


def test_results_that_are_any_text(fuzz: Fuzz, tmp_path: Path) -> None:
    @fuzz(content=damaged(json.dumps(a_result()).encode()) | st.binary() | st.text().map(str.encode))
    def read(content: bytes) -> None:
        (tmp_path / "result.json").write_bytes(content)
        with suppress(DitEvalError):
            assert read_result(tmp_path / "result.json").table()


def test_baselines(fuzz: Fuzz, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(a_result()))

    @fuzz(value=mutated(a_result()), force=st.booleans(), speed=st.none() | st.just(0.9))
    def check_both(value: Any, force: bool, speed: float | None) -> None:
        (tmp_path / "baseline.json").write_text(json.dumps(value))
        paths = tmp_path / "result.json", tmp_path / "baseline.json"
        with suppress(DitEvalError):
            assert render(check(*paths, min_speed=speed, force=force), "text")
        with suppress(DitEvalError):
            assert render(check(*reversed(paths), max_gflops=100, force=force), "markdown")


KEYS = [
    "role",
    "urls",
    "file",
    "sha256",
    "bytes",
    "licence",
    "source",
    "config",
    "cfg",
    "steps",
    "path",
    "colour",
]
VALUES = ['"dit"', '"a"', "3", "-1.5", "nan", "true", "[]", '["a"]', "[1]", "{ a = 1 }", "1979-05-27", "3 4"]


def test_manifests(fuzz: Fuzz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("models", "reference_stats"):
        (tmp_path / kind).mkdir()
    monkeypatch.setattr(assets, "folder", lambda kind: tmp_path / kind)
    line = st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)).map(" = ".join)
    entries = st.lists(st.sampled_from(["[tiny]", "[[tiny]]", "[a.b]"]) | line, max_size=6).map("\n".join)

    @fuzz(
        content=entries.map(str.encode)
        | st.binary()
        | damaged(b'[tiny]\nrole = "dit"\nfile = "a"\nsteps = 3')
    )
    def read(content: bytes) -> None:
        for path in ("models/manifest.toml", "reference_stats/certificates.toml"):
            (tmp_path / path).write_bytes(content)
        with suppress(DitEvalError):
            for entry in assets.manifest("models").values():
                assert entry.defaults is not None
                with suppress(DitEvalError):
                    assets.fetch(entry, offline=True)
        with suppress(DitEvalError):
            assets.certificates()


def test_settings_of_a_check(fuzz: Fuzz, tmp_path: Path) -> None:
    keys = ["baseline", "tolerance", "require-power", "max-gflops", "min-speed", "colour"]
    line = st.tuples(st.sampled_from(keys), st.sampled_from(VALUES)).map(" = ".join)
    head = st.sampled_from(["[tool.dit-eval.check]", "[tool.dit-eval.check.tolerance]", "[tool]", ""])
    content = st.tuples(head, st.lists(line, max_size=4).map("\n".join)).map("\n".join)

    @fuzz(content=content.map(str.encode) | st.binary())
    def read(content: bytes) -> None:
        (tmp_path / "pyproject.toml").write_bytes(content)
        with suppress(DitEvalError):
            read_settings(tmp_path)


def test_files_of_labels(fuzz: Fuzz, tmp_path: Path) -> None:
    numbers = st.lists(st.integers() | st.integers(0, 12), min_size=3, max_size=4)
    text = numbers.map(lambda labels: " ".join(map(str, labels))) | st.text(string.digits + " \n²٣x.-_")

    @fuzz(content=text.map(str.encode) | st.binary())
    def read(content: bytes) -> None:
        (tmp_path / "labels.txt").write_bytes(content)
        with suppress(DitEvalError):
            labels = choose_labels(str(tmp_path / "labels.txt"), num=3, num_classes=10, seed=0)
            assert labels.shape == (3,)
            assert 0 <= labels.min() <= labels.max() < 10


def torch_file(**options: bool) -> bytes:
    stream = io.BytesIO()
    torch.save({"weight": torch.arange(30.0), "bias": torch.zeros(2, 3)}, stream, **options)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["torch", "pickle", "safetensors"])
def test_weights(fuzz: Fuzz, format: str, tmp_path: Path) -> None:
    content = {
        "torch": torch_file(),
        "pickle": torch_file(_use_new_zipfile_serialization=False),
        "safetensors": save({"weight": torch.arange(30.0)}),
    }

    @fuzz(content=damaged(content[format]))
    def read(content: bytes) -> None:
        (tmp_path / "w.pth").write_bytes(content)
        with suppress(DitEvalError):
            read_weights(tmp_path / "w.pth")
        with suppress(DitEvalError):
            load_dit(tmp_path / "w.pth", CONFIG)


def test_entries_of_the_cache_are_right_or_computed_again(
    fuzz: Fuzz, tmp_path: Path, own_cache: Path
) -> None:
    np.savez(tmp_path / "batch.npz", IMAGES[:4])
    images, extraction = open_images(tmp_path / "batch.npz"), load_extraction("digits", device="cpu")
    expected, _ = extraction.extract(images, "samples", None)
    assert expected is not None
    (entry,) = (own_cache / "features").iterdir()

    @fuzz(content=damaged(entry.read_bytes()) | st.binary())
    def read(content: bytes) -> None:
        entry.write_bytes(content)
        found, _ = extraction.extract(images, "samples", None)
        assert found is not None
        assert (found.features == expected.features).all()
        assert (found.spatial.covariance == expected.spatial.covariance).all()
        assert found.score.in_file_order() == expected.score.in_file_order()
        assert extraction.warnings == []
