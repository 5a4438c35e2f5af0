"""FDr⁶ from the command line and from Python, with the digits' network in place of the six encoders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dit_eval.errors import UsageError
from dit_eval.evaluation.fd_ratios import SPACES, frechet_ratios
from dit_eval.evaluation.pipeline import evaluate, make_reference
from dit_eval.features.protocols import PROTOCOLS
from dit_eval.metrics.fd_ratio import PUBLISHED
from tests.command import assert_one_sentence
from tests.command import dit_eval as run_command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Statistics of training and validation images in six spaces, and a batch."""
    random = np.random.default_rng(0)
    for space in SPACES:
        monkeypatch.setitem(PROTOCOLS, f"fdr-{space}", replace(PROTOCOLS["digits"], name=f"fdr-{space}"))
    for name in ("train", "validation", "batch"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / f"{name}.npz", random.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8))
    for name in ("train", "validation"):
        for space in SPACES:
            out = tmp_path / name / f"fdr-{space}.npz"
            make_reference(tmp_path / f"{name}.npz", out, protocol=f"fdr-{space}", device="cpu")
    return tmp_path


def test_validation_images_against_themselves_have_the_ratio_1(folder: Path) -> None:
    found = frechet_ratios(
        folder / "validation.npz", folder / "train", validation=folder / "validation", device="cpu"
    )
    assert found is not None
    values = {space: ratio.value for space, ratio in found.ratios.items()}
    assert values == pytest.approx(dict.fromkeys(SPACES, 1.0), rel=1e-9)
    assert found.means()["FDr⁶"].value == pytest.approx(1.0, rel=1e-9)
    assert found.means()["FDr⁶"].rounding == 0


def test_published_normalisers_divide_the_distances_and_spaces_are_told_apart(folder: Path) -> None:
    out = folder / "ratios.json"
    arguments = ("fdr6", folder / "batch.npz", "--train", folder / "train", "--device", "cpu", "--json", out)
    ran = run_command(*arguments, "--trained-on", "mae", "--trained-on", "clip")
    assert ran.returncode == 0, ran.stderr
    shown = " ".join(ran.stdout.split())
    assert "mae (trained on)" in shown
    assert "held out" in shown
    written = json.loads(out.read_text("utf-8"))
    values = {space: entry["value"] for space, entry in written["spaces"].items()}
    for space, entry in written["spaces"].items():
        assert entry["value"] == pytest.approx(entry["distance"] / PUBLISHED[space].value)
        assert entry["low"] < entry["value"] < entry["high"]
    assert written["means"]["FDr⁶"]["value"] == pytest.approx(np.mean(list(values.values())))
    assert written["means"]["trained on"]["value"] == pytest.approx((values["mae"] + values["clip"]) / 2)


def test_six_spaces_are_measured_in_one_pass_with_the_numbers_of_six(folder: Path) -> None:
    done: list[int] = []
    found = frechet_ratios(
        folder / "batch.npz",
        folder / "train",
        device="cpu",
        batch_size=20,
        cache=False,
        progress=lambda _, n, total: done.append(n),
    )
    assert found is not None
    assert done == [20, 40, 60]
    for space, result in found.results.items():
        reference = folder / "train" / f"fdr-{space}.npz"
        alone = evaluate(folder / "batch.npz", reference, device="cpu", batch_size=20, cache=False)
        assert alone is not None
        assert alone.metrics["fid"] == result.metrics["fid"]
        assert (alone.influence["fid"] == result.influence["fid"]).all()


def test_statistics_of_other_programs_name_no_protocol_and_are_taken(folder: Path) -> None:
    expected = frechet_ratios(folder / "batch.npz", folder / "train", device="cpu")
    for path in (folder / "train").glob("*.npz"):
        with np.load(path) as arrays:
            statistics = {"ref_mu": arrays["mu"], "ref_sigma": arrays["sigma"]}
        np.savez(path, **statistics)
    found = frechet_ratios(folder / "batch.npz", folder / "train", device="cpu")
    assert found is not None
    assert expected is not None
    assert found.means()["FDr⁶"].value == expected.means()["FDr⁶"].value


def test_missing_statistics_and_unknown_spaces_are_one_sentence(folder: Path) -> None:
    (folder / "train" / "fdr-mae.npz").unlink()
    ran = run_command("fdr6", folder / "batch.npz", "--train", folder / "train", "--device", "cpu")
    assert_one_sentence(ran)
    assert "lacks fdr-mae.npz. Make each with `dit-eval ref make" in ran.stderr
    with pytest.raises(UsageError, match="unknown space 'vgg'"):
        frechet_ratios(folder / "batch.npz", folder / "train", trained_on=["vgg"])
