"""Case C: the evaluator's whole run on two files of images, from Python and under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dit_eval.evaluation.pipeline import evaluate, make_reference
from dit_eval.features.extractor import FeatureExtractor, Features
from dit_eval.features.protocols import PROTOCOLS
from dit_eval.io.batches import open_images
from dit_eval.io.npz import write_npz
from dit_eval.results.result import Result
from tests.conftest import golden_script
from tests.shared import shared


def expected(case: str) -> dict[str, Any]:
    return json.loads(shared("golden", "expected.json").read_text())[case]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for the module: the same 600 images are measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIT_EVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def files() -> tuple[Path, Path]:
    return shared("golden", "caseC_samples_64.npz"), shared("golden", "caseC_ref_64.npz")


@pytest.fixture(scope="module")
def result(files: tuple[Path, Path], golden_inception: Path) -> Result:
    found = evaluate(*files, inception=golden_inception)
    assert found is not None
    return found


def assert_golden(metrics: Any, case: dict[str, Any], n: int) -> None:
    evaluator, exact = case["adm_evaluator"], case["exact_float64"]
    for name in ("fid", "sfid"):
        assert metrics[name] == pytest.approx(evaluator[name], rel=5e-6)
        assert metrics[name] == pytest.approx(exact[name], rel=5e-6)
    assert metrics["inception_score"] == pytest.approx(evaluator["inception_score"], rel=1e-6)
    for suffix, kind in (("", "pr_f32"), ("", "pr_f64"), ("_float16", "pr_f16_f32acc")):
        for name in ("precision", "recall"):
            assert abs(metrics[name + suffix] - case[kind][name]) <= 1 / n + 1e-9, (name, kind)


def test_the_five_numbers_are_those_of_the_evaluators_main(result: Result) -> None:
    assert_golden(result.metrics, expected("case_C"), 300)
    assert result.reference["statistics"] == "computed"


def test_activations_are_those_of_the_evaluators_main(golden_inception: Path, files: Any) -> None:
    head = np.load(shared("golden", "caseC_acts_head.npz"))
    extractor = FeatureExtractor(PROTOCOLS["adm"], golden_inception, torch.device("cpu"))
    for side, path in zip(("samples", "ref"), files, strict=True):
        features = extractor(next(open_images(path).blocks(16)))
        for name in ("pool", "spatial"):
            (key,) = (k for k in head.files if side in k and name in k and "mean" not in k)
            error = np.linalg.norm(getattr(features, name) - head[key]) / np.linalg.norm(head[key])
            assert error <= 2e-5, (side, name)


def test_stored_statistics_serve_fid_and_sfid_and_images_the_rest(
    golden_inception: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    features = golden_script("make_features")
    pool, spatial = features.pool(2600, "ref"), features.spatial(2600, "ref")
    reference = tmp_path / "ref.npz"
    with np.load(files[1]) as images:
        write_npz(
            reference,
            {
                "arr_0": images["arr_0"],
                "mu": pool.astype(np.float64).mean(0),
                "sigma": np.cov(pool, rowvar=False),
                "mu_s": spatial.astype(np.float64).mean(0),
                "sigma_s": np.cov(spatial, rowvar=False),
            },
        )
    result = evaluate(files[0], reference, inception=golden_inception)
    assert result is not None
    assert_golden(result.metrics, expected("case_C2_precomputed_ref"), 300)
    assert result.reference["statistics"] == "stored"
    assert "stored" in result.measured_against["fid"]
    assert "300" in result.measured_against["precision"]


def test_a_reference_that_we_make_gives_the_numbers_of_its_images(
    golden_inception: Path, files: tuple[Path, Path], result: Result, tmp_path: Path
) -> None:
    made = make_reference(files[1], tmp_path / "made.npz", inception=golden_inception)
    with np.load(made) as stored:
        assert set(stored.files) == {"mu", "sigma", "mu_s", "sigma_s", "arr_0", "provenance"}
    again = evaluate(files[0], made, inception=golden_inception)
    assert again is not None
    assert again.samples["cached"]
    assert again.reference["statistics"] == "stored"
    for name, value in result.metrics.items():
        assert again.metrics[name] == pytest.approx(value, rel=1e-6), name


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
        blocks = list(extractor.stream(open_images(files[0]), batch_size, 0, 20))
    finally:
        torch.set_num_threads(before)
    apart = Features(*(np.concatenate(part) for part in zip(*blocks, strict=True)))
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
