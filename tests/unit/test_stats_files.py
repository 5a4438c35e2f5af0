"""Statistics that add up: parts give the whole, and the whole less a part gives the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dit_eval.cli import main
from dit_eval.errors import StatisticsError
from dit_eval.evaluation.pipeline import evaluate, make_reference
from dit_eval.evaluation.stats_files import StatsFile, merge, read_stats, subtract
from dit_eval.io.assets import folder
from tests.tiny_encoders import add_tiny_protocols

CUTS = {"a": slice(0, 700), "b": slice(700, 1000), "c": slice(1000, None), "whole": slice(None)}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """References of parts of the digits, and of all of them."""
    place = tmp_path_factory.mktemp("parts")
    with np.load(folder("reference_stats") / "digits.npz") as digits:
        images = digits["arr_0"]
    for name, cut in CUTS.items():
        np.savez(place / f"{name}-images.npz", images[cut])
        make_reference(place / f"{name}-images.npz", place / f"{name}.npz", protocol="digits", device="cpu")
    return place


def assert_equal(found: StatsFile, expected: StatsFile) -> None:
    assert found.n == expected.n
    for kind in ("pool", "spatial"):
        ours, theirs = getattr(found, kind), getattr(expected, kind)
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=1e-8, atol=1e-10)


def test_parts_merge_to_the_statistics_of_the_whole(parts: Path, tmp_path: Path) -> None:
    merge([parts / f"{name}.npz" for name in "abc"], tmp_path / "sum.npz")
    assert_equal(read_stats(tmp_path / "sum.npz"), read_stats(parts / "whole.npz"))


def test_the_whole_less_a_part_is_the_rest(parts: Path, tmp_path: Path) -> None:
    subtract(parts / "whole.npz", parts / "c.npz", tmp_path / "rest.npz")
    merge([parts / "a.npz", parts / "b.npz"], tmp_path / "ab.npz")
    assert_equal(read_stats(tmp_path / "rest.npz"), read_stats(tmp_path / "ab.npz"))


def test_more_than_there_is_cannot_be_taken_away(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="at least 2 must be left"):
        subtract(parts / "b.npz", parts / "a.npz", tmp_path / "rest.npz")
    assert not (tmp_path / "rest.npz").exists()


def test_files_that_do_not_say_their_n_do_not_add_up(parts: Path, tmp_path: Path) -> None:
    with np.load(parts / "a.npz") as stored:
        np.savez(tmp_path / "bare.npz", **{k: stored[k] for k in ("mu", "sigma", "mu_s", "sigma_s")})
    with pytest.raises(StatisticsError, match="Only files of `dit-eval ref make`"):
        merge([parts / "a.npz", tmp_path / "bare.npz"], tmp_path / "sum.npz")


def test_the_command_merges_and_shows(parts: Path, tmp_path: Path) -> None:
    files = [str(parts / f"{name}.npz") for name in "ab"]
    merged = CliRunner().invoke(main, ["stats", "merge", *files, "--out", str(tmp_path / "ab.npz")])
    shown = CliRunner().invoke(main, ["stats", "show", str(tmp_path / "ab.npz")])
    assert merged.exit_code == shown.exit_code == 0
    assert merged.output == shown.output
    assert "1,000 images, 64 pool and 128 spatial features, protocol digits" in shown.output


def test_an_encoder_has_no_spatial_features_to_add(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tiny_protocols(monkeypatch, tmp_path, encoder="dinov2")
    for name, cut in {"a": slice(0, 30), "b": slice(30, 50), "whole": slice(0, 50)}.items():
        with np.load(parts / "whole-images.npz") as images:
            np.savez(tmp_path / "images.npz", images["arr_0"][cut])
        arguments = ["--protocol", "encoder", "--device", "cpu", "--out", str(tmp_path / f"{name}.npz")]
        made = CliRunner().invoke(main, ["ref", "make", str(tmp_path / "images.npz"), *arguments])
        assert made.exit_code == 0, made.output
    files = [str(tmp_path / f"{name}.npz") for name in "ab"]
    merged = CliRunner().invoke(main, ["stats", "merge", *files, "--out", str(tmp_path / "sum.npz")])
    assert ": 50 images, 96 pool features, protocol encoder" in merged.output
    assert CliRunner().invoke(main, ["stats", "show", str(tmp_path / "sum.npz")]).output == merged.output
    expected, found = read_stats(tmp_path / "whole.npz"), read_stats(tmp_path / "sum.npz")
    assert found.spatial is None
    with np.load(tmp_path / "sum.npz") as arrays:
        assert sorted(arrays) == ["mu", "provenance", "sigma"]
    np.testing.assert_allclose(found.pool.mean, expected.pool.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.pool.covariance, expected.pool.covariance, rtol=1e-5, atol=1e-6)
    subtract(tmp_path / "sum.npz", tmp_path / "b.npz", tmp_path / "rest.npz")
    assert read_stats(tmp_path / "rest.npz").n == 30
    with pytest.raises(StatisticsError, match=r"96 pool features and .* 64 pool and 128 spatial features"):
        merge([tmp_path / "a.npz", parts / "a.npz"], tmp_path / "mixed.npz")
    result = evaluate(tmp_path / "images.npz", tmp_path / "sum.npz", device="cpu")
    assert result is not None
    assert result.metrics.keys() == {"fid"}
    assert result.missing["sfid"] == "the network of this protocol has no spatial features"
