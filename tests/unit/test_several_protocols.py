"""Several protocols in one pass: the numbers of separate runs to the last bit, every image decoded once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dit_eval.errors import StatisticsError, UsageError
from dit_eval.evaluation.evaluator import Evaluator
from dit_eval.evaluation.extraction import load_extractions
from dit_eval.evaluation.feature_stats import FeatureStats
from dit_eval.evaluation.metric_table import with_optional
from dit_eval.evaluation.pipeline import evaluate, make_reference
from dit_eval.io.image_files import DecodedImage, FileSet
from dit_eval.results.result import Result
from tests.command import assert_one_sentence
from tests.command import dit_eval as run_command
from tests.tiny_encoders import add_tiny_protocols

N = 40  # images of each side
THREE = ("digits", "encoder", "pil")
METRICS = with_optional(["kid", "density", "coverage", "mind"])


@pytest.fixture(autouse=True)
def protocols(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside "digits" two encoders: one resizes on the device, one on the host."""
    add_tiny_protocols(monkeypatch, tmp_path_factory.mktemp("tiny"), encoder="fdr-dinov2", pil="dinov2-pil")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Folders of images: samples, reference."""
    random = np.random.default_rng(0)
    for name in ("samples", "reference"):
        for number, image in enumerate(random.integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)):
            path = tmp_path / name / str(number % 2) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return tmp_path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the image files that are decoded from now on."""
    decode, names = FileSet.decode, []

    def record(files: FileSet, name: str, **options: Any) -> DecodedImage:
        names.append(f"{files.path.name}/{name}")
        return decode(files, name, **options)

    monkeypatch.setattr(FileSet, "decode", record)
    return names


def evaluated(samples: object, reference: object, protocol: object, **options: Any) -> Any:
    settings = {"device": "cpu", "batch_size": 16, "cache": False, "metrics": METRICS, **options}
    return evaluate(samples, reference, protocol=protocol, **settings)  # type: ignore[call-overload]


def assert_same(result: Result, expected: Result) -> None:
    for name in ("metrics", "intervals", "classes", "missing", "protocol", "fingerprint", "warnings"):
        assert getattr(result, name) == getattr(expected, name)
    assert result.influence.keys() == expected.influence.keys()
    assert all((result.influence[name] == expected.influence[name]).all() for name in expected.influence)


def test_one_pass_gives_the_numbers_of_separate_runs_to_the_last_bit(
    folders: Path, decoded: list[str]
) -> None:
    files = folders / "samples", folders / "reference"
    together = evaluated(*files, THREE)
    assert len(decoded) == 2 * (N + 1)  # the first also for the size
    for name, result in zip(THREE, together, strict=True):
        expected = evaluated(*files, name)
        assert_same(result, expected)
        assert result.samples == expected.samples
        assert result.reference == expected.reference
    assert len({result.metrics["fid"] for result in together}) == 3
    assert {"kid", "density", "coverage", "mind"} <= together[1].metrics.keys()


def test_what_one_protocol_has_cached_is_not_extracted_again(folders: Path, decoded: list[str]) -> None:
    files = folders / "samples", folders / "reference"
    alone = evaluated(*files, "digits", cache=True)
    decoded.clear()
    done: list[int] = []
    digits, encoder = evaluated(
        *files, ("digits", "encoder"), cache=True, progress=lambda role, n, total: done.append(n)
    )
    assert (digits.samples["cached"], encoder.samples["cached"]) == (True, False)
    assert (digits.reference["cached"], encoder.reference["cached"]) == (True, False)
    assert len(decoded) == 2 * (N + 1 + 16)  # for the size, and for the name of the entry
    assert_same(digits, alone)
    assert_same(encoder, evaluated(*files, "encoder"))
    done.clear()
    again = evaluated(
        *files, ("digits", "encoder"), cache=True, progress=lambda role, n, total: done.append(n)
    )
    assert [result.samples["cached"] for result in again] == [True, True]
    assert done == []
    for result, expected in zip(again, (digits, encoder), strict=True):
        assert_same(result, expected)


def test_a_cache_entry_of_other_images_that_begin_alike_is_replaced(folders: Path) -> None:
    samples, reference = folders / "samples", folders / "reference"
    evaluated(samples, reference, "digits", cache=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(samples / "1" / f"{N - 1}.png")
    found = evaluated(samples, reference, ("digits", "encoder"), cache=True)
    assert [result.samples["cached"] for result in found] == [False, False]
    for name, result in zip(("digits", "encoder"), found, strict=True):
        assert_same(result, evaluated(samples, reference, name))


def test_arrays_of_a_running_program_are_measured_by_several_protocols(folders: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 20, 8, 8, 3), dtype=np.uint8)
    together = evaluated(list(images), folders / "reference", THREE)
    for name, result in zip(THREE, together, strict=True):
        expected = evaluated(list(images), folders / "reference", name)
        assert_same(result, expected)
        assert result.samples["digest"] == expected.samples["digest"]


def test_after_features_that_are_not_finite_all_protocols_are_without_images(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.zeros((20, 8, 8, 3), np.uint8)
    with Evaluator(folders / "reference", protocol=("digits", "pil"), device="cpu") as evaluator:
        with pytest.raises(UsageError, match="several references or protocols"):
            evaluator.compute()
        last, update = evaluator._stats[1], FeatureStats.update

        def not_finite(stats: FeatureStats, *arguments: Any) -> None:
            if stats is last:
                raise StatisticsError("NaN")
            update(stats, *arguments)

        monkeypatch.setattr(FeatureStats, "update", not_finite)
        with pytest.raises(StatisticsError, match="NaN"):
            evaluator.update(images)
        assert evaluator.n == 0
        evaluator.update(images)
        assert [result.samples["n"] for result in evaluator.compute_all()] == [20, 20]


def test_a_reference_is_measured_by_the_protocol_that_it_names(folders: Path) -> None:
    samples, made = folders / "samples", {}
    for name in ("digits", "encoder"):
        made[name] = folders / f"{name}.npz"
        make_reference(folders / "reference", made[name], protocol=name, device="cpu", batch_size=16)
    with np.load(made["digits"]) as arrays:
        np.savez(folders / "anonymous.npz", mu=arrays["mu"], sigma=arrays["sigma"])
    references = [made["encoder"], folders / "anonymous.npz", folders / "reference", made["digits"]]
    found = evaluated(samples, references, ("digits", "encoder"), metrics=["fid"])
    pairs = [(result.protocol["name"], Path(result.reference["path"]).stem) for result in found]
    assert pairs == [
        ("digits", "anonymous"),
        ("digits", "reference"),
        ("digits", "digits"),
        ("encoder", "encoder"),
        ("encoder", "reference"),
    ]
    mapped = evaluated(samples, {name: path for name, path in made.items()}, None, metrics=["fid"])
    for result, expected in zip(mapped, (found[2], found[3]), strict=True):
        assert_same(result, expected)
    with pytest.raises(UsageError, match=r"no reference is of protocol pil\. Add one that"):
        evaluated(samples, list(made.values()), ("digits", "encoder", "pil"), metrics=["fid"])
    with pytest.raises(UsageError, match=r"anonymous.npz holds statistics of other features .* \(encoder 96"):
        evaluated(samples, references[:2], ("encoder", "pil"), metrics=["fid"])
    with pytest.raises(UsageError, match="leave out protocol"):
        evaluated(samples, made, "digits")


def test_other_weights_replace_those_of_the_inception_among_several(golden_inception: Path) -> None:
    digits, adm, clean = load_extractions(
        ("digits", "adm", "clean"), inception=golden_inception, device="cpu"
    )
    assert adm.weights == clean.weights == golden_inception
    assert digits.protocol_record()["weights"]["official"]
    with pytest.raises(UsageError, match="none of the protocols digits, pil has the Inception"):
        load_extractions(("digits", "pil"), inception=golden_inception, device="cpu")


def test_the_command_shows_one_table_and_writes_a_file_for_each_result(folders: Path) -> None:
    fid = ("fid", folders / "samples", "--device", "cpu", "--no-cache", "--protocol", "digits")
    both = (*fid, "--protocol", "encoder", folders / "reference")
    run = run_command(*both, "--json", folders / "result.json", "--report", folders / "report.html")
    assert run.returncode == 0, run.stderr
    heading, columns, *_ = (line.split() for line in run.stdout.splitlines() if line.strip())
    assert " ".join(heading) == "samples, FID-40"
    assert columns == ["metric", "digits,", "reference", "encoder,", "reference"]
    assert "sFID against encoder, reference: absent, because" in " ".join(run.stdout.split())
    results = {name: Result.load(folders / f"result.{name}.json") for name in ("digits", "encoder")}
    assert [result.protocol["name"] for result in results.values()] == list(results)
    assert not (folders / "result.json").exists()
    report = (folders / "report.html").read_text("utf-8")
    assert all(result.protocol["fingerprint"] in report for result in results.values())
    assert "minus" not in run.stdout  # numbers of two protocols are not subtracted
    printed = json.loads(run_command(*both, "--json", "-").stdout)
    assert [entry["metrics"] for entry in printed] == [dict(result.metrics) for result in results.values()]
    make_reference(folders / "samples", folders / "other.npz", protocol="digits", device="cpu")
    run = run_command(*both, folders / "other.npz", "--json", folders / "many.json")
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in folders.glob("many*")) == [
        "many.digits.other.json",
        "many.digits.reference.json",
        "many.encoder.reference.json",
    ]
    assert "digits, reference minus digits, other.npz: FID" in " ".join(run.stdout.split())
    assert_one_sentence(run_command(*both, "--protocol", "vgg"))


@pytest.mark.parametrize("protocol", [5, ["digits", None], {"digits"}])
def test_what_is_no_name_of_a_protocol_is_refused(protocol: Any) -> None:
    with pytest.raises(UsageError, match="expected the name of a protocol, or several"):
        Evaluator("digits", protocol=protocol, device="cpu")
