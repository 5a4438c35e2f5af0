"""The evaluator's whole run on two files of procedural images, from Python and under torchrun."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dit_eval.diagnostics.recorded.numbers import expected
from dit_eval.evaluation.pipeline import evaluate, make_reference
from dit_eval.features.extractor import FeatureExtractor, Features
from dit_eval.features.protocols import PROTOCOLS
from dit_eval.io.batches import open_images
from dit_eval.io.npz import write_npz
from dit_eval.results.result import Result
from tests.recorded import save_images

ROOT = Path(__file__).resolve().parents[2]
NUMBER = r"\d+\.\d{4}"
N = 300  # fewer than features: the covariances are rank-deficient


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for the module: the same 600 images are measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIT_EVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_pair(tmp_path_factory.mktemp("images"), N)


def save_pair(folder: Path, n: int) -> tuple[Path, Path]:
    """Samples and reference of n images each."""
    samples, reference = (folder / f"{name}.npz" for name in ("samples", "reference"))
    return save_images(samples, "samples", n, 64), save_images(reference, "reference", n, 64)


@pytest.fixture(scope="module")
def result(files: tuple[Path, Path], golden_inception: Path) -> Result:
    found = evaluate(*files, inception=golden_inception)
    assert found is not None
    return found


def assert_golden(metrics: Any, n: int, rel: float) -> None:
    """The numbers of n + n images are the evaluator's and nearly exact; precision and recall to one image."""
    numbers = expected()["evaluator_on_images"][str(n)]
    for name in ("fid", "sfid", "inception_score"):
        assert metrics[name] == pytest.approx(numbers["adm_evaluator"][name], rel=rel), name
        assert metrics[name] == pytest.approx(numbers["exact_float64"][name], rel=rel), name
    for suffix, kind in (("", "f32"), ("", "f64"), ("_float16", "f16_f32acc")):
        for name in ("precision", "recall"):
            number = numbers["precision_recall"][kind][name]
            assert abs(metrics[name + suffix] - number) <= 1 / n + 1e-9, (name, kind)


def test_the_five_numbers_are_those_of_the_evaluators_main(result: Result) -> None:
    assert_golden(result.metrics, N, rel=5e-6)
    assert result.reference["statistics"] == "computed"


def test_the_table_in_the_readme_is_that_of_this_result(result: Result) -> None:
    """Every row, with its numbers to the last printed digit but one; rich decides how long the rule is."""
    table = (ROOT / "README.md").read_text("utf-8").split("$ dit-eval fid samples.npz ref.npz\n")[1]
    printed = table.split("\n```")[0].splitlines()
    found = result.table(width=80).splitlines()[: len(printed)]
    for expected_line, line in zip(printed, found, strict=True):
        expected_numbers, numbers = re.findall(NUMBER, expected_line), re.findall(NUMBER, line)
        assert [float(x) for x in numbers] == pytest.approx([float(x) for x in expected_numbers], abs=1.1e-3)
        words, expected_words = (re.sub(f"{NUMBER}|─", "", text).split() for text in (line, expected_line))
        assert words == expected_words


@pytest.mark.simulation  # 5,120 images: minutes
def test_the_five_numbers_of_full_rank_are_those_of_the_evaluators_main(
    golden_inception: Path, tmp_path: Path
) -> None:
    result = evaluate(*save_pair(tmp_path, 2560), inception=golden_inception)
    assert result is not None
    assert_golden(result.metrics, 2560, rel=1e-6)


@pytest.fixture(scope="module")
def made(files: tuple[Path, Path], golden_inception: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference with its statistics and images, as `ref make` writes it."""
    return make_reference(files[1], tmp_path_factory.mktemp("made") / "made.npz", inception=golden_inception)


def test_a_reference_that_we_make_gives_the_numbers_of_its_images(
    golden_inception: Path, files: tuple[Path, Path], made: Path, result: Result
) -> None:
    with np.load(made) as stored:
        assert set(stored.files) == {"mu", "sigma", "mu_s", "sigma_s", "arr_0", "provenance"}
    again = evaluate(files[0], made, inception=golden_inception)
    assert again is not None
    assert again.samples["cached"]
    assert again.reference["statistics"] == "stored"
    assert_golden(again.metrics, N, rel=5e-6)
    for name, value in result.metrics.items():
        assert again.metrics[name] == pytest.approx(value, rel=1e-6), name


def test_stored_statistics_serve_fid_and_sfid_and_images_the_rest(
    golden_inception: Path, files: tuple[Path, Path], made: Path, result: Result, tmp_path: Path
) -> None:
    """As in ADM's evaluator: shown by the statistics of one set beside the images of the other."""
    with np.load(made) as stored, np.load(files[0]) as samples:
        statistics = {name: stored[name] for name in ("mu", "sigma", "mu_s", "sigma_s")}
        write_npz(tmp_path / "mixed.npz", {"arr_0": samples["arr_0"]} | statistics)
    mixed = evaluate(files[0], tmp_path / "mixed.npz", inception=golden_inception)
    assert mixed is not None
    for name in ("fid", "sfid"):
        assert mixed.metrics[name] == pytest.approx(result.metrics[name], rel=1e-9)
    assert (mixed.metrics["precision"], mixed.metrics["recall"]) == (1, 1)  # of the samples and themselves
    assert mixed.reference["statistics"] == "stored"
    assert "stored" in mixed.measured_against["fid"]
    assert str(N) in mixed.measured_against["precision"]


@pytest.fixture(scope="module")
def together(files: tuple[Path, Path], golden_inception: Path) -> Features:
    """The first 20 images at once."""
    extractor = FeatureExtractor(PROTOCOLS["adm"], golden_inception, torch.device("cpu"))
    return extractor(next(open_images(files[0]).blocks(20)))


@pytest.mark.parametrize(
    ("batch_size", "threads"), [(1, 1), (1, 2), (7, 1), (7, 2), (7, 3), (64, 1), (64, 2)]
)
def test_features_depend_neither_on_the_batch_size_nor_on_the_threads(
    files: tuple[Path, Path], golden_inception: Path, together: Features, batch_size: int, threads: int
) -> None:
    """Equal to the bit on the CPU, so FID is equal to 1e-6 and better; only probabilities may round."""
    extractor = FeatureExtractor(PROTOCOLS["adm"], golden_inception, torch.device("cpu"))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        blocks = list(extractor.stream(open_images(files[0]).blocks(batch_size, 0, 20)))
    finally:
        torch.set_num_threads(before)
    apart = Features(*(torch.cat(part).numpy() for part in zip(*blocks, strict=True)))
    assert (apart.pool == together.pool).all()
    assert (apart.spatial == together.spatial).all()
    assert np.abs(apart.probabilities - together.probabilities).max() <= 5e-6  # torch 2.15: equal; 2.11: 1e-6


def test_two_processes_give_the_numbers_of_one(
    files: tuple[Path, Path], golden_inception: Path, result: Result, tmp_path: Path
) -> None:
    """What is left is the order of float64 sums."""
    out = tmp_path / "two.json"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "dit_eval", "fid", *map(str, files), "--inception", str(golden_inception)]
    run = subprocess.run(
        [*launcher, *command, "--no-cache", "--device", "cpu", "--json", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    two = Result.from_json(out.read_text())
    assert two.environment["processes"] == 2
    assert two.metrics == pytest.approx(dict(result.metrics), rel=1e-9)
