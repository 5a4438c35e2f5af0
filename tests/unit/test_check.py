"""`check`: what is refused, what is worse, and the output formats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from dit_eval.cli import main
from dit_eval.errors import ResultError, UsageError
from dit_eval.results.check import check, update_baseline
from dit_eval.results.check_formats import render
from dit_eval.results.check_settings import Amount
from dit_eval.results.comparability import differences, result_fingerprint
from dit_eval.results.metric_comparison import MetricComparison
from dit_eval.results.result import Result, read_result

N = 2000
PLAN = {
    "model": "DiT-XL/2",
    "weights": "e" * 64,
    "decoder": "ema " + "f" * 64,
    "rounding": "⌊127.5 x + 128⌋ in 0 … 255",
    "image_size": 256,
    "num": N,
    "seed": 0,
    "labels": "uniform",
    "sampler": "ddpm",
    "steps": "250",
    "eta": 0.0,
    "cfg": 1.5,
    "cfg_channels": "3",
    "cfg_interval": None,
    "batch_size": 32,
    "precision": "fp32",
    "compile": False,
    "device": "cpu",
}
PROTOCOL = {
    "name": "adm",
    "resize": "tf1-bilinear",
    "network": "inception-2015-12-05",
    "fingerprint": "0123456789ab",
    "weights": {"file": "w.pth", "sha256": "a" * 64, "official": True},
}
SAMPLES = {"path": "b.npz", "n": N, "size": [256, 256], "digest": "b" * 64, "macs": 9_000_000_000}
METRICS = {"fid": 5.0, "sfid": 6.0, "inception_score": 100.0, "precision": 0.8, "recall": 0.6}
SPREAD = {"fid": 4.0, "sfid": 4.0, "inception_score": 90.0, "precision": 0.4, "recall": 0.5}


def noise(seed: int = 0) -> dict[str, np.ndarray]:
    """Influences of N images."""
    rng = np.random.default_rng(seed)
    return {name: (rng.normal(0, spread, N)).astype(np.float32) for name, spread in SPREAD.items()}


def result(metrics: dict[str, float] | None = None, /, **plan: Any) -> Result:
    """A result with the given numbers and plan."""
    errors = {name: spread / np.sqrt(N) for name, spread in SPREAD.items()}
    values = METRICS | (metrics or {})
    return Result(
        metrics=values,
        intervals={
            n: {"se": e, "low": values[n] - 2 * e, "high": values[n] + 2 * e} for n, e in errors.items()
        },
        measured_against=dict.fromkeys(METRICS, "something"),
        missing={},
        protocol=PROTOCOL,
        samples=SAMPLES | {"plan": PLAN | plan},
        reference={"path": "imagenet-256", "statistics": "stored", "statistics_sha256": "c" * 64},
        environment={"dit_eval": "0", "torch": "2", "device": "cpu", "seconds": 1.0},
    )


def written(path: Path, value: Result, influence: dict[str, np.ndarray] | None = None) -> Path:
    return replace(value, influence=influence or {}).save(path)


def verdicts(folder: Path, value: Result, baseline: Result, **options: Any) -> dict[str, str]:
    paths = written(folder / "a.json", value), written(folder / "b.json", baseline)
    return {comparison.name: comparison.verdict for comparison in check(*paths, **options).comparisons}


def fingerprint_of(value: Result) -> str:
    return result_fingerprint(value.protocol, value.samples, value.reference)


def test_without_a_tolerance_nothing_is_called_equivalent(tmp_path: Path) -> None:
    assert set(verdicts(tmp_path, result(), result()).values()) == {"undecided"}


def test_each_metric_is_worse_in_its_own_direction(tmp_path: Path) -> None:
    worse = {"fid": 6.0, "sfid": 7.0, "inception_score": 80.0, "precision": 0.7, "recall": 0.5}
    assert set(verdicts(tmp_path, result(worse), result()).values()) == {"worse"}
    assert set(verdicts(tmp_path, result(), result(worse)).values()) == {"better"}


def test_a_difference_within_its_interval_or_its_tolerance_is_undecided(tmp_path: Path) -> None:
    assert verdicts(tmp_path, result({"fid": 5.1}), result())["fid"] == "undecided"
    worse = result({"fid": 5.8})
    assert verdicts(tmp_path, worse, result())["fid"] == "worse"
    for allowed in ("0.8", "16%"):
        tolerances = {"fid": Amount.parse(allowed)}
        assert verdicts(tmp_path, worse, result(), tolerances=tolerances)["fid"] == "undecided"


def test_pairs_see_what_two_separate_intervals_cannot(tmp_path: Path) -> None:
    slightly_worse, shared_noise = result({"fid": 5.1}, weights="other"), noise()
    assert verdicts(tmp_path, slightly_worse, result())["fid"] == "undecided"
    slightly_other = shared_noise | {"fid": shared_noise["fid"] * np.float32(1.1)}
    a = written(tmp_path / "a.json", slightly_worse, slightly_other)
    b = written(tmp_path / "b.json", result(), shared_noise)
    (fid, *_) = check(a, b).comparisons
    assert fid.paired
    assert fid.verdict == "worse"
    other_seed = written(tmp_path / "c.json", result(seed=1), noise(1))
    assert not any(comparison.paired for comparison in check(other_seed, b).comparisons)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"protocol": PROTOCOL | {"name": "clean", "resize": "clean-fid-bicubic"}}, "resize"),
        ({"protocol": PROTOCOL | {"weights": {"sha256": "0", "official": False}}}, "weights"),
        ({"samples": SAMPLES | {"plan": PLAN, "n": 10_000}}, "number of images"),
        ({"samples": SAMPLES | {"plan": PLAN, "size": [512, 512]}}, "size of the images"),
        ({"samples": SAMPLES | {"plan": PLAN | {"cfg_channels": "all"}}}, "guided channels"),
        ({"samples": SAMPLES | {"plan": PLAN | {"cfg": 4.0}}}, "guidance scale"),
        ({"samples": SAMPLES | {"plan": PLAN | {"decoder": "mse " + "f" * 64}}}, "decoder"),
        ({"samples": SAMPLES | {"plan": PLAN | {"rounding": "⌊127.5 (x + 1)⌋ in 0 … 255"}}}, "rounding"),
        ({"samples": SAMPLES | {"plan": PLAN | {"labels": "balanced"}}}, "labels"),
        ({"reference": {"path": "imagenet-256", "statistics_sha256": "0"}}, "statistics of the reference"),
    ],
    ids=["resize", "network", "10K", "size", "channels", "cfg", "VAE", "rounding", "labels", "reference"],
)
def test_what_does_not_measure_the_same_is_refused_by_name_and_has_another_fingerprint(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    other = replace(result(), **change)
    with pytest.raises(ResultError, match=f"do not measure the same thing: .*{field} "):
        verdicts(tmp_path, other, result())
    found = check(tmp_path / "a.json", tmp_path / "b.json", force=True)
    assert any("by force" in warning for warning in found.warnings)
    assert fingerprint_of(other) != fingerprint_of(result())


def test_the_subject_of_a_comparison_may_differ() -> None:
    subject = {"steps": "8", "sampler": "ddim", "weights": "0", "precision": "bf16", "device": "cuda"}
    assert differences(result(None, **subject), result()) == []
    bare = replace(result(), samples={k: v for k, v in result().samples.items() if k != "plan"})
    assert any("not recorded here" in difference for difference in differences(bare, result()))


def test_a_result_from_before_rounding_was_recorded_is_not_taken_for_one_of_the_same_rounding() -> None:
    plan = {key: value for key, value in PLAN.items() if key != "rounding"}
    older = replace(result(), samples=SAMPLES | {"plan": plan})
    (difference,) = differences(result(), older)
    assert difference == "rounding (not recorded there, ⌊127.5 x + 128⌋ in 0 … 255 here)"


def test_a_sorted_file_is_worse(tmp_path: Path) -> None:
    """62 instead of 298 has been seen; ADM's score is part of the check, and of nothing else a sort moves."""
    found = verdicts(tmp_path, result({"inception_score": 62.0}), result({"inception_score": 298.0}))
    assert found["inception_score"] == "worse"
    assert found["fid"] == "undecided"


def test_a_published_row_stands_for_50_000_images_of_its_size(tmp_path: Path) -> None:
    row = {"fid": 2.27, "sfid": 4.60, "inception_score": 278.24, "precision": 0.83, "recall": 0.57}
    path = written(tmp_path / "a.json", result(row))
    with pytest.raises(ResultError, match=r"number of images \(50000 there, 2000 here\)"):
        check(path, published="dit-xl-2-g-1.50")
    many = result(row)
    path = written(tmp_path / "a.json", replace(many, samples=dict(many.samples) | {"n": 50_000}))
    found = check(path, published="dit-xl-2-g-1.50")
    assert {comparison.verdict for comparison in found.comparisons} == {"undecided"}
    with pytest.raises(UsageError, match="unknown published row 'dit-xl-3'"):
        check(path, published="dit-xl-3")


def test_a_metric_that_vanished_is_an_error_and_no_pass(tmp_path: Path) -> None:
    bare = replace(result(), intervals={k: v for k, v in result().intervals.items() if k != "recall"})
    with pytest.raises(ResultError, match="has no interval for recall"):
        verdicts(tmp_path, bare, result())


def test_a_new_baseline_takes_its_images_along(tmp_path: Path) -> None:
    source = written(tmp_path / "a.json", result(), noise())
    update_baseline(source, tmp_path / "new.json")
    assert all(comparison.paired for comparison in check(source, tmp_path / "new.json").comparisons)


def test_a_worse_result_becomes_the_baseline_only_when_told_twice(tmp_path: Path) -> None:
    baseline = written(tmp_path / "baseline.json", result())
    worse = written(tmp_path / "worse.json", result({"fid": 9.0}))
    before = baseline.read_bytes()
    with pytest.raises(ResultError, match=r"fails the check .*\(fid\), which is kept.* --update twice"):
        update_baseline(worse, baseline)
    other = written(tmp_path / "other.json", result(cfg=1.25))
    with pytest.raises(ResultError, match="do not measure the same thing"):
        update_baseline(other, baseline)
    assert baseline.read_bytes() == before
    update_baseline(worse, baseline, replace_better=True)
    assert read_result(baseline).metrics["fid"] == 9.0


def test_pairing_data_that_is_missing_is_a_warning_in_every_format(tmp_path: Path) -> None:
    """A result that fails in pairs must not pass in silence because its pairing data got lost."""
    worse = result({"fid": 5.1})
    with_pairs = written(tmp_path / "a.json", worse, noise()), written(tmp_path / "b.json", result(), noise())
    assert not check(*with_pairs).passed
    without = check(written(tmp_path / "c.json", worse), with_pairs[1])
    assert without.passed
    (warning,) = without.warnings
    assert "c.json without per-image data" in warning
    assert "WARNING:" in render(without, "text")
    assert "**Warning:** " in render(without, "markdown")
    assert "::warning " in render(without, "github")


def test_an_interval_within_the_tolerance_is_equivalent(tmp_path: Path) -> None:
    paths = written(tmp_path / "a.json", result(), noise()), written(tmp_path / "b.json", result(), noise())
    found = check(*paths, tolerances={"fid": Amount.parse("1%")})
    assert {c.name: c.verdict for c in found.comparisons} == {
        **dict.fromkeys(METRICS, "undecided"),
        "fid": "equivalent",
    }
    assert "equivalent: fid; undecided: sfid" in render(found, "text")


def test_the_detectable_loss_is_the_one_seen_with_80_percent_power() -> None:
    comparison = MetricComparison(
        name="fid", value=5.0, baseline=5.0, error=0.1, half_width=0.2, tolerance=0.3, paired=False
    )
    losses = comparison.detectable + 0.1 * np.random.default_rng(0).standard_normal(100_000)
    seen = [replace(comparison, value=5.0 + loss).verdict == "worse" for loss in losses]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.005)


def test_power_that_is_required_and_not_reached_fails(tmp_path: Path) -> None:
    paths = written(tmp_path / "a.json", result()), written(tmp_path / "b.json", result())
    detectable = check(*paths).comparisons[0].detectable
    assert check(*paths, require_power={"fid": Amount(detectable + 1e-6)}).passed
    found = check(*paths, require_power={"fid": Amount.parse("2%")})
    assert not found.passed
    assert f"detectable fid is {detectable:.4g}, above the limit of 0.1." in render(found, "github")


def test_nan_and_infinity_are_no_numbers_of_a_result(tmp_path: Path) -> None:
    good = written(tmp_path / "good.json", result())
    for value in ("NaN", "Infinity", "1e999"):
        bad = tmp_path / "bad.json"
        bad.write_text(good.read_text().replace('"fid": 5.0', f'"fid": {value}'))
        for paths in ((bad, good), (good, bad)):
            with pytest.raises(ResultError, match=r"bad.json: .* must be finite"):
                check(*paths)


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "inf", "5%%"])
def test_a_tolerance_is_a_number_or_a_share(text: str) -> None:
    with pytest.raises(UsageError, match="neither a number like"):
        Amount.parse(text)


def drawn(result: Result, images_per_second: float, device: str = "H200") -> Result:
    """The same result, of samples that came at this speed."""
    speed = {"device": device, "images": 10 * images_per_second, "seconds": 10.0}
    return replace(result, samples=dict(result.samples) | {"speed": speed})


def test_a_slower_result_breaks_the_limit_of_speed_and_nothing_else(tmp_path: Path) -> None:
    a, b = (written(tmp_path / f"{v}.json", drawn(result(), v)) for v in (8.0, 10.0))
    assert check(a, b).passed
    assert check(a, b, min_speed=0.8).passed
    found = check(a, b, min_speed=0.85)
    assert not found.passed
    assert {comparison.verdict for comparison in found.comparisons} == {"undecided"}
    (limit,) = found.limits
    assert (limit.name, limit.value, limit.bound) == ("images/s", 8.0, pytest.approx(8.5))
    assert "images/s is 8, below the limit of 8.5." in render(found, "github")
    assert "≥ 8.5" in render(found, "text")
    assert check(b, a, min_speed=1.2).passed


@pytest.mark.parametrize(
    ("value", "baseline", "words"),
    [
        (drawn(result(), 8), result(), r"a.json \(H200\) and .*b.json \(no speed\)"),
        (result(), drawn(result(), 8), r"a.json \(no speed\) and .*b.json \(H200\)"),
        (drawn(result(), 8, "A100"), drawn(result(), 8), r"a.json \(A100\) and .*b.json \(H200\)"),
    ],
    ids=["baseline without", "result without", "devices"],
)
def test_speeds_that_are_unknown_or_of_two_devices_are_refused_by_name(
    tmp_path: Path, value: Result, baseline: Result, words: str
) -> None:
    a, b = written(tmp_path / "a.json", value), written(tmp_path / "b.json", baseline)
    assert check(a, b).passed
    with pytest.raises(ResultError, match=words):
        check(a, b, min_speed=0.1, force=True)


def test_a_published_row_has_no_speed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a published row has none"):
        check(written(tmp_path / "a.json", result()), published="dit-xl-2-g-1.50", min_speed=0.5)


def test_speed_changes_no_fingerprint() -> None:
    fast, slow = (drawn(result(), speed) for speed in (100.0, 1.0))
    assert differences(slow, fast) == []
    assert fingerprint_of(fast) == fingerprint_of(slow)


def test_junit_is_xml_with_a_failure_for_each_metric_that_is_worse(tmp_path: Path) -> None:
    a = written(tmp_path / "a.json", result({"fid": 9.0}))
    found = check(a, written(tmp_path / "b<&>.json", result()), max_gflops=5)
    (suite,) = ElementTree.fromstring(render(found, "junit").encode())
    assert suite.tag == "testsuite"
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("6", "2", "0")
    failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failed == ["fid", "gflops"]
    assert "b<&>.json" in (suite.findtext("system-out") or "")


def test_annotations_are_single_lines_that_a_runner_parses(tmp_path: Path) -> None:
    a = written(tmp_path / "a.json", result({"fid": 9.0}))
    lines = render(check(a, written(tmp_path / "b.json", result())), "github").splitlines()
    assert [line.split("::")[1].split(" ")[0] for line in lines] == ["error", "warning", "notice"]
    assert "FID went from 5.0000 to 9.0000" in lines[0]


def test_text_fits_80_columns_with_numbers_of_three_digits_unpaired(tmp_path: Path) -> None:
    large = {"fid": 123.4567, "sfid": 609.8359, "inception_score": 278.2412}
    a, b = written(tmp_path / "a.json", result(large)), written(tmp_path / "b.json", result())
    rows = render(check(a, b), "text").splitlines()
    assert max(len(row) for row in rows if str(tmp_path) not in row) <= 80
    assert [row.split()[-1] for row in rows if "609.8359" in row] == ["worse"]
    assert any(row.startswith("† Not paired") for row in rows)


def test_a_number_that_rounds_to_zero_has_no_sign(tmp_path: Path) -> None:
    a = written(tmp_path / "a.json", result({"fid": -1e-7}))
    b = written(tmp_path / "b.json", result({"fid": -2e-9}))
    for style in ("text", "markdown"):
        assert "-0.0000" not in render(check(a, b), style)


def test_markdown_has_a_row_for_each_metric_of_as_many_cells_as_its_head(tmp_path: Path) -> None:
    a = written(tmp_path / "a.json", result())
    rows = [line for line in render(check(a, a), "markdown").splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 5
    assert {row.count("|") for row in rows} == {9}


def test_the_command_exits_0_1_or_2_and_reads_pyproject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    written(tmp_path / "b.json", drawn(result(), 10))
    written(tmp_path / "a.json", drawn(result({"fid": 5.8}), 9))
    run = CliRunner().invoke
    assert run(main, ["check", "b.json", "--baseline", "b.json"]).exit_code == 0
    assert run(main, ["check", "a.json", "--baseline", "b.json", "--format", "github"]).exit_code == 1
    assert "| FID | 5.8000 | 5.0000 |" in (tmp_path / "summary.md").read_text("utf-8")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.dit-eval.check]\nbaseline = "b.json"\ntolerance = { fid = "20%" }\n'
    )
    assert run(main, ["check", "a.json"]).exit_code == 0
    assert run(main, ["check", "a.json", "--tolerance", "fid=0.1"]).exit_code == 1
    assert run(main, ["check", "a.json", "--max-gflops", "8"]).exit_code == 1
    assert run(main, ["check", "a.json", "--min-speed", "0.8"]).exit_code == 0
    assert run(main, ["check", "a.json", "--min-speed", "0.95"]).exit_code == 1
    with (tmp_path / "pyproject.toml").open("a") as stream:
        stream.write("min-speed = 0.95\n")
    assert run(main, ["check", "a.json"]).exit_code == 1
    assert run(main, ["check", "a.json", "--update"]).exit_code == 1
    assert run(main, ["check", "a.json", "--update", "--update"]).exit_code == 0
    assert json.loads((tmp_path / "b.json").read_text("utf-8"))["metrics"]["fid"] == 5.8
    (tmp_path / "pyproject.toml").write_text("[tool.dit-eval.check]\ntolerances = 1\n")
    mistake = run(main, ["check", "a.json"])
    assert isinstance(mistake.exception, UsageError)


def test_every_option_of_a_sampler_may_differ() -> None:
    from dit_eval.results.comparability import SUBJECT
    from dit_eval.sampling.samplers import SAMPLERS

    for sampler in SAMPLERS.values():
        assert sampler.options.keys() <= SUBJECT
